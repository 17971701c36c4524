"""Buffers that a model mutates: when an operator may write into the state itself instead of into a copy of it."""

from __future__ import annotations

from torch.fx import Node
from torch.utils._pytree import tree_leaves

from ..program import Memory
from .graph import op_name
from .lowering import Lowering
from .view import ZERO, View, is_dense

# Operators whose result may lie in their first argument's elements. One too many costs a copy; one too few is wrong.
SHARING = frozenset(
    {
        "getitem",
        "aten._to_copy.default",
        "aten._unsafe_view.default",
        "aten.alias.default",
        "aten.chunk.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.dropout.default",
        "aten.expand.default",
        "aten.expand_as.default",
        "aten.flatten.using_ints",
        "aten.flip.default",
        "aten.index.Tensor",
        "aten.lift_fresh.default",
        "aten.narrow.default",
        "aten.numpy_T.default",
        "aten.permute.default",
        "aten.repeat.default",
        "aten.reshape.default",
        "aten.select.int",
        "aten.slice.Tensor",
        "aten.split.Tensor",
        "aten.split_with_sizes.default",
        "aten.squeeze.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.t.default",
        "aten.to.device",
        "aten.to.dtype",
        "aten.to.dtype_layout",
        "aten.to.other",
        "aten.transpose.int",
        "aten.type_as.default",
        "aten.unbind.int",
        "aten.unflatten.int",
        "aten.unsqueeze.default",
        "aten.view.default",
        "aten.view_as.default",
        "dim_order_ops._clone_dim_order.default",
        "dim_order_ops._to_dim_order_copy.default",
    }
)
_COPY = "aten.copy.default"  # copy(self, src) is src


def updatable(node: Node, source: Node, lowering: Lowering) -> View | None:
    """Where `node`, an update of `source`, may write in place: source's view, or None when it needs a copy.

    It may when source is all of a state, densely, that nothing after `node` reads, through whatever view. The caller
    then writes into the view's tensor and binds the node to the view; the write-back at the end has nothing to do.
    """
    view = lowering.view(source)
    info = lowering.builder.tensor_info(view.tensor)
    if info.memory is not Memory.STATE or view.offset != ZERO or not is_dense(view, lowering.multiply):
        return None
    if lowering.product(view.sizes) != lowering.product(info.dims):
        return None
    sharing = _sharing(source)
    if sum(isinstance(leaf, Node) and leaf in sharing for leaf in tree_leaves((node.args, node.kwargs))) > 1:
        return None  # it reads what it writes
    later = any(user > node for shared in sharing for user in shared.users)
    return None if later else view


def _sharing(source: Node) -> set[Node]:
    """The nodes whose values may lie in the elements of source's value."""
    while op_name(source) in SHARING or op_name(source) == _COPY:
        inner = source.args[1 if op_name(source) == _COPY else 0]
        assert isinstance(inner, Node), source.name
        source = inner
    found, pending = {source}, [source]
    while pending:
        shared = pending.pop()
        for user in shared.users:
            name = op_name(user)
            shares = user.args[1] is shared if name == _COPY else name in SHARING
            if shares and user not in found:
                found.add(user)
                pending.append(user)
    return found
