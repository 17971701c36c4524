"""Lowers a whole exported model, runs the Program with the references, and compares with the exported module.

Positions that a model reads with item() come as integers from outside, as they do when a partition is made of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from tests.unit.rules import models
from zeropoint import CompileOptions, Program, Unsupported, rules
from zeropoint.interpreter import run_reference
from zeropoint.matching import is_arithmetic
from zeropoint.preprocess import _declare_ends, _declare_input
from zeropoint.rules import Lowering, has_rule, llama_ops, lower_node, operators_kept_whole, ranges
from zeropoint.rules.graph import op_name
from zeropoint.rules.positions import ITEMS

_OWN = (llama_ops, ranges)
FAMILIES = (*_OWN, *(family for family in rules._FAMILIES if family not in _OWN))
Call = tuple[tuple[object, ...], dict[str, object]]  # as the exported module takes it


@dataclass(frozen=True, slots=True)
class Whole:
    """The Program, and the largest difference of its outputs relative to their largest value."""

    program: Program
    error: float

    def count(self, kernel: str) -> int:
        return Counter(call.kernel for call in self.program.calls)[kernel]

    def attrs(self, kernel: str) -> list[dict[str, object]]:
        """Attributes of the calls of a kernel."""
        return [{a.name: a.value for a in call.attrs} for call in self.program.calls if call.kernel == kernel]


def lower_whole(program: ExportedProgram, options: CompileOptions) -> tuple[Program, dict[str, bytes]]:
    """One Program of all nodes. Raises Unsupported when a node is not lowered."""
    lowering = Lowering(program, options)
    given = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    for node in [*given, *(node for node in program.graph.nodes if op_name(node) in ITEMS)]:
        try:
            _declare_input(node, lowering)
        except Unsupported:  # a position without a bound, which no size may depend on
            assert op_name(node) in ITEMS, node
            continue
        if node not in given:
            given.append(node)
    absorbed: set[Node] = set()
    refused: dict[Node, str] = {}
    for node in program.graph.nodes:
        if has_rule(node, options):
            try:
                absorbed.update(lower_node(node, lowering).nodes)
            except Unsupported as error:
                refused[node] = str(error)
    for node in program.graph.nodes:
        left = node.op == "call_function" and node not in absorbed and op_name(node) not in ITEMS
        if left and not is_arithmetic(node):
            raise Unsupported(f"{node.name}: {refused.get(node, op_name(node))}")
    _declare_ends(program, given, lowering)
    return lowering.builder.build(drop_unused=True)


def compare_whole(
    exported: ExportedProgram, dialect: str, calls: Sequence[Call], options: CompileOptions | None = None
) -> Whole:
    """Runs the calls one after the other: states go on in both. A position that is read with item() comes last."""
    chosen = options or CompileOptions()
    module = exported.module()
    with mock.patch.object(rules, "_FAMILIES", FAMILIES):
        lowered = models.aten(exported) if dialect == "aten" else models.edge(exported, operators_kept_whole(chosen))
        program, constants = lower_whole(lowered, chosen)
    states: dict[str, torch.Tensor] = {}
    error = 0.0
    for args, named in calls:
        given = tree_leaves((args, list(named.values())))
        items = [int(given[-1].reshape(-1)[0])] * (len(program.inputs) - len(given))
        (actual,) = run_reference(program, constants, [*given, *items], states).outputs
        with torch.no_grad():
            (wanted,) = tree_leaves(module(*args, **named))
        assert actual.shape == wanted.shape
        assert actual.isfinite().all()
        error = max(error, float((actual - wanted).abs().max() / wanted.abs().max()))
    return Whole(program, error)


def decoding(*lengths: int) -> list[Call]:
    """Calls of a decoder with a static cache: each takes so many tokens after those before."""
    calls: list[Call] = []
    first = 0
    for length in lengths:
        ids = torch.randint(1, models.VOCABULARY, (1, length))
        calls.append(((), {"input_ids": ids, "cache_position": torch.arange(first, first + length)}))
        first += length
    return calls


def executorch_decoding(*lengths: int) -> list[Call]:
    """The same of ExecuTorch's own models."""
    return [((named["input_ids"], {"input_pos": named["cache_position"][:1]}), {}) for _, named in decoding(*lengths)]
