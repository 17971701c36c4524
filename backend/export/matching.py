"""Which nodes the rules take, into which groups they fall, and why the others stay. Nothing is packed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..errors import Unsupported
from ..lowering.aten import RESHAPES, TRANSPOSES
from ..lowering.graph import find_constant, is_size, op_name, operator_of
from ..lowering.options import CompileOptions
from ..rules import Lowered, Lowering, has_rule, lower_node, operators_kept_whole

QUANTIZATION_NAMESPACES = ("torchao", "quantized_decomposed")
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_ATTENTION_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_FORMATS = (torch.channels_last, torch.channels_last_3d)
_SIZE = torch.ops.aten.sym_size.int
_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default
_CARRIERS = ("getitem", *sorted(RESHAPES | TRANSPOSES), "aten.unsqueeze.default")


@dataclass(frozen=True, slots=True)
class Matching:
    """lowered: anchor node -> what its rule did, in graph order. reasons: every other operator node -> why it stays."""

    lowered: Mapping[Node, Lowered]
    reasons: Mapping[Node, str]

    def taken(self) -> dict[Node, list[Node]]:
        """Every consumed node -> the anchors that consume it."""
        taken: dict[Node, list[Node]] = {}
        for anchor, lowered in self.lowered.items():
            for node in lowered.nodes:
                taken.setdefault(node, []).append(anchor)
        return taken


def match_program(
    program: ExportedProgram, options: CompileOptions, weights: Mapping[str, torch.Tensor] | None = None
) -> Matching:
    """Tries the rule of every node. weights: see Lowering."""
    lowered: dict[Node, Lowered] = {}
    refused: dict[Node, str] = {}
    for node in program.graph.nodes:
        if not has_rule(node, options):
            continue
        try:
            lowered[node] = lower_node(node, Lowering(program, options, weights or {}))
        except Unsupported as error:
            refused[node] = str(error)
    _drop_unfit(program, lowered, refused)
    return Matching(lowered, _reasons(program, lowered, refused))


def operators_taken_whole(
    program: ExportedProgram, options: CompileOptions, weights: Mapping[str, torch.Tensor]
) -> list[torch._ops.OpOverload]:
    """Of the operators that rules want whole, those of which every node of a functional ATen program is taken.

    ExecuTorch keeps all nodes of an operator or none, and has no CPU kernel for most of them. So one node that would
    stay outside gives its operator up to decomposition, whose pieces rules take too.
    """
    wanted = operators_kept_whole(options)
    if not any(node.target in wanted for node in program.graph.nodes):
        return wanted
    taken = match_program(program, options, weights).taken()
    lost = {node.target for node in program.graph.nodes if node.target in wanted and node not in taken}
    kept = [operator for operator in wanted if operator not in lost]
    # A trace that decomposes the kernel behind an attention that is kept gives it other strides than the trace before.
    # What no trace decomposes is kept, so that ExecuTorch does not make one for it.
    return [*kept, *((_ATTENTION_KERNEL,) if _ATTENTION in kept else ()), _SIZE]


def loosen_views(program: ExportedProgram, kept: Sequence[torch._ops.OpOverload]) -> None:
    """Lets the next trace of a functional program choose between a view and a copy wherever a view was recorded.

    Only for attention that will be decomposed, in place: PyTorch's decomposition gives its result other strides than
    the operator had, and of several batch entries no view of the joined heads.
    """
    given_up = _ATTENTION not in kept and any(node.target is _ATTENTION for node in program.graph.nodes)
    for node in program.graph.nodes if given_up else ():
        node.target = _RESHAPE if node.target is _VIEW else node.target


def is_leftover(node: Node) -> bool:
    """Whether a node left on the CPU is a quantization op that ExecuTorch has no out variant of, so cannot run."""
    target = operator_of(node)
    if target is None or target.namespace not in QUANTIZATION_NAMESPACES:
        return False
    return not any("out" in overload for overload in target.overloadpacket.overloads())


def is_arithmetic(node: Node) -> bool:
    """Whether a node computes a size or asserts something: no operator that runs on a device."""
    return is_size(node) and op_name(node) != "aten._local_scalar_dense.default"


def group_anchors(program: ExportedProgram, matching: Matching) -> list[list[Node]]:
    """Partitions of anchors, free of cycles with the rest and as few as the levels of the graph.

    The level of an anchor is the largest number of times that a path to it leaves the delegates for an operator outside
    and comes back. Anchors that share a node are on the higher level of theirs; what lies in pieces too large to
    be joined is read on the next level only.
    """
    taken = matching.taken()
    level: dict[Node, int] = {}
    after: set[Node] = set()  # outside, and downstream of a delegate
    unit = _shared(matching)
    members: dict[Node, list[Node]] = {}
    for anchor, first in unit.items():
        members.setdefault(first, []).append(anchor)
    changed = True
    while changed:  # a unit that a later node raised raises what follows it
        changed = False
        for node in program.graph.nodes:
            found = max((level[i] + _crosses(i, node, taken, after, matching) for i in node.all_input_nodes), default=0)
            if node in taken:
                for anchor in members[unit[taken[node][0]]]:
                    for item in matching.lowered[anchor].nodes:
                        changed = changed or (item in level and level[item] < found)
                        level[item] = max(level.get(item, 0), found)
                assert found <= len(matching.lowered), f"{node.name}: its operands depend on each other"
                continue
            level[node] = found
            if any(i in after or i in taken for i in node.all_input_nodes):
                after.add(node)
    groups: dict[int, list[Node]] = {}
    for anchor in matching.lowered:
        groups.setdefault(level[anchor], []).append(anchor)
    return [groups[index] for index in sorted(groups)]


def _crosses(source: Node, node: Node, taken: Mapping[Node, list[Node]], after: set[Node], matching: Matching) -> bool:
    if node not in taken:
        return False
    if source in taken:
        return source in matching.lowered and matching.lowered[source].apart
    return source in after and not is_arithmetic(source)


def _drop_unfit(program: ExportedProgram, lowered: dict[Node, Lowered], refused: dict[Node, str]) -> None:
    """Refuses anchors that what stays outside does not let be; repeats, as each refusal makes new outsiders."""
    reordered, changed = _reordered(program), True
    while changed:
        changed = False
        taken = {node for item in lowered.values() for node in item.nodes}
        for anchor, item in list(lowered.items()):
            reason = _leak(anchor, item, lowered, taken) or _foreign_order(program, item, taken, reordered)
            if reason is not None:
                refused[anchor] = reason
                del lowered[anchor]
                changed = True


def _leak(anchor: Node, item: Lowered, lowered: Mapping[Node, Lowered], taken: set[Node]) -> str | None:
    """Why an anchor cannot consume its inner nodes: someone outside still needs one, or what it needs is there."""
    source = anchor.args[0] if op_name(anchor) == "getitem" else None
    if isinstance(source, Node) and source not in taken:
        return f"{source.name}, whose result it is, stays outside"
    for node in item.needs:
        if node not in taken:
            return f"{node.name}, which would do it, stays outside"
    for node in item.nodes:
        outside = [user for user in node.users if user not in taken]
        if node is not anchor and node not in lowered and outside:
            return f"{node.name} also feeds {outside[0].name}, which stays outside"
    return None


def _foreign_order(program: ExportedProgram, item: Lowered, taken: set[Node], reordered: set[Node]) -> str | None:
    """Why an anchor cannot exchange its tensors with the outside: a delegate reads and writes the default order."""
    for node in item.nodes:
        if node in reordered and any(user not in taken for user in node.users):
            return f"{node.name} is handed out with strides {_strides(node)}; offered the default dimension order"
        for source in node.all_input_nodes:
            if source in reordered and source not in taken and find_constant(program, source, {}) is None:
                return f"its input {source.name} has strides {_strides(source)}; offered the default dimension order"
    return None


def _reordered(program: ExportedProgram) -> set[Node]:
    """Values that ExecuTorch lays out in another order of dimensions: channels last, or an input so exported.

    In an ATen graph, those that are made so and what is computed from them: strides of views say nothing there, for the
    edge dialect makes copies of views.
    """
    found: set[Node] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        if not any(statically_known_true(outer < inner) for outer, inner in pairwise(value.stride())):
            continue
        made = node.op == "placeholder" or node.kwargs.get("memory_format") in _FORMATS
        follows = not _is_view(node) and any(source in found for source in node.all_input_nodes)
        if program.verifier.dialect == "EDGE" or made or follows:
            found.add(node)
    return found


def _is_view(node: Node) -> bool:
    operator = operator_of(node)
    return operator is not None and any(result.alias_info is not None for result in operator._schema.returns)


def _strides(node: Node) -> tuple[int | torch.SymInt, ...]:
    return tuple(node.meta["val"].stride())


def _reasons(program: ExportedProgram, lowered: Mapping[Node, Lowered], refused: Mapping[Node, str]) -> dict[Node, str]:
    taken = {node for item in lowered.values() for node in item.nodes}
    reasons: dict[Node, str] = {}
    blamed = dict(refused)  # a quantization node stays because of the linear that it serves
    for node in reversed(list(program.graph.nodes)):
        if node.op != "call_function":
            continue
        served = next((user for user in node.users if user in blamed), None)
        carries = op_name(node) in _CARRIERS or (node in lowered and not lowered[node].kernels)
        if node not in refused and served is not None and (is_leftover(node) or carries):
            blamed[node] = blamed[served] if served not in refused else f"part of {served.name}: {refused[served]}"
        if node in taken:
            continue
        own = blamed if is_leftover(node) or op_name(node) == "getitem" else refused
        reasons[node] = own.get(node) or f"no rule for {op_name(node)}"
    return dict(reversed(reasons.items()))


def _shared(matching: Matching) -> dict[Node, Node]:
    """For every anchor the first anchor of those that it is joined with by consuming a common node."""
    parent = {anchor: anchor for anchor in matching.lowered}

    def find(anchor: Node) -> Node:
        while parent[anchor] is not anchor:
            anchor = parent[anchor]
        return anchor

    for anchors in matching.taken().values():
        for anchor in anchors[1:]:
            parent[find(anchor)] = find(anchors[0])
    return {anchor: find(anchor) for anchor in matching.lowered}
