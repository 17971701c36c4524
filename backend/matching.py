"""Which nodes the rules take, into which groups they fall, and why the others stay. Nothing is packed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .errors import Unsupported
from .options import CompileOptions
from .rules import Lowered, Lowering, find_rule
from .rules.graph import op_name, operator_of

QUANTIZATION_NAMESPACES = ("torchao", "quantized_decomposed")
_CARRIERS = ("getitem", "aten.view.default", "aten.permute.default", "aten.unsqueeze.default", "aten.t.default")


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
        rule = find_rule(node)
        if rule is None:
            continue
        try:
            lowered[node] = rule(node, Lowering(program, options, weights or {}))
        except Unsupported as error:
            refused[node] = str(error)
    _drop_leaking(lowered, refused)
    return Matching(lowered, _reasons(program, lowered, refused))


def is_leftover(node: Node) -> bool:
    """Whether a node left on the CPU is a quantization op that ExecuTorch has no out variant of, so cannot run."""
    target = operator_of(node)
    if target is None or target.namespace not in QUANTIZATION_NAMESPACES:
        return False
    return not any("out" in overload for overload in target.overloadpacket.overloads())


def group_anchors(program: ExportedProgram, matching: Matching) -> list[list[Node]]:
    """Partitions of anchors, each free of cycles with the rest: sharers of nodes, of an input, and neighbours."""
    groups = _shared(matching)
    rank = {node: index for index, node in enumerate(program.graph.nodes)}
    home: dict[Node, int] = {}
    members: dict[int, set[Node]] = {}
    for index, anchors in enumerate(groups):
        members[index] = {node for anchor in anchors for node in matching.lowered[anchor].nodes}
        home.update(dict.fromkeys(members[index], index))
    constant = _constant_inputs(program)
    for second in range(len(groups)):
        for first in range(second):
            if not groups[first] or not groups[second]:
                continue
            if _related(members[first], members[second], constant, matching) and not _cycle(
                members[first], members[second], rank
            ):
                members[second] |= members.pop(first)
                groups[second] = groups[first] + groups[second]
                groups[first] = []
    return sorted((sorted(group, key=rank.__getitem__) for group in groups if group), key=lambda g: rank[g[0]])


def _drop_leaking(lowered: dict[Node, Lowered], refused: dict[Node, str]) -> None:
    """Refuses anchors whose inner nodes someone outside still needs; repeats, as each refusal makes new outsiders."""
    changed = True
    while changed:
        changed = False
        taken = {node for item in lowered.values() for node in item.nodes}
        for anchor in list(lowered):
            for node in lowered[anchor].nodes:
                outside = [user for user in node.users if user not in taken]
                if node is not anchor and outside:
                    refused[anchor] = f"{node.name} also feeds {outside[0].name}, which stays outside"
                    del lowered[anchor]
                    changed = True
                    break


def _reasons(program: ExportedProgram, lowered: Mapping[Node, Lowered], refused: Mapping[Node, str]) -> dict[Node, str]:
    taken = {node for item in lowered.values() for node in item.nodes}
    reasons: dict[Node, str] = {}
    blamed = dict(refused)  # a quantization node stays because of the linear that it serves
    for node in reversed(list(program.graph.nodes)):
        if node.op != "call_function" or node in taken:
            continue
        reasons[node] = refused.get(node) or f"no rule for {op_name(node)}"
        served = next((user for user in node.users if user in blamed), None)
        if node not in refused and served is not None and (is_leftover(node) or op_name(node) in _CARRIERS):
            blamed[node] = blamed[served] if served not in refused else f"part of {served.name}: {refused[served]}"
            if is_leftover(node) or op_name(node) == "getitem":
                reasons[node] = blamed[node]
    return dict(reversed(reasons.items()))


def _shared(matching: Matching) -> list[list[Node]]:
    """Anchors joined when they consume a common node, in graph order."""
    parent = {anchor: anchor for anchor in matching.lowered}

    def find(anchor: Node) -> Node:
        while parent[anchor] is not anchor:
            anchor = parent[anchor]
        return anchor

    for anchors in matching.taken().values():
        for anchor in anchors[1:]:
            parent[find(anchor)] = find(anchors[0])
    groups: dict[Node, list[Node]] = {}
    for anchor in matching.lowered:
        groups.setdefault(find(anchor), []).append(anchor)
    return list(groups.values())


def _constant_inputs(program: ExportedProgram) -> set[Node]:
    user_inputs = set(program.graph_signature.user_inputs)
    return {
        n for n in program.graph.nodes if n.op == "get_attr" or (n.op == "placeholder" and n.name not in user_inputs)
    }


def _external(members: set[Node], constant: set[Node]) -> set[Node]:
    found = {source for node in members for source in node.all_input_nodes if source not in members}
    return {node for node in found - constant if isinstance(node.meta.get("val"), torch.Tensor)}


def _related(first: set[Node], second: set[Node], constant: set[Node], matching: Matching) -> bool:
    """Whether two groups share an activation, or one feeds the other whole tensors."""
    inputs_first, inputs_second = _external(first, constant), _external(second, constant)
    feeds = (inputs_second & first) | (inputs_first & second)
    if any(matching.lowered[node].pieces > 1 for node in feeds if node in matching.lowered):
        return False
    return bool(feeds or inputs_first & inputs_second)


def _cycle(first: set[Node], second: set[Node], rank: Mapping[Node, int]) -> bool:
    """Whether a path leaves one group and enters the other through a node of neither."""
    return _reaches(first, second, rank) or _reaches(second, first, rank)


def _reaches(source: set[Node], target: set[Node], rank: Mapping[Node, int]) -> bool:
    last = max(rank[node] for node in target)
    queue = [user for node in source for user in node.users if user not in source and user not in target]
    seen = set(queue)
    while queue:
        for user in queue.pop().users:
            if user in target:
                return True
            if user not in seen and user not in source and rank[user] <= last:
                seen.add(user)
                queue.append(user)
    return False
