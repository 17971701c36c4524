"""Products of float matrices: mm, bmm, addmm, baddbmm, matmul and linear with float weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..errors import Unsupported
from ..kernels._generated.signatures import BinaryOp, UnaryOp
from ..lowering.aten import STILL, TRANSPOSES
from ..lowering.graph import Constant, arguments, node_argument, op_name, operator_of, tensor_of
from ..lowering.lowering import Lowered, Lowering, NotApplicable
from ..lowering.shapes import insert, narrow, permute
from ..lowering.tables import column_bytes, row_pieces, table_rows
from ..lowering.values import broadcast, cast, check_dtype, dense, emit, operand, temporary, whole
from ..lowering.view import ONE, ZERO, View, collapse
from ..lowering.view_changes import axes_of
from ..program import Dim

_BATCHES = 2
_QUANTIZED = ("torchao", "quantized_decomposed")
_NAMES = {
    "aten.linear.default": ("input", "weight", "bias"),
    "aten.mm.default": ("self", "mat2", None),
    "aten.bmm.default": ("self", "mat2", None),
    "aten.matmul.default": ("self", "other", None),
    "aten.mv.default": ("self", "vec", None),
    "aten.addmm.default": ("mat1", "mat2", "self"),
    "aten.baddbmm.default": ("batch1", "batch2", "self"),
}


@dataclass(frozen=True, slots=True)
class _Product:
    """alpha * left @ right + beta * addend; of a linear, right is [n, k]."""

    node: Node
    left: Node
    right: Node
    addend: Node | None
    alpha: float
    beta: float

    @property
    def dtype(self) -> torch.dtype:
        return tensor_of(self.node).dtype

    @property
    def transposed(self) -> bool:
        return op_name(self.node) == "aten.linear.default"

    def is_bias(self) -> bool:
        """Whether the addend is one row, which the kernel adds itself."""
        if self.addend is None or (self.alpha, self.beta) != (1, 1):
            return False
        shape, wanted = tensor_of(self.addend).shape, tensor_of(self.node).shape
        return bool(shape) and shape[-1] == wanted[-1] and all(size == 1 for size in shape[:-1])


def lower_matmul(node: Node, lowering: Lowering) -> Lowered:
    """One product; in pieces of columns where a constant weight or the result is larger than a binding."""
    product = _read(node)
    check_dtype("matmul", lowering.device_dtype(product.dtype), node)
    pieces = _columns(product, lowering)
    if pieces is not None:
        return pieces
    a, b = _operands(product, lowering)
    plain = product.addend is None and product.alpha == 1
    bias = _bias_row(product, lowering) if product.is_bias() else None
    if plain or bias is not None:
        emit_product(node, a, b, bias, lowering.new(node), lowering)
        return Lowered((node,), ("matmul",))
    sizes = lowering.dims(tensor_of(node).shape)
    y = temporary(lowering, f"{node.name}.product", lowering.device_dtype(product.dtype), sizes)
    emit_product(node, a, b, None, y, lowering)
    _add(product, y, sizes, lowering)
    return Lowered((node,), ("matmul", "elementwise_binary"))


def _read(node: Node) -> _Product:
    values, (left, right, addend) = arguments(node), _NAMES[op_name(node)]
    given = values[addend] if addend else None
    scales = [values.get(name, 1) for name in ("alpha", "beta")]
    for scale in scales:
        if not isinstance(scale, (int, float)):
            raise Unsupported(f"{op_name(node)} scaled by {scale!r}; need numbers")
    alpha, beta = (float(scale) for scale in scales if isinstance(scale, (int, float)))
    added = given if isinstance(given, Node) and beta != 0 else None
    product = _Product(node, node_argument(values, left), node_argument(values, right), added, alpha, beta)
    for operand_node in (product.left, product.right):
        _refuse_quantized(operand_node)
    return product


def _refuse_quantized(node: Node) -> None:
    """Such a product is taken whole, by the rule of quantized linears, or not at all."""
    source = node
    while op_name(source) in TRANSPOSES | STILL and isinstance(source.args[0], Node):
        source = source.args[0]
    target = operator_of(source)
    if target is not None and target.namespace in _QUANTIZED:
        raise NotApplicable(f"operand {node.name} is quantized ({op_name(source)}); offered floating point")


def _operands(product: _Product, lowering: Lowering) -> tuple[View, View]:
    """a [..., m, k] and b [..., k, n], a vector as a matrix of one row or column."""
    a, b = (cast(lowering, item, product.dtype) for item in (product.left, product.right))
    if product.transposed and len(b.sizes) == 2:
        b = permute(b, [1, 0])
    a = insert(a, 0) if len(a.sizes) == 1 else a
    return a, insert(b, 1) if len(b.sizes) == 1 else b


def emit_product(node: Node, a: View, b: View, bias: int | None, y: int, lowering: Lowering) -> None:
    """One matmul call of a [..., m, k] and b [..., k, n], whose leading dimensions broadcast."""
    a, b = _merge_rows(a, b, lowering)
    views = (a, b)
    space = _batches(*_broadcast(*views), lowering)
    if len(space) > _BATCHES:
        views = (dense(lowering, a, f"{node.name}.a"), dense(lowering, b, f"{node.name}.b"))
        space = _batches(*_broadcast(*views), lowering)
    if len(space) > _BATCHES:
        a, b = _broadcast(*views)
        views = (dense(lowering, a, f"{node.name}.a"), dense(lowering, b, f"{node.name}.b"))
        space = _batches(*views, lowering)
    a, b = views
    attrs: dict[str, int | float | Dim] = {
        "m": a.sizes[-2],
        "n": b.sizes[-1],
        "k": a.sizes[-1],
        "a_offset": a.offset,
        "a_stride_m": a.strides[-2],
        "a_stride_k": a.strides[-1],
        "b_offset": b.offset,
        "b_stride_k": b.strides[-2],
        "b_stride_n": b.strides[-1],
    }
    padded = [(ONE, ZERO, ZERO)] * (_BATCHES - len(space)) + [(part[0], part[1], part[2]) for part in space]
    for index, (size, a_stride, b_stride) in enumerate(padded):
        attrs |= {f"batch{index}": size, f"a_batch_stride{index}": a_stride, f"b_batch_stride{index}": b_stride}
    lowering.call("matmul", {"a": a.tensor, "b": b.tensor, "bias": bias, "y": y}, attrs, node=node)


def _merge_rows(a: View, b: View, lowering: Lowering) -> tuple[View, View]:
    """Rows of several matrices times one matrix are rows of one where they step evenly."""
    if len(b.sizes) != 2 or len(a.sizes) == 2:
        return a, b
    rows = collapse(a.sizes[:-1], a.strides[:-1], multiply=lowering.multiply) or [(ONE, ZERO)]
    if len(rows) > 1:
        return a, b
    ((size, stride),) = rows
    return View(a.tensor, a.offset, (size, a.sizes[-1]), (stride, a.strides[-1])), b


def _broadcast(a: View, b: View) -> tuple[View, View]:
    rank = max(len(a.sizes), len(b.sizes)) - 2
    full = [(ONE,) * (rank + 2 - len(view.sizes)) + view.sizes[:-2] for view in (a, b)]
    lead = tuple(right if left == ONE else left for left, right in zip(*full, strict=True))
    return broadcast(a, (*lead, *a.sizes[-2:])), broadcast(b, (*lead, *b.sizes[-2:]))


def _batches(a: View, b: View, lowering: Lowering) -> list[tuple[Dim, ...]]:
    return collapse(a.sizes[:-2], a.strides[:-2], b.strides[:-2], multiply=lowering.multiply)


def _bias_row(product: _Product, lowering: Lowering) -> int:
    assert product.addend is not None
    view = cast(lowering, product.addend, product.dtype)
    row = View(view.tensor, view.offset, view.sizes[-1:], view.strides[-1:])
    return whole(lowering, row, f"{product.node.name}.bias")


def _add(product: _Product, y: int, sizes: Sequence[Dim], lowering: Lowering) -> None:
    """alpha * y + beta * addend."""
    node, dtype = product.node, lowering.device_dtype(product.dtype)
    if product.alpha != 1:
        last = product.addend is None
        scaled = lowering.new(node) if last else temporary(lowering, f"{node.name}.scaled", dtype, sizes)
        attrs: dict[str, int | float | Dim] = {"op": UnaryOp.MUL_SCALAR, "alpha": product.alpha, "beta": 0.0}
        lowering.call("elementwise_unary", {"x": y, "y": scaled}, attrs, node=node)
        y = scaled
    if product.addend is not None:
        views = {"a": lowering.dense_view(y), "b": operand(lowering, product.addend, product.dtype, sizes)}
        attrs = {"op": BinaryOp.ADD, "alpha": product.beta}
        emit(lowering, "elementwise_binary", lowering.new(node), sizes, views, attrs, node=node)


def _columns(product: _Product, lowering: Lowering) -> Lowered | None:
    """The product in pieces side by side. None where one piece does."""
    found = _weight(product, lowering)
    node, dtype = product.node, lowering.device_dtype(product.dtype)
    lead = lowering.dims(tensor_of(node).shape[:-1])
    if found is None or (product.addend is not None and not product.is_bias()) or product.alpha != 1:
        return None
    weight, axis = found
    item_bytes, count = dtype.bits // 8, weight.shape[axis]
    row_bytes = max(weight.shape[1 - axis] * item_bytes, column_bytes(dtype, lead, lowering))
    ranges = row_pieces(node.name, count, row_bytes, lowering)
    if len(ranges) == 1:
        return None
    a = cast(lowering, product.left, product.dtype)
    pieces = []
    for start, stop in ranges:
        b = lowering.dense_view(table_rows(weight, dtype, (start, stop), axis, lowering))
        y = lowering.builder.tensor(f"{node.name}.y", dtype, (*lead, stop - start))
        bias = _bias_piece(product, start, stop, lowering)
        emit_product(node, a, permute(b, [1, 0]) if axis == 0 else b, bias, y, lowering)
        pieces.append(y)
    lowering.bind(node, pieces)
    return Lowered((node,), ("matmul",), lowering.is_apart(node))


def _bias_piece(product: _Product, start: int, stop: int, lowering: Lowering) -> int | None:
    if product.addend is None:
        return None
    view = cast(lowering, product.addend, product.dtype)
    row = View(view.tensor, view.offset, view.sizes[-1:], view.strides[-1:])
    part = narrow(row, 0, Dim(start), Dim(stop - start), multiply=lowering.multiply)
    return whole(lowering, part, f"{product.node.name}.bias")


def _weight(product: _Product, lowering: Lowering) -> tuple[Constant, int] | None:
    """A constant right operand of two dimensions, and which of them is n."""
    node, axis = product.right, 0 if product.transposed else 1
    while op_name(node) in TRANSPOSES and isinstance(node.args[0], Node) and tensor_of(node).dim() == 2:
        values = arguments(node)
        order = axes_of(values.get("dims", [values.get("dim0", 1), values.get("dim1", 0)]), 2)
        swaps = order[0] != order[1] if "dim0" in values else order == [1, 0]
        axis = 1 - axis if swaps else axis
        node = node.args[0]
    found = lowering.constant(node)
    return None if found is None or len(found.shape) != 2 else (found, axis)


WHOLE = (torch.ops.aten.linear.default, torch.ops.aten.matmul.default)
RULES = dict.fromkeys(_NAMES, lower_matmul)
