"""Every form, weight, group size and zero point of a quantized linear: exported, lowered by the rules, run."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchao.quantization.quant_primitives import MappingType

import zeropoint
from tests.e2e.models import Activations, Linears, Weights
from tests.e2e.running import Direct, compare, export, rows_of
from tests.op.by_day import by_day

pytestmark = pytest.mark.usefixtures("validated")

F32_EPS = torch.finfo(torch.float32).eps
FORMS = (
    *(Activations(zero_point=dtype) for dtype in (torch.int8, torch.int32, torch.int64, torch.float32, torch.float16)),
    Activations(zero_point=torch.bfloat16),
    Activations(zero_point=None),
    Activations(zero_point=torch.float32, eps=F32_EPS, scale=torch.float32),
    Activations(mapping=MappingType.SYMMETRIC, zero_point=torch.int8),
    Activations(mapping=MappingType.SYMMETRIC, zero_point=None),
    Activations(form="per_token_asymmetric"),
    Activations(form="per_token"),
    Activations(form="none"),
)
KINDS = tuple(
    Weights(n=n, group_size=32, bits=bits, asymmetric=asymmetric, bias=bias)
    for n, (bits, asymmetric, bias) in zip(
        (37, 64, 5, 130, 24, 3, 33, 12), itertools.product((4, 8), (False, True), (False, True)), strict=True
    )
)
UNLIKE = KINDS[3:5]  # in bits, zero points and bias
ROWS = (1, 2, 7, 8, 9, 33, 129)


@pytest.mark.parametrize(
    ("activations", "kinds"),
    by_day(
        itertools.product(FORMS, (UNLIKE, (*KINDS[:3], *KINDS[5:]))),
        lambda _, kinds: kinds == UNLIKE,
    ),
    ids=lambda value: str(value) if isinstance(value, Activations) else None,
)
def test_every_activation_form_times_every_weight_kind(activations: Activations, kinds: tuple[Weights, ...]) -> None:
    model = Linears(96, activations, kinds)
    run = Direct(export(model, rows_of(96, 4), max_sizes={0: 200}))
    compare(run, model, [rows_of(96, n) for n in ROWS], tolerance=1e-6)


GROUPS = [
    (8, 8), (16, 16), (64, 64), (96, 96), (128, 128), (256, 256), (320, 40), (320, 160), (768, 192), (512, 512),
    (1009, 1009), (60, 12), (36, 9), (30, 30), (576, 576), (2048, 256), (2048, 2048), (7, 7), (1000, 1000),
]  # fmt: skip
# A group that is one step, a row that nothing divides; a group that fills no step, one of several steps.
DAILY_GROUPS = {4: [(16, 16), (1009, 1009)], 8: [(60, 12), (768, 192)]}


@pytest.mark.parametrize(
    ("asymmetric", "k", "group_size"),
    by_day(((bits, *group) for bits in (4, 8) for group in GROUPS), lambda bits, *group: group in DAILY_GROUPS[bits]),
)
def test_every_group_size(asymmetric: int, k: int, group_size: int) -> None:
    """Of weights of as many bits as `asymmetric` says, with zero points, and of the others, without."""
    weights = tuple(Weights(n=19, group_size=group_size, bits=bits, asymmetric=bits == asymmetric) for bits in (4, 8))
    for activations in (Activations(), Activations(form="none")):
        model = Linears(k, activations, weights)
        run = Direct(export(model, rows_of(k, 4), max_sizes={0: 64}))
        compare(run, model, [rows_of(k, n) for n in (1, 9, 40)], tolerance=1e-6)


@pytest.mark.parametrize(
    ("zero_point", "group_size"),
    by_day(
        itertools.product((None, torch.int32, torch.int64, torch.float32), (24, 32)),
        lambda _, group_size: group_size == 32,  # as in KINDS: the same pipelines
    ),
)
def test_weights_of_quantized_decomposed(zero_point: torch.dtype | None, group_size: int) -> None:
    weights = tuple(
        Weights(n=21, group_size=96 if form == "per_channel" else group_size, bits=bits,
                asymmetric=zero_point is not None, form=form, zero_point=zero_point)
        for form, bits in itertools.product(("per_group", "per_channel"), (4, 8))
    )  # fmt: skip
    model = Linears(96, Activations(form="per_token_asymmetric"), weights)
    compare(Direct(export(model, rows_of(96, 5))), model, [rows_of(96, 5)], tolerance=1e-6)


@pytest.mark.parametrize(
    ("kinds", "zero_point", "compute_dtype", "float_zero_point", "storage"),
    by_day(
        itertools.product(
            (KINDS[3:4], KINDS[1:6:4]),
            (torch.int8, torch.int32, torch.float32, torch.float16),
            ("model", "f16", "f32"),
            ("model", "compute"),
            ("buffer", "image"),
        ),
        lambda kinds, zero_point, compute_dtype, float_zero_point, storage: (
            len(kinds) == 1
            and (compute_dtype == "model" or (zero_point == torch.float32 and storage == "buffer"))
            and (float_zero_point == "model" or zero_point.is_floating_point)
        ),
    ),
)
def test_zero_point_storage_and_compute_dtype(
    kinds: tuple[Weights, ...], zero_point: torch.dtype, compute_dtype: str, float_zero_point: str, storage: str
) -> None:
    options = zeropoint.CompileOptions(
        compute_dtype=compute_dtype, float_zero_point=float_zero_point, qparams_storage=storage
    )
    model = Linears(96, Activations(zero_point=zero_point), kinds)
    run = Direct(export(model, rows_of(96, 4), max_sizes={0: 64}), options)
    names = {torch.int8: "i8", torch.int32: "i32", torch.float32: "f32", torch.float16: "f16"}
    wanted = names[zero_point]
    if zero_point.is_floating_point and float_zero_point == "compute":
        wanted = "f16" if compute_dtype == "f16" else "f32"
    qparams = {t.name: (t.dtype.value, t.storage.value) for t in run.program.tensors if t.name in ("x.zp", "x.scale")}
    assert qparams == {"x.zp": (wanted, storage), "x.scale": ("f32", storage)}
    inputs = [rows_of(96, n).half().float() for n in (1, 8, 9, 50)]
    compare(run, model, inputs, tolerance=1e-3 if compute_dtype == "f16" else 1e-6)


def test_thousands_of_rows() -> None:
    model = Linears(64, Activations(), (Weights(n=5, group_size=16),))
    run = Direct(export(model, rows_of(64, 4), max_sizes={0: 40_000}))
    compare(run, model, [rows_of(64, 3000), rows_of(64, 33_000)], tolerance=1e-6)


def test_an_empty_input_is_refused() -> None:
    model = Linears(64, Activations(), (Weights(n=5, group_size=16),))
    run = Direct(export(model, rows_of(64, 4), max_sizes={0: 40}))
    with pytest.raises(zeropoint.RuntimeFailure, match=r"^input\[0\]: dimension 0 gives no s0 in \[1, 40\]"):
        run(torch.zeros(0, 64))


@pytest.mark.parametrize("activations", FORMS[:-1], ids=str)
def test_rows_that_are_constant_zero_huge_or_tiny(activations: Activations) -> None:
    x = torch.zeros(8, 64)
    x[1], x[2] = 3.5, -3.5
    x[3, 5], x[4, 5] = 1e30, -1e30
    x[5] = rows_of(64, 1)[0] * 1e-30
    x[6] = rows_of(64, 1)[0].abs()
    x[7] = -rows_of(64, 1)[0].abs()
    model = Linears(64, activations, (Weights(n=24, group_size=32),))
    run = Direct(export(model, x))
    for row, (actual, wanted) in enumerate(zip(run(x)[0], model(x)[0], strict=True)):
        limit = 3e-6 * float(wanted.abs().max())
        torch.testing.assert_close(actual, wanted, rtol=0, atol=limit, msg=lambda text, row=row: f"row {row}: {text}")
