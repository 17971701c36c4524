"""What makes tracing a model of torchao's weights quick and small.

Shape rules for its quantization ops: tracing then asks one question per op instead of running its body.

torchao registers these ops by their implementation, about fifteen aten ops each, and every pass of an export runs it
again on fake tensors with symbolic sizes; for a language model that is most of the export's time. The rules go when
torchao has its own. Rejected: `register_fake`, which refuses ops that are made of others.

And no copies of the weights: torch.export keeps two of each until it is done, which nothing writes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torchao.quantization import IntxUnpackedToInt8Tensor

from ..quantization.exact_weights import ExactIntxTensor

_KEY = "CompositeImplicitAutograd"
_active: list[bool] = []  # not empty inside quick_shapes(): what is traced elsewhere must see torchao's bodies


@contextmanager
def quick_shapes() -> Iterator[None]:
    """Inside, fake tensors go through the rules and real tensors through torchao. Not for several threads at once."""
    library = torch.library.Library("torchao", "IMPL")  # type: ignore[no-untyped-call]
    _active.append(True)
    try:
        for name, rule in _RULES.items():
            kernel = _either(rule, _implementation(name))
            library.impl(name, kernel, _KEY, allow_override=True)  # type: ignore[no-untyped-call]
        yield
    finally:
        _active.pop()
        library._destroy()  # type: ignore[no-untyped-call]


def _implementation(name: str) -> Callable[..., object]:
    """torchao's own body, which it also gives to the compiler as a decomposition."""
    from torch._inductor.decomposition import decompositions

    body: Callable[..., object] = decompositions[getattr(torch.ops.torchao, name).default]
    return body


def _either(rule: Callable[..., object], real: Callable[..., object]) -> Callable[..., object]:
    def kernel(x: torch.Tensor, *args: object, **kwargs: object) -> object:
        is_question = isinstance(x, FakeTensor) and get_proxy_mode() is None  # not a trace of the body
        return (rule if _active and is_question else real)(x, *args, **kwargs)

    return kernel


@ExactIntxTensor.implements(torch.ops.aten.clone.default)  # type: ignore[untyped-decorator]
@IntxUnpackedToInt8Tensor.implements(torch.ops.aten.clone.default)  # type: ignore[untyped-decorator]
def _clone(
    func: Callable[..., torch.Tensor], types: object, args: tuple[Any, ...], kwargs: dict[str, object]
) -> IntxUnpackedToInt8Tensor:
    weight: IntxUnpackedToInt8Tensor = args[0]
    shared = bool(_active) and not isinstance(weight.qdata, FakeTensor)
    copied: IntxUnpackedToInt8Tensor = weight._apply_fn_to_data(lambda x: x if shared else func(x, *args[1:], **kwargs))
    return copied


def _choose_qparams(
    x: torch.Tensor,
    mapping_type: str,
    block_size: Sequence[int],
    target_dtype: torch.dtype,
    quant_min: float | None = None,
    quant_max: float | None = None,
    eps: float | None = None,
    scale_dtype: torch.dtype | None = None,
    zero_point_dtype: torch.dtype | None = None,
    keepdim: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair a block; without keepdim, the dimensions that one block covers are gone."""
    shape = []
    for size, block in zip(x.shape, block_size, strict=True):
        if block == 1:
            shape.append(size)
        elif keepdim or block != size:
            shape.append(size // block)
    if all(block == 1 for block in block_size):  # torch.amin over no dimension is over all of them
        shape = [1] * x.dim() if keepdim else []
    scale = x.new_empty(shape, dtype=scale_dtype or x.dtype)
    default = torch.int32 if mapping_type == "ASYMMETRIC" else x.dtype
    return scale, x.new_empty(shape, dtype=zero_point_dtype or default)


def _quantize(
    x: torch.Tensor,
    block_size: Sequence[int],
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    output_dtype: torch.dtype,
    quant_min: float | None = None,
    quant_max: float | None = None,
) -> torch.Tensor:
    return x.new_empty(x.shape, dtype=output_dtype)


def _dequantize(
    x: torch.Tensor,
    block_size: Sequence[int],
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    input_dtype: torch.dtype,
    quant_min: float | None = None,
    quant_max: float | None = None,
    output_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    return x.new_empty(x.shape, dtype=output_dtype)


_RULES: dict[str, Callable[..., object]] = {
    "choose_qparams_affine": _choose_qparams,
    "quantize_affine": _quantize,
    "dequantize_affine": _dequantize,
}
