"""Rewrites the quantization ops that no rule takes into aten ops that ExecuTorch's CPU kernels run.

ExecuTorch has no kernels for torchao's and most of quantized_decomposed's ops; a graph that keeps one outside the
delegate cannot become a .pte. The rewriting is PyTorch's own implementation of each op, traced in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from ...errors import Unsupported
from ...lowering.graph import operator_of
from ...lowering.options import CompileOptions
from ...rules.linear.weight import is_dequantize
from ..matching import is_leftover, match_program
from .freeze_weights import freeze_weights

_NAMESPACE = "zeropoint_decompose"
_Operator = torch._ops.OpOverload


def decompose_unsupported(program: ExportedProgram, options: CompileOptions | None = None) -> ExportedProgram:
    """Returns a program in which exactly the quantization ops that the rules refuse are aten ops.

    program: what torch.export returned; its graph is not modified. options: the ones given to the partitioner. A
    linear whose activation is refused is still delegated, as a weight-only linear of the activation computed outside.
    """
    chosen = options or CompileOptions()
    freeze_weights(program)
    functional = program.run_decompositions({})
    functional = _rewrite(functional, chosen, lambda node: not is_dequantize_of_constant(node))
    return _rewrite(functional, chosen, lambda node: True)


def is_dequantize_of_constant(node: Node) -> bool:
    """Whether a node dequantizes a weight."""
    source = node.args[0] if node.args else None
    return is_dequantize(node) and isinstance(source, Node) and source.op in ("placeholder", "get_attr")


def _rewrite(program: ExportedProgram, options: CompileOptions, wanted: Callable[[Node], bool]) -> ExportedProgram:
    """Decomposes the leftovers of one matching that are wanted."""
    reasons = match_program(program, options).reasons
    nodes = [node for node in reasons if is_leftover(node) and wanted(node)]
    if not nodes:
        return program
    table: dict[_Operator, Callable[..., object]] = {}
    originals = {node: node.target for node in nodes}
    try:
        for node in nodes:
            operator = operator_of(node)
            assert operator is not None
            alias = _alias(operator)
            table[alias] = partial(_implementation, operator)
            node.target = alias
        decomposed: ExportedProgram = program.run_decompositions(table)
        return decomposed
    finally:
        for node, target in originals.items():
            node.target = target


def _implementation(operator: _Operator, *args: object, **kwargs: object) -> object:
    return operator._op_dk(_composite_key(operator), *args, **kwargs)


def _composite_key(operator: _Operator) -> torch._C.DispatchKey:
    for key in (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.CompositeExplicitAutograd):
        if operator.has_kernel_for_dispatch_key(key):
            return key
    raise Unsupported(f"decompose_unsupported: {operator}: it is not made of other operators; offered none")


def _alias(operator: _Operator) -> _Operator:
    """A stand-in with the same schema, so that a decomposition table can name some calls of an operator and not all."""
    name = f"{operator.namespace}_{operator._schema.name.split('::')[1]}_{operator._overloadname}"
    if not hasattr(getattr(torch.ops, _NAMESPACE), name):
        schema = str(operator._schema).split("::", 1)[1]
        arguments = schema[schema.index("(") :]
        torch.library.define(f"{_NAMESPACE}::{name}", arguments)
        implementation = partial(_implementation, operator)
        torch.library.impl(f"{_NAMESPACE}::{name}", "CompositeExplicitAutograd", implementation)
    alias: _Operator = getattr(getattr(torch.ops, _NAMESPACE), name).default
    return alias
