"""Element-wise operators of one or two operands, with broadcasting, numbers and PyTorch's type promotion."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import BinaryOp, UnaryOp
from ..kernels.dtypes import DType
from ..lowering.graph import arguments, node_argument, op_name, tensor_of
from ..lowering.lowering import Lowered, Lowering
from ..lowering.values import cast, element, emit, is_number, is_tensor, number_of, operand, temporary, whole
from ..lowering.view import ZERO, View, is_dense
from . import comparisons
from .comparisons import OF_BOOLS, base_name, emit_compare

_UNARY = {
    "neg": UnaryOp.NEG,
    "abs": UnaryOp.ABS,
    "relu": UnaryOp.RELU,
    "sigmoid": UnaryOp.SIGMOID,
    "tanh": UnaryOp.TANH,
    "silu": UnaryOp.SILU,
    "exp": UnaryOp.EXP,
    "expm1": UnaryOp.EXPM1,
    "log": UnaryOp.LOG,
    "log1p": UnaryOp.LOG1P,
    "sqrt": UnaryOp.SQRT,
    "rsqrt": UnaryOp.RSQRT,
    "sin": UnaryOp.SIN,
    "cos": UnaryOp.COS,
    "erf": UnaryOp.ERF,
    "floor": UnaryOp.FLOOR,
    "ceil": UnaryOp.CEIL,
    "round": UnaryOp.ROUND,
    "trunc": UnaryOp.TRUNC,
    "square": UnaryOp.SQUARE,
}
_ROUNDINGS = ("floor", "ceil", "round", "trunc")
_BINARY = {
    "add": BinaryOp.ADD,
    "sub": BinaryOp.SUB,
    "rsub": BinaryOp.SUB,
    "mul": BinaryOp.MUL,
    "div": BinaryOp.DIV,
    "minimum": BinaryOp.MINIMUM,
    "maximum": BinaryOp.MAXIMUM,
    "pow": BinaryOp.POW,
    "remainder": BinaryOp.REMAINDER,
    "floor_divide": BinaryOp.FLOOR_DIVIDE,
    "bitwise_and": BinaryOp.BITWISE_AND,
    "bitwise_or": BinaryOp.BITWISE_OR,
    "bitwise_xor": BinaryOp.BITWISE_XOR,
}
_SCALAR_RIGHT = {
    "add": UnaryOp.ADD_SCALAR,
    "sub": UnaryOp.ADD_SCALAR,
    "mul": UnaryOp.MUL_SCALAR,
    "div": UnaryOp.DIV_SCALAR,
    "rsub": UnaryOp.RSUB_SCALAR,
    "pow": UnaryOp.POW_SCALAR,
}
_SCALAR_LEFT = {
    "add": UnaryOp.ADD_SCALAR,
    "sub": UnaryOp.RSUB_SCALAR,
    "mul": UnaryOp.MUL_SCALAR,
    "div": UnaryOp.RDIV_SCALAR,
    "pow": UnaryOp.RPOW_SCALAR,
}
_FACTORS = {"add": 1.0, "sub": -1.0}  # of a number on the right, times alpha
_POWERS = {2.0: UnaryOp.SQUARE, 0.5: UnaryOp.SQRT, -0.5: UnaryOp.RSQRT}
_MAX_EXACT = 2**24  # the kernel's alpha is an f32


def lower_unary(node: Node, lowering: Lowering) -> Lowered:
    """abs, exp, sigmoid and the like; of integers as floats where torch does so."""
    values, name = arguments(node), base_name(node)
    source = node_argument(values, "self")
    if name == "neg" and tensor_of(node).dtype.is_floating_point and not _lies_still(source, lowering):
        return emit_binary(node, (source, -1.0), BinaryOp.MUL, lowering=lowering)  # saves a copy
    if tensor_of(node).dtype.is_floating_point:
        return emit_unary(node, source, _UNARY[name], lowering=lowering)
    return _lower_integer_unary(node, source, name, lowering)


def _lower_integer_unary(node: Node, source: Node, name: str, lowering: Lowering) -> Lowered:
    """neg, abs, relu and square as an operator of two integers; a rounding changes nothing."""
    if name in _ROUNDINGS:
        lowering.bind_view(node, lowering.view(source))
        return Lowered((node,), ())
    if name == "abs":
        sizes = lowering.dims(tensor_of(node).shape)
        x, zero = lowering.view(source), operand(lowering, 0, torch.int32, sizes)
        negated = _temporary_binary(node, "negated", BinaryOp.SUB, (zero, x), lowering=lowering)
        return _finish(node, BinaryOp.MAXIMUM, x, negated, lowering)
    pair, op = {
        "neg": ((0, source), BinaryOp.SUB),
        "relu": ((source, 0), BinaryOp.MAXIMUM),
        "square": ((source, source), BinaryOp.MUL),
    }[name]
    return emit_binary(node, pair, op, lowering=lowering)


def emit_unary(
    node: Node, source: Node, op: UnaryOp, alpha: float = 0.0, beta: float = 0.0, *, lowering: Lowering
) -> Lowered:
    """One elementwise_unary call in the node's floating-point dtype."""
    dtype = tensor_of(node).dtype
    assert dtype.is_floating_point, f"{node.name}: {dtype}"
    if tensor_of(source).dtype is dtype:
        x = lowering.operand(source)
    else:
        x = whole(lowering, cast(lowering, source, dtype), node.name)
    attrs = {"op": op, "alpha": alpha, "beta": beta}
    lowering.call("elementwise_unary", {"x": x, "y": lowering.new(node)}, attrs, node=node)
    return Lowered((node,), ("elementwise_unary",))


def lower_gelu(node: Node, lowering: Lowering) -> Lowered:
    """gelu, by erf or by tanh."""
    values = arguments(node)
    op = UnaryOp.GELU_TANH if values["approximate"] == "tanh" else UnaryOp.GELU
    return emit_unary(node, node_argument(values, "self"), op, lowering=lowering)


def lower_leaky_relu(node: Node, lowering: Lowering) -> Lowered:
    """leaky_relu."""
    values = arguments(node)
    slope = _finite(values["negative_slope"])
    return emit_unary(node, node_argument(values, "self"), UnaryOp.LEAKY_RELU, slope, lowering=lowering)


def lower_reciprocal(node: Node, lowering: Lowering) -> Lowered:
    """1 / x."""
    return emit_unary(node, node_argument(arguments(node), "self"), UnaryOp.RDIV_SCALAR, 1.0, lowering=lowering)


def lower_clamp(node: Node, lowering: Lowering) -> Lowered:
    """clamp, clamp_min, clamp_max, hardtanh and relu6; either limit may be missing."""
    values = arguments(node)
    source = node_argument(values, "self")
    low, high = values.get("min", values.get("min_val")), values.get("max", values.get("max_val"))
    if base_name(node) == "relu6":
        low, high = 0, 6
    low, high = (
        number_of(lowering, limit) if number_of(lowering, limit) is not None else limit for limit in (low, high)
    )
    given = [(op, limit) for op, limit in ((BinaryOp.MAXIMUM, low), (BinaryOp.MINIMUM, high)) if limit is not None]
    numbers = [element(limit, DType.F32) for _, limit in given if is_number(limit) and _is_finite(limit)]
    if len(numbers) < len(given) or not tensor_of(node).dtype.is_floating_point:
        return _clamp_by_operands(node, source, given, lowering)
    if len(given) == 2:
        return emit_unary(node, source, UnaryOp.CLAMP, numbers[0], numbers[1], lowering=lowering)
    op = UnaryOp.CLAMP_MIN if given[0][0] is BinaryOp.MAXIMUM else UnaryOp.CLAMP_MAX
    return emit_unary(node, source, op, numbers[0], lowering=lowering)


def _clamp_by_operands(node: Node, source: Node, given: list[tuple[BinaryOp, object]], lowering: Lowering) -> Lowered:
    """max(x, low), then min(., high): of integers, of tensors and of infinite limits."""
    dtype, sizes = tensor_of(node).dtype, lowering.dims(tensor_of(node).shape)
    view = operand(lowering, source, dtype, sizes)
    for op, limit in given[:-1]:
        y = temporary(lowering, f"{node.name}.raised", lowering.device_dtype(dtype), sizes)
        views = {"a": view, "b": operand(lowering, limit, dtype, sizes)}
        emit(lowering, "elementwise_binary", y, sizes, views, _op(op), node=node)
        view = lowering.dense_view(y)
    op, limit = given[-1]
    return _finish(node, op, view, operand(lowering, limit, dtype, sizes), lowering)


def lower_binary(node: Node, lowering: Lowering) -> Lowered:
    """add, sub, mul, div and the like."""
    values, name = arguments(node), base_name(node)
    left, right = values["self"], values["other"] if "other" in values else values["exponent"]
    result, op = tensor_of(node).dtype, _BINARY[name]
    if result is torch.bool:
        return emit_compare(node, (left, right), OF_BOOLS[name], torch.bool, lowering)
    mode = values.get("rounding_mode")
    if name == "floor_divide" or mode is not None:
        return _divide(node, (left, right), "floor" if mode is None else str(mode), lowering)
    if name == "pow" and number_of(lowering, right) == 2 and not result.is_floating_point:
        return emit_binary(node, (left, left), BinaryOp.MUL, lowering=lowering)
    alpha = _finite(values.get("alpha", 1))
    simple = _lower_scalar(node, (left, right), alpha, lowering=lowering)
    if simple is not None:
        return simple
    pair = (right, left) if name == "rsub" else (left, right)
    return emit_binary(node, pair, op, alpha, lowering=lowering)


def _lower_scalar(node: Node, pair: tuple[object, object], alpha: float, *, lowering: Lowering) -> Lowered | None:
    """A float tensor and a number, which stays f32 whatever the tensor is. None where two operands do better."""
    name, (left, right) = base_name(node), pair
    number, op, factor = number_of(lowering, right), _SCALAR_RIGHT.get(name), _FACTORS.get(name, 0) * alpha
    if number is None and alpha == 1:
        left, number, op, factor = right, number_of(lowering, left), _SCALAR_LEFT.get(name), 0.0
    if number is None or op is None or not is_tensor(left) or not tensor_of(node).dtype.is_floating_point:
        return None
    assert isinstance(left, Node)
    if op is UnaryOp.RSUB_SCALAR and alpha != 1:
        return None
    if op is UnaryOp.POW_SCALAR and number in _POWERS:
        return emit_unary(node, left, _POWERS[float(number)], lowering=lowering)
    number = number * factor if factor else number
    half = lowering.device_dtype(tensor_of(node).dtype) is DType.F16
    if not half and name != "pow" and not _lies_still(left, lowering):
        return None  # a constant operand saves a copy, and is as exact
    return emit_unary(node, left, op, float(number), lowering=lowering) if _is_finite(number) else None


def _lies_still(node: Node, lowering: Lowering) -> bool:
    """Whether a kernel without strides can read a value where it lies."""
    view = lowering.view(node)
    return view.offset == ZERO and is_dense(view, lowering.multiply)


def _divide(node: Node, pair: tuple[object, object], mode: str, lowering: Lowering) -> Lowered:
    """Division of integers, or of floats rounded where the quotient's own rounding cannot change the result."""
    dtype = tensor_of(node).dtype
    if mode == "floor" and dtype.is_floating_point:
        return _floor_by_power(node, pair, lowering)
    op = BinaryOp.FLOOR_DIVIDE if mode == "floor" else BinaryOp.TRUNC_DIVIDE
    if lowering.device_dtype(dtype) is not DType.F16:
        return emit_binary(node, pair, op, lowering=lowering)
    sizes = lowering.dims(tensor_of(node).shape)  # torch rounds the quotient to half first
    a, b = (operand(lowering, item, dtype, sizes) for item in pair)
    quotient = _temporary_binary(node, "quotient", BinaryOp.DIV, (a, b), lowering=lowering)
    attrs = {"op": UnaryOp.TRUNC, "alpha": 0.0, "beta": 0.0}
    lowering.call("elementwise_unary", {"x": quotient.tensor, "y": lowering.new(node)}, attrs, node=node)
    return Lowered((node,), ("elementwise_binary", "elementwise_unary"))


def _floor_by_power(node: Node, pair: tuple[object, object], lowering: Lowering) -> Lowered:
    """floor(a / 2^n), of an infinite a NaN as in torch, which goes by the remainder: floor(a * 2^-n) - (a - a)."""
    dtype, divisor = tensor_of(node).dtype, number_of(lowering, pair[1])
    if divisor is None or abs(math.frexp(divisor)[0]) != 0.5 or not _is_finite(1 / divisor):
        raise Unsupported(f"{op_name(node)} of floats, rounded down, by {pair[1]}; offered powers of two, and integers")
    sizes = lowering.dims(tensor_of(node).shape)
    a, factor = (operand(lowering, item, dtype, sizes) for item in (pair[0], 1 / divisor))
    quotient = _temporary_binary(node, "quotient", BinaryOp.MUL, (a, factor), lowering=lowering)
    rounded = temporary(lowering, f"{node.name}.rounded", lowering.device_dtype(dtype), sizes)
    attrs = {"op": UnaryOp.FLOOR, "alpha": 0.0, "beta": 0.0}
    lowering.call("elementwise_unary", {"x": quotient.tensor, "y": rounded}, attrs, node=node)
    nothing = _temporary_binary(node, "nothing", BinaryOp.SUB, (a, a), lowering=lowering)
    _finish(node, BinaryOp.SUB, lowering.dense_view(rounded), nothing, lowering)
    return Lowered((node,), ("elementwise_binary", "elementwise_unary"))


def _temporary_binary(node: Node, name: str, op: BinaryOp, pair: tuple[View, View], *, lowering: Lowering) -> View:
    """One elementwise_binary call into a tensor that no node stands for."""
    sizes = lowering.dims(tensor_of(node).shape)
    y = temporary(lowering, f"{node.name}.{name}", lowering.device_dtype(tensor_of(node).dtype), sizes)
    emit(lowering, "elementwise_binary", y, sizes, dict(zip("ab", pair, strict=True)), _op(op), node=node)
    return lowering.dense_view(y)


def emit_binary(
    node: Node, pair: tuple[object, object], op: BinaryOp, alpha: float = 1.0, *, lowering: Lowering
) -> Lowered:
    """One elementwise_binary call in the node's dtype."""
    dtype = tensor_of(node).dtype
    if op in (BinaryOp.DIV, BinaryOp.POW) and not dtype.is_floating_point:
        raise Unsupported(f"{op_name(node)} of integers; offered floating point")
    if op is BinaryOp.REMAINDER and dtype.is_floating_point:
        raise Unsupported(f"{op_name(node)} of floats; offered integers")
    if not dtype.is_floating_point and (alpha != int(alpha) or abs(alpha) > _MAX_EXACT):
        raise Unsupported(f"alpha {alpha} of integers; need an integer of at most {_MAX_EXACT}")
    sizes = lowering.dims(tensor_of(node).shape)
    a, b = (operand(lowering, item, dtype, sizes) for item in pair)
    return _finish(node, op, a, b, lowering, alpha)


def _finish(node: Node, op: BinaryOp, a: View, b: View, lowering: Lowering, alpha: float = 1.0) -> Lowered:
    sizes, y = lowering.dims(tensor_of(node).shape), lowering.new(node)
    emit(lowering, "elementwise_binary", y, sizes, {"a": a, "b": b}, _op(op, alpha), node=node)
    return Lowered((node,), ("elementwise_binary",))


def _op(op: BinaryOp, alpha: float = 1.0) -> dict[str, int | float]:
    return {"op": op, "alpha": alpha}


def _is_finite(value: object) -> bool:
    """Whether an argument is a number that an f32 holds."""
    return isinstance(value, (bool, int, float)) and abs(value) <= torch.finfo(torch.float32).max


def _finite(value: object) -> float:
    if not _is_finite(value):
        raise Unsupported(f"scalar {value!r}; need a finite number")
    assert isinstance(value, (bool, int, float))
    return float(value)


def _rules() -> dict[str, Callable[[Node, Lowering], Lowered]]:
    rules: dict[str, Callable[[Node, Lowering], Lowered]] = {}
    rules |= {f"aten.{name}.default": lower_unary for name in _UNARY}
    for name in _BINARY:
        kinds = ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode", "Tensor_Scalar", "Tensor_Tensor", "default")
        rules |= {f"aten.{name}.{kind}": lower_binary for kind in kinds}
    for name in ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"):
        rules |= {f"aten.{name}.{kind}": lower_clamp for kind in ("default", "Tensor")}
    rules |= {f"aten.__{name}__.{kind}": lower_binary for name in ("and", "or", "xor") for kind in ("Tensor", "Scalar")}
    return rules


WHOLE = (torch.ops.aten.silu.default, torch.ops.aten.gelu.default)
RULES: dict[str, Callable[[Node, Lowering], Lowered]] = {
    **_rules(),
    **comparisons.RULES,
    "aten.gelu.default": lower_gelu,
    "aten.leaky_relu.default": lower_leaky_relu,
    "aten.reciprocal.default": lower_reciprocal,
}
