"""How far a kernel's result may lie from its reference: the one table, by kernel, dtype and length of a sum.

A bound is `units * 2^-24 * magnitude` and what storing the result adds. Magnitude is the sum of the sizes of the terms
that were added up, so that cancellation needs no looser table. Integers are exact, except for codes that a rounding
may put on either side of a tie.
"""

from __future__ import annotations

import math

import torch

from ..dtypes import DType
from ..program import Program
from ..references import Attrs, Tensors
from . import attention, operators, quantized, rows
from .units import ROUNDED_ONCE_UNITS, Bound, Result, stored_bound

# Kernels whose results are codes.
ROUNDING = ("quantize_and_pack", "quantize_rows", "update_cache_q8")
BOUNDS: dict[str, Bound] = {
    "arange": operators.rounded(0.0),
    "argmax_rows": operators.rounded(0.0),
    "attention": attention.attention,
    "attention_decode_partial": attention.statistics,
    "attention_decode_reduce": attention.split_reduction,
    "check_index": operators.rounded(0.0),
    "choose_qparams_per_row": quantized.parameters,
    "constant_pad": operators.rounded(0.0),
    "cumsum_rows": operators.running_sum,
    "elementwise_binary": operators.binary,
    "elementwise_compare": operators.rounded(0.0),
    "elementwise_unary": operators.unary,
    "embedding": operators.rounded(0.0),
    "embedding_q4": operators.rounded(ROUNDED_ONCE_UNITS),
    "embedding_q8": operators.rounded(ROUNDED_ONCE_UNITS),
    "gated_activation": operators.gated,
    "gather": operators.rounded(0.0),
    "layer_norm": operators.layer_norm,
    "linear_dq8ca_q4gsw": quantized.dynamic_linear,
    "linear_dq8ca_q8gsw": quantized.dynamic_linear,
    "linear_q4gsw": quantized.weight_only_linear,
    "linear_q8gsw": quantized.weight_only_linear,
    "matmul": operators.matmul,
    "quantize_and_pack": quantized.nudged,
    "quantize_rows": rows.quantized_rows,
    "reduce_rows": operators.reduction,
    "rms_norm": operators.rms_norm,
    "rotary_attention": attention.rotary_attention,
    "rotary_embedding": attention.rotary,
    "rotary_update_cache": attention.rotary_cache,
    "row_linear_q4gsw": rows.row_linear,
    "row_linear_q8gsw": rows.row_linear,
    "scatter": operators.rounded(0.0),
    "softmax_rows": operators.softmax,
    "strided_copy": operators.rounded(0.0),
    "update_cache": operators.rounded(0.0),
    "update_cache_q8": attention.quantized_cache,
    "where": operators.rounded(0.0),
}


def error_bound(
    kernel: str, slot: str, inputs: Tensors, attrs: Attrs, wanted: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Largest |device - reference| of each element, f64; 0 where they must be equal.

    inputs: what every slot of the call held before it. wanted: what the reference gives. dtype: the slot's.
    """
    own = BOUNDS[kernel](Result(kernel, slot, inputs, attrs, wanted)).double().nan_to_num(0.0, 0.0, 0.0)
    own = own.expand(wanted.shape)
    return own + stored_bound(wanted, dtype) if dtype.is_floating_point else own


def excess(actual: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """|actual - wanted| in bounds, f64: above 1 is wrong.

    Infinities and NaN must be equal; where the wanted value is beyond the largest of the dtype, that and infinity are.
    """
    error = (actual.double() - wanted.double()).abs()
    ratio = torch.where(error == 0, 0.0, error / bound)
    if not actual.dtype.is_floating_point:
        return ratio
    stored = wanted.to(actual.dtype)
    special = ~torch.isfinite(stored)
    largest = torch.isfinite(wanted) & (actual.abs() == torch.finfo(actual.dtype).max)
    largest &= actual.sign() == wanted.sign()
    same = (actual == stored) | (torch.isnan(actual) & torch.isnan(stored)) | largest
    ratio = torch.where(special, torch.where(same, 0.0, torch.inf), ratio)
    return torch.where(~special & ~torch.isfinite(actual), torch.inf, ratio)


def output_tolerance(program: Program) -> float:
    """Relative RMS error of a whole Program's results, errors of all calls added up.

    A rounding to codes that falls the other way moves everything after it by a step, which makes others fall. Measured
    on eager SmolLM2-135M, 121 quantizations deep, with noise of 2^-24 on its embeddings: 0.09 in the median of 48
    steps, 0.37 at most. 0 where nothing is rounded.
    """
    n_rounded = sum(program.calls[index].kernel in ROUNDING for index in program.plain_calls())
    dtypes = {tensor.dtype for tensor in program.tensors}
    if n_rounded:
        return 5e-2 * math.sqrt(n_rounded)
    if DType.F16 in dtypes:
        return 2e-2
    return 1e-3 if DType.F32 in dtypes else 0.0


__all__ = ["BOUNDS", "error_bound", "excess", "output_tolerance"]
