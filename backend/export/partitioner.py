"""ZeropointPartitioner: tags exactly the nodes whose rule lowers them, and keeps a reason for every other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import final

import torch
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import Unsupported
from ..lowering.graph import STATE_KEY, op_name
from ..lowering.options import CompileOptions
from .graph_breaks import warn_of_breaks
from .matching import (
    Matching,
    group_anchors,
    is_arithmetic,
    is_leftover,
    loosen_views,
    match_program,
    operators_taken_whole,
)
from .passes.freeze_weights import freeze_weights
from .passes.hand_out_states import hand_out_states
from .preprocess import BACKEND_ID, compile_specs
from .shared_states import Buffers, Method, note_method
from .versions import warn_of_untried

_QAT = "torchao.quantization.qat."  # modules that only round, as training wants it


@final
class ZeropointPartitioner(Partitioner):
    """For `to_edge_transform_and_lower(..., partitioner=[ZeropointPartitioner(options)])`.

    reasons: after a run, the name of every operator node left outside -> why.
    """

    def __init__(self, options: CompileOptions | None = None) -> None:
        super().__init__()
        warn_of_untried("torch", "torchao")
        self.options = options or CompileOptions()
        self.reasons: dict[str, str] = {}
        self.delegation_spec = DelegationSpec(BACKEND_ID, compile_specs(self.options))
        self._weights: list[dict[str, torch.Tensor]] = []  # of the methods that are not partitioned yet, in order
        self._answer: tuple[ExportedProgram, list[torch._ops.OpOverload]] | None = None
        self._buffers = Buffers(self.options.shared_names())  # of the lowering's methods
        self._methods: list[Method] = []  # those partitioned so far
        self._has_partitioned = False

    def transform_for_pre_decomposition(self, exported_program: ExportedProgram) -> ExportedProgram:
        """Called first. Weights that an assigned checkpoint left with gradients can be taken apart afterwards.

        States that operators on the CPU read are cloned: see hand_out_states. ExecuTorch deletes what a delegate owns
        from the tables of the program that it was given: from copies, so that the caller's can be lowered once more.
        """
        refuse_unconverted(exported_program)
        own = copy.copy(exported_program)
        own._constants, own._state_dict = dict(exported_program.constants), dict(exported_program.state_dict)
        freeze_weights(own)
        return hand_out_states(own, self.options)

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[torch._ops.OpOverload], Callable[[Node], bool] | None]:
        """Operators that stay whole. Also remembers the weights: partition() is given fake ones.

        Never with a filter of nodes: for that ExecuTorch traces the graph with stand-ins whose results have other
        strides than the operators', and a view that torch.export recorded fails on them. ExecuTorch asks twice about a
        program, its own copy, before it decomposes it, and once more when it is lowered, what must not be left.
        """
        if ep.verifier.dialect == "EDGE":
            return [], None
        if self._has_partitioned:  # this is a new lowering
            self._methods, self._buffers = [], Buffers(self.options.shared_names())
            self._weights, self._has_partitioned = [], False
        if self._answer is None or self._answer[0] is not ep:
            self._buffers.add(ep)
            fake = torch._subclasses.FakeTensor
            weights = {name: tensor for name, tensor in ep.state_dict.items() if not isinstance(tensor, fake)}
            self._weights.append(weights)
            self._answer = (ep, operators_taken_whole(ep, self.options, weights))
            loosen_views(ep, self._answer[1])
        return list(self._answer[1]), None

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Tags the nodes. Raises Unsupported when a quantization op would be left without any kernel to run it."""
        refuse_unconverted(exported_program)
        self._has_partitioned = True
        states = self._mark_states(exported_program)
        matching = match_program(exported_program, self.options, self._take_weights(exported_program))
        self._answer = None
        self.reasons = {node.name: reason for node, reason in matching.reasons.items()}
        if self.options.leftover_quantization == "error":
            _refuse_leftovers(matching)
        tags: dict[str, DelegationSpec] = {}
        for index, anchors in enumerate(group_anchors(exported_program, matching)):
            tag = f"zeropoint_{index:04}"
            tags[tag] = self.delegation_spec
            for anchor in anchors:
                for node in matching.lowered[anchor].nodes:
                    node.meta["delegation_tag"] = tag
        if self.options.operators == "all":
            warn_of_breaks(matching, len(tags))
        if len(tags) == 1 and all(is_arithmetic(node) for node in matching.reasons):
            for node in matching.reasons:
                node.meta["delegation_tag"] = next(iter(tags))
        tag_constant_data(exported_program)
        _tag_states(exported_program, states)
        tagged = [node for node in exported_program.graph.nodes if "delegation_tag" in node.meta]
        outside = _outside(exported_program, matching)
        note_method(tagged, self._methods, Method(exported_program, outside, self._buffers.places))
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)

    def _take_weights(self, program: ExportedProgram) -> dict[str, torch.Tensor]:
        """Those of the method's own, which another method's may equal in name. None on the way of `to_backend`."""
        shapes = {name: tensor.shape for name, tensor in program.state_dict.items()}
        for index, weights in enumerate(self._weights):
            if all(name in shapes and tensor.shape == shapes[name] for name, tensor in weights.items()):
                return self._weights.pop(index)
        return {}

    def _mark_states(self, program: ExportedProgram) -> list[Node]:
        """Marks the buffers that this method only reads and another one writes: they are no constants."""
        signature, marked = program.graph_signature, []
        mutated = set(signature.buffers_to_mutate.values())
        for node in program.graph.find_nodes(op="placeholder"):
            name = signature.inputs_to_buffers.get(node.name)
            if name is not None and name not in mutated and self._buffers.is_written(name):
                node.meta[STATE_KEY] = ""
                marked.append(node)
        return marked


def refuse_unconverted(program: ExportedProgram) -> None:
    """Raises Unsupported for a model that was prepared for quantization-aware training and is not converted yet."""
    for node in program.graph.nodes:
        for name, kind in (node.meta.get("nn_module_stack") or {}).values():
            if _QAT in str(kind):
                raise Unsupported(
                    f"{name}: prepared for quantization-aware training, not quantized yet; convert the model first: "
                    'torchao.quantization.quantize_(model, QATConfig(base_config, step="convert"))'
                )


def _tag_states(program: ExportedProgram, read: Sequence[Node]) -> None:
    """Gives a delegate the states that it alone reads and writes. Others stay ExecuTorch's. read: those only read."""
    signature = program.graph_signature
    written = {buffer: name for name, buffer in signature.buffers_to_mutate.items()}
    nodes = {node.name: node for node in program.graph.nodes}
    for name, buffer in signature.inputs_to_buffers.items():
        if buffer not in written:
            continue
        node, result = nodes[name], nodes[written[buffer]]
        tag = result.meta.get("delegation_tag")
        users = [user for user in (*node.users, *result.users) if user.op != "output"]
        alone = all(user.meta.get("delegation_tag") == tag for user in users)
        if tag is not None and result is not node and alone and result.name not in signature.user_outputs:
            node.meta["delegation_tag"] = tag
        else:
            node.meta.pop("delegation_tag", None)
    for node in read:
        if len({user.meta.get("delegation_tag") for user in node.users}) > 1:
            node.meta.pop("delegation_tag", None)


def _outside(program: ExportedProgram, matching: Matching) -> dict[str, str]:
    """The buffers that no delegate owns, each with a node that keeps it outside, and why."""
    signature = program.graph_signature
    results = {buffer: name for name, buffer in signature.buffers_to_mutate.items()}
    nodes = {node.name: node for node in program.graph.nodes}
    outside = {}
    for name, buffer in signature.inputs_to_buffers.items():
        node = nodes[name]
        if "delegation_tag" in node.meta or not (node.users or buffer in results):
            continue
        result = nodes.get(results.get(buffer, ""), node)
        near = [item for item in (result, *node.users, *result.users) if item.op == "call_function"]
        stays = next((item for item in near if item in matching.reasons), None)
        why = "its users lie in several delegates, or a method returns it" if stays is None else matching.reasons[stays]
        breaks = result if stays is None else stays
        outside[buffer] = f"node {breaks.name} ({op_name(breaks)}): {why}"
    return outside


def _refuse_leftovers(matching: Matching) -> None:
    for node, reason in matching.reasons.items():
        if is_leftover(node):
            raise Unsupported(
                f"{node.name}: {op_name(node)} stays outside the delegate ({reason}) and ExecuTorch has no kernel "
                "for it; call zeropoint.decompose_unsupported(exported_program, options) before lowering, or set "
                "CompileOptions(leftover_quantization='keep') when another partitioner follows"
            )
