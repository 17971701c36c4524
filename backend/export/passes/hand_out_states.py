"""Hands a state out by value where an operator on the CPU reads it, so that the delegate may keep the state itself.

ExecuTorch gives a delegate a mutated buffer only where nobody outside reads the buffer or its new value. A clone inside
the delegate is an ordinary output: the methods go on sharing the state on the device.
"""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from ...lowering.graph import operator_of
from ...lowering.options import CompileOptions
from ...rules import has_rule
from ..matching import match_program


def hand_out_states(program: ExportedProgram, options: CompileOptions) -> ExportedProgram:
    """The ATen program, or a functional copy of it in which operators without a rule read clones of mutated buffers.

    The whole program is matched only where such an operator reads a buffer.
    """
    buffers = program.graph_signature.inputs_to_buffers
    readers = (node for node in program.graph.nodes if _stays(node, options) and _reads_buffer(node, buffers))
    if options.operators != "all" or next(readers, None) is None:
        return program
    functional: ExportedProgram = program.run_decompositions({})
    read = _read_outside(functional.run_decompositions(), options)
    for name, sources in _states(functional).items():
        for source in sources if name in read else ():
            for user in [user for user in source.users if _stays(user, options)]:
                with functional.graph.inserting_before(user):
                    value = functional.graph.call_function(torch.ops.aten.clone.default, (source,))
                value.meta["val"] = source.meta["val"].clone()
                user.replace_input_with(source, value)
    functional.graph_module.recompile()
    return functional


def _stays(node: Node, options: CompileOptions) -> bool:
    """Whether no rule takes an operator. One that writes in place is the buffer's new value."""
    target = operator_of(node)
    return target is not None and not target._schema.is_mutable and not has_rule(node, options)


def _reads_buffer(node: Node, buffers: dict[str, str]) -> bool:
    for source in node.all_input_nodes:
        target = operator_of(source)
        if source.name in buffers or (target is not None and target._schema.is_mutable):
            return True
    return False


def _states(program: ExportedProgram) -> dict[str, tuple[Node, Node]]:
    """The mutated buffers, each with the nodes of its old and its new value."""
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}
    placeholders = {buffer: name for name, buffer in signature.inputs_to_buffers.items()}
    mutated = signature.buffers_to_mutate.items()
    return {buffer: (nodes[placeholders[buffer]], nodes[result]) for result, buffer in mutated}


def _read_outside(program: ExportedProgram, options: CompileOptions) -> set[str]:
    """The mutated buffers of a decomposed program that a delegate writes and an operator outside reads."""
    matching = match_program(program, options)
    taken = matching.taken()
    return {
        name
        for name, (old, new) in _states(program).items()
        if new in taken and any(user in matching.reasons for user in (*old.users, *new.users))
    }
