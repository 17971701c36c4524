"""The operators that a kernel's attribute `op` chooses from, by the numbers of its manifest's OP_ constants.

A kernel that is not listed has no such attribute. Importable without torch and without the manifests.
"""

from __future__ import annotations

from enum import IntEnum


class Prologue(IntEnum):
    """quantize_rows and row_linear: what stands between x and its quantization. row_linear has no GATED."""

    NONE = 0
    NORM = 1  # RMS norm without a weight
    WEIGHTED_NORM = 2
    GATED = 3


class UnaryOp(IntEnum):
    """elementwise_unary: y = f(x). clamp: alpha and beta are its limits; every other scalar is alpha.

    rsub, rdiv and rpow have the scalar on the left.
    """

    NEG = 0
    ABS = 1
    RELU = 2
    SIGMOID = 3
    TANH = 4
    SILU = 5
    GELU = 6
    GELU_TANH = 7
    EXP = 8
    LOG = 9
    SQRT = 10
    RSQRT = 11
    SIN = 12
    COS = 13
    ERF = 14
    FLOOR = 15
    CEIL = 16
    ROUND = 17
    TRUNC = 18
    CLAMP = 19
    CLAMP_MIN = 20
    CLAMP_MAX = 21
    ADD_SCALAR = 22
    MUL_SCALAR = 23
    DIV_SCALAR = 24
    RSUB_SCALAR = 25
    RDIV_SCALAR = 26
    POW_SCALAR = 27
    RPOW_SCALAR = 28
    SQUARE = 29
    LEAKY_RELU = 30


class BinaryOp(IntEnum):
    """elementwise_binary: y = f(a, b). add and sub take alpha * b.

    div and pow are for floats, trunc_divide for both, the others from floor_divide on for i32; the kernel gives NaN or
    0 for the rest.
    """

    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    MINIMUM = 4
    MAXIMUM = 5
    POW = 6
    FLOOR_DIVIDE = 7
    TRUNC_DIVIDE = 8
    REMAINDER = 9
    BITWISE_AND = 10
    BITWISE_OR = 11
    BITWISE_XOR = 12


class CompareOp(IntEnum):
    """elementwise_compare: With b = a, logical_nand is not and logical_or is a cast to bool."""

    EQ = 0
    NE = 1
    LT = 2
    LE = 3
    GT = 4
    GE = 5
    LOGICAL_AND = 6
    LOGICAL_OR = 7
    LOGICAL_XOR = 8
    LOGICAL_NAND = 9


class ReduceOp(IntEnum):
    """reduce_rows: mean is for floats. Of bools (u8), amax is any, amin is all, and there is no sum."""

    SUM = 0
    MEAN = 1
    AMAX = 2
    AMIN = 3


class ArgReduceOp(IntEnum):
    """argmax_rows: Index of the first largest or smallest element."""

    ARGMAX = 0
    ARGMIN = 1


class GateOp(IntEnum):
    """gated_activation: f of y = f(gate) * up."""

    SILU = 0
    GELU = 1
    GELU_TANH = 2
    RELU = 3
    SIGMOID = 4


KERNEL_OPS: dict[str, type[IntEnum]] = {
    "elementwise_unary": UnaryOp,
    "elementwise_binary": BinaryOp,
    "elementwise_compare": CompareOp,
    "reduce_rows": ReduceOp,
    "argmax_rows": ArgReduceOp,
    "gated_activation": GateOp,
    "quantize_rows": GateOp,
    "row_linear_q4gsw": GateOp,
    "row_linear_q8gsw": GateOp,
}
