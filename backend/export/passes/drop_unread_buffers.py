"""Drops the writes of buffers that a method never reads.

transformers' static caches count their tokens in a buffer of each layer, which the exported method overwrites with the
position that it is given before it reads it. Nobody sees such a buffer where a program has one method.
"""

from __future__ import annotations

from executorch.exir.pass_base import ExportedProgramPassBase, ExportedProgramPassResult
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from ...lowering.graph import op_name

_COPY = "aten.copy.default"  # copy(self, src) reads nothing of self but its shape


class DropUnreadBuffers(ExportedProgramPassBase):
    """For `to_edge_transform_and_lower(..., transform_passes=[DropUnreadBuffers()])`, of a program of one method.

    Of several: in a dict, for methods whose buffers no other one reads, with [] for the rest.
    """

    def call(self, exported_program: ExportedProgram) -> ExportedProgramPassResult:
        """Changes the program in place."""
        return ExportedProgramPassResult(exported_program, modified=drop_unread_buffers(exported_program))


def drop_unread_buffers(program: ExportedProgram) -> bool:
    """Changes a functional program, ATen or edge, in place, and says whether it did."""
    signature, graph = program.graph_signature, program.graph
    inputs = {spec.arg.name: spec for spec in signature.input_specs if spec.kind is InputKind.BUFFER}
    placeholders = {inputs[n.name].target: n for n in graph.find_nodes(op="placeholder") if n.name in inputs}
    output = graph.output_node()
    (results,) = output.args
    assert isinstance(results, (tuple, list))
    kept = []
    for spec, result in zip(signature.output_specs, results, strict=True):
        unread = spec.kind is OutputKind.BUFFER_MUTATION and not _reads(placeholders[spec.target])
        if not unread:
            kept.append((spec, result))
    if len(kept) == len(results):
        return False
    output.args = (tuple(result for _, result in kept),)
    signature.output_specs[:] = [spec for spec, _ in kept]
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return True


def _reads(placeholder: Node) -> list[Node]:
    return [user for user in placeholder.users if not _overwrites(user, placeholder)]


def _overwrites(user: Node, placeholder: Node) -> bool:
    return op_name(user) == _COPY and user.args[0] is placeholder and user.args[1] is not placeholder
