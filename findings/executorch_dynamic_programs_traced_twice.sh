#!/usr/bin/env bash
# ExecuTorch 1.5.1 with torch 2.13: to_edge_transform_and_lower runs a second trace of the whole program for
# decompositions only if the program holds an operator of the table. The table that it gets from torch counts
# aten.sym_size.int among them, which nothing decomposes: so every program of a dynamic size is traced twice, unless the
# partitioner lists sym_size among what it wants whole. Source: _gen_edge_manager_for_partitioners and
# contains_any_call_fn_target_op in exir/program/_program.py, torch.export's default decompositions.
# Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q executorch==1.5.1 torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys
from importlib.metadata import version

import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner, PartitionResult
from torch.export import Dim, ExportedProgram

print({name: version(name) for name in ("torch", "executorch")})
SIZE = torch.ops.aten.sym_size.int
traces, run = [], ExportedProgram.run_decompositions


def counted(program, table=None):
    traces.append(table)
    return run(program, table)


ExportedProgram.run_decompositions = counted


class Nothing(Partitioner):
    """Takes nothing, and wants some operators whole (asked again about the edge program: there it would be an error)."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def ops_to_not_decompose(self, ep):
        return ([] if ep.verifier.dialect == "EDGE" else self.whole), None

    def partition(self, exported_program):
        return PartitionResult(tagged_exported_program=exported_program, partition_tags={})


class Model(torch.nn.Module):
    def forward(self, x):
        return (x + 1).expand(2, x.shape[0], 4)


found = {}
for dynamic in (False, True):
    shapes = ({0: Dim("rows", min=1, max=64)},) if dynamic else None
    program = torch.export.export(Model(), (torch.randn(3, 4),), dynamic_shapes=shapes)
    has_size = any(node.target is SIZE for node in program.graph.nodes)
    for whole in ([], [SIZE]):
        traces.clear()
        to_edge_transform_and_lower(program, partitioner=[Nothing(whole)])
        found[dynamic, bool(whole)] = len(traces)
        print(f"dynamic {dynamic}, sym_size in the program {has_size}, asked for whole {bool(whole)}: traces {len(traces)}")
in_table = SIZE in torch.export.default_decompositions()
print("aten.sym_size.int is in torch.export.default_decompositions():", in_table)
sys.exit(found != {(False, False): 1, (False, True): 1, (True, False): 2, (True, True): 1})
PY
