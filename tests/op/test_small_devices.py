"""Devices with no more than Vulkan 1.1 demands: no 8-bit or 16-bit storage, small workgroups, no subgroup operations.

tests/vulkan_1_1.limits is the specification's table of required limits, but for the 11 storage buffers of a shader (4).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.op import attention_cases, test_attention, test_copies, test_elementwise, test_indexing, test_rows
from tests.op.blocks import Block
from tests.op.cases import Case, check, out
from tests.op.chain import Chain
from tests.op.rows import quantization_rows
from tests.op.test_fused_rows import check as check_block
from tests.op.test_quantized_linear import check as check_linear
from tests.op.values import dense_rows, normal
from zeropoint.errors import RuntimeFailure
from zeropoint.runtime.devices import devices

LIMITS = Path(__file__).parents[1] / "vulkan_1_1.limits"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROPOINT_LIMITS", str(LIMITS))
    monkeypatch.setenv("ZEROPOINT_DISABLE", "is_cpu")


@pytest.fixture(params=["", "is_cpu"], ids=["cpu", "gpu"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel has an algorithm for each."""
    monkeypatch.setenv("ZEROPOINT_DISABLE", request.param)


def test_facts_are_at_most_the_limits() -> None:
    """And no fact of which the file does not speak changes anything but the device's kind and its loops."""
    named = {line.split(" = ")[0]: int(line.split(" = ")[1]) for line in LIMITS.read_text().splitlines()}
    for device in devices():
        assert all(device.facts[name] <= most for name, most in named.items())
        rest = set(device.facts) - set(named)
        assert rest == {"subgroup_basic", "is_cpu", "vendor_id", "max_loop_iterations"}


@pytest.mark.parametrize(
    ("zp", "storage"), [*itertools.product(("i8", "i32", "f32"), ("buffer", "image")), ("f16", "buffer")]
)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("asymmetric", [False, True], ids=["sym", "asym"])
def test_linear(zp: str, storage: str, bits: int, asymmetric: bool) -> None:
    """A zero point of 8 or 16 bits is taken out of its word and put into it, by every row of a word at once."""
    chain = Chain(k=96, n=37, group_size=32, bits=bits, zp=zp, storage=storage, asymmetric=asymmetric, bias=True)
    check_linear(chain, quantization_rows(96)[:40], rows_at_once=(1, 3, 19))


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_16_bits(bits: int) -> None:
    chain = Chain(k=768, n=65, group_size=192, bits=bits, w_scale="f16", sums=False)
    check_linear(chain, quantization_rows(768)[:20], rows_at_once=(1, 19))


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("prologue", ["plain", "norm", "gated"])
@pytest.mark.parametrize("rows", [1, 7])
def test_quantized_rows(prologue: str, rows: int) -> None:
    block = Block(Chain(k=96, n=5, group_size=32, asymmetric=True), prologue)
    check_block(block, block.inputs(rows), ["quantize_rows", "linear_dq8ca"])


def test_bools_and_bytes() -> None:
    test_rows.test_reduce_integers_and_bools()
    test_elementwise.test_compare(torch.uint8)
    test_elementwise.test_compare(torch.float32)
    test_elementwise.test_where(torch.uint8)
    test_elementwise.test_where(torch.float32)
    for pad in ((1, 2), (-1, 3, 2, -1)):
        test_copies.test_constant_pad(torch.uint8, pad)
    for axis in range(3):
        test_indexing.test_gather(torch.uint8, axis)
    for dtype in (torch.int8, torch.uint8):
        test_copies.test_views(dtype)
        for other in (torch.float32, torch.int32, torch.int8, torch.uint8):
            test_copies.test_casts((dtype, other))
            test_copies.test_casts((other, dtype))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 129])
def test_bytes_beside_the_last_are_nobodys(n: int) -> None:
    """Elements that fill no word, and a copy into the middle of a word: check() looks at what is not written, too."""
    flags = (normal(n) > 0).to(torch.uint8)
    attrs = {f"size{axis}": n if axis == 3 else 1 for axis in range(4)}
    for slot, offset in (("x", 0), ("y", 3)):
        attrs |= {f"{slot}_offset": offset} | {f"{slot}_stride{axis}": int(axis == 3) for axis in range(4)}
    (y,) = check([Case("strided_copy", {"x": flags}, torch.full((n + 5,), 7, dtype=torch.uint8), attrs)])
    assert y.tolist() == [7, 7, 7, *flags.tolist(), 7, 7]


def test_scattered_bytes() -> None:
    test_indexing.test_cache_write((torch.uint8, torch.uint8))


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("cache", ["same", "i8"])
@pytest.mark.parametrize("head_dim", [64, 132])
def test_attention_with_a_mask_of_bytes(queries: int, cache: str, head_dim: int) -> None:
    case = attention_cases.Case(queries=queries, head_dim=head_dim, cache=cache, mask="u8")
    inputs = case.inputs()
    test_attention.check(case, test_attention.run_attention(case, inputs, "gpu"), inputs)


@pytest.mark.usefixtures("kind")
def test_norms() -> None:
    check([test_rows.rms_norm_case(normal(3, 1009), None, 1.0)])


def test_halves_are_refused_with_the_reason() -> None:
    """Activations of 16 bits need storage of 16 bits; the export offers f32."""
    x = normal(3, 64, dtype=torch.float16)
    with pytest.raises(RuntimeFailure, match=r"softmax_rows: .* cannot run it: shared needs storage_16bit"):
        check([Case("softmax_rows", {"x": x}, out(x.shape, x.dtype), {**dense_rows(64), "logarithm": 0})])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_fact = 1", r"^ZEROPOINT_LIMITS: no fact no_such_fact=1; facts: int8_dot, "),
        ("max_push_bytes = many", r"^ZEROPOINT_LIMITS: max_push_bytes=many; need a number$"),
        ("max_push_bytes =", r"^ZEROPOINT_LIMITS: max_push_bytes=; need a number$"),
        (None, r"^ZEROPOINT_LIMITS: .*none\.limits: No such file or directory$"),
    ],
)
def test_limits_that_say_nothing(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("none.limits" if text is None else "some.limits")
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("ZEROPOINT_LIMITS", str(path))
    with pytest.raises(RuntimeFailure, match=message):
        devices()


def test_a_limit_in_disable_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROPOINT_LIMITS")
    monkeypatch.setenv("ZEROPOINT_DISABLE", "max_workgroup_invocations=64, storage_8bit")
    assert {device.facts["max_workgroup_invocations"] for device in devices()} == {64}
    assert {device.facts["storage_8bit"] for device in devices()} == {0}
