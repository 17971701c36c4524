"""ZeropointBackend: turns one partition into a delegate blob and named data. Orchestration only."""

from __future__ import annotations

import copy
from typing import final

import torch
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.backend.backend_details import BackendDetails, CompileSpec, PreprocessResult
from torch.export import ExportedProgram
from torch.fx import Node

from ..errors import OptionError, Unsupported
from ..fusion import fuse
from ..lowering.index_checks import check_indices
from ..lowering.lowering import HOST_DTYPES
from ..lowering.options import CompileOptions
from ..program import Program
from ..program.builder import ProgramBuilder
from ..program.io import read_program, seal, write_program
from ..rules import Lowering, has_rule, lower_node
from .matching import is_arithmetic
from .shared_states import check_agreement, give_keys

BACKEND_ID = "ZeropointBackend"
OPTIONS_KEY = "options"
CONSTANT_ALIGN = 16
STATES_KEY = "zeropoint.states"  # an entry of a .pte's named data by which the player knows its methods of one load


def compile_specs(options: CompileOptions) -> list[CompileSpec]:
    """The options as ExecuTorch carries them to preprocess."""
    return [CompileSpec(OPTIONS_KEY, options.to_json().encode())]


def read_options(specs: list[CompileSpec]) -> CompileOptions:
    """The inverse of compile_specs. Raises OptionError on an unknown spec."""
    text = "{}"
    for spec in specs:
        if spec.key != OPTIONS_KEY:
            raise OptionError(f"compile spec {spec.key!r}: unknown; offered {OPTIONS_KEY}")
        text = spec.value.decode()
    return CompileOptions.from_json(text)


def lower_program(edge_program: ExportedProgram, options: CompileOptions) -> tuple[Program, dict[str, bytes]]:
    """Lowers every node of a partition. Returns the Program and its constants by key."""
    lowering = Lowering(edge_program, options)
    given = set(edge_program.graph_signature.user_inputs)
    inputs = [node for node in edge_program.graph.nodes if node.name in given]
    for node in inputs:
        _declare_input(node, lowering)
    absorbed: set[Node] = set()
    refused: dict[Node, Unsupported] = {}
    for node in edge_program.graph.nodes:
        check_indices(node, lowering)
        if has_rule(node, options):
            try:
                absorbed.update(lower_node(node, lowering).nodes)
            except Unsupported as error:
                refused[node] = error
    left = [n for n in edge_program.graph.nodes if n.op == "call_function" and n not in absorbed]
    for node in left:
        if node in refused:
            text = f"{node.name}: accepted by the partitioner, but with the real weights: {refused[node]}"
            raise Unsupported(text) from refused[node]
    assert all(is_arithmetic(node) for node in left), f"{left} are tagged but no rule consumed them"
    _declare_ends(edge_program, inputs, lowering)
    fuse(lowering.builder, options)
    return lowering.builder.build(drop_unused=True)


def _declare_input(node: Node, lowering: Lowering) -> None:
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        lowering.dims(value.shape)  # the symbols' order is the inputs' order
    elif isinstance(value, torch.SymInt):
        lowering.integer_input(value)


def _declare_ends(edge_program: ExportedProgram, inputs: list[Node], lowering: Lowering) -> None:
    builder: ProgramBuilder = lowering.builder
    for node in inputs:
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            builder.input(lowering.operand(node), HOST_DTYPES[value.dtype])
        else:
            builder.input_symbol(lowering.integer_input(value))
    (outputs,) = edge_program.graph.output_node().args
    assert isinstance(outputs, (list, tuple))
    mutated = edge_program.graph_signature.buffers_to_mutate
    given: set[int] = {
        tensor for node in inputs if isinstance(node.meta["val"], torch.Tensor) for tensor in lowering.result(node)
    }
    for node in outputs:
        assert isinstance(node, Node)
        if node.name not in mutated:
            builder.output(lowering.returned(node, given), HOST_DTYPES[node.meta["val"].dtype])
    for node in outputs:
        assert isinstance(node, Node)
        if node.name in mutated:
            lowering.write_state(mutated[node.name], node)


@final
class ZeropointBackend(BackendDetails):
    """Called by ExecuTorch's to_backend; its class name is the backend id in the .pte."""

    @classmethod
    def copy_exported_program_for_preprocess(
        cls, edge_program: ExportedProgram, compile_specs: list[CompileSpec]
    ) -> ExportedProgram:
        """A copy that has the same tensors: nothing writes into them, and shared states are known by their storage."""
        tensors = (*edge_program.state_dict.values(), *edge_program.constants.values())
        copied: ExportedProgram = copy.deepcopy(edge_program, {id(tensor): tensor for tensor in tensors})
        return copied

    @classmethod
    def preprocess_multimethod(
        cls, edge_programs: dict[str, list[ExportedProgram]], compile_specs: dict[str, list[list[CompileSpec]]]
    ) -> dict[str, list[PreprocessResult]]:
        """Every partition of every method, once it is known which states the methods share."""
        options = [read_options(specs) for per_method in compile_specs.values() for specs in per_method]
        give_keys(edge_programs, sorted({name for item in options for name in item.shared_names()}))
        results: dict[str, list[PreprocessResult]] = super().preprocess_multimethod(edge_programs, compile_specs)
        check_agreement({name: [read_program(r.processed_bytes) for r in found] for name, found in results.items()})
        return results

    @staticmethod
    def preprocess(edge_program: ExportedProgram, compile_specs: list[CompileSpec]) -> PreprocessResult:
        """The Program as bytes, its constants as named data, and the calls' indices as delegate debug ids."""
        options = read_options(compile_specs)
        program, constants = lower_program(edge_program, options)
        store = NamedDataStore()
        if any(tensor.shared for tensor in program.tensors):
            store.add_named_data(STATES_KEY, bytes(CONSTANT_ALIGN), alignment=CONSTANT_ALIGN)
        for key in sorted(constants):
            store.add_named_data(
                key, constants[key], alignment=CONSTANT_ALIGN, external_tag=options.weights_file or None
            )
        return PreprocessResult(
            processed_bytes=seal(write_program(program)),
            debug_handle_map={i: call.debug_handles for i, call in enumerate(program.calls) if call.debug_handles},
            data_store_output=store.get_named_data_store_output(),
        )
