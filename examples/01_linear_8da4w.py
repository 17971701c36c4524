"""A quantized linear from PyTorch to Vulkan: what differs from any other ExecuTorch backend are two lines."""

import tempfile
from pathlib import Path

import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_

import zeropoint

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.SiLU(), torch.nn.Linear(512, 64)).eval()
x = torch.randn(4, 256)
path = Path(tempfile.mkdtemp()) / "linear.pte"

quantize_(model, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32)))
exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=64)},))
lowered = to_edge_transform_and_lower(exported, partitioner=[zeropoint.ZeropointPartitioner()])  # line 1
path.write_bytes(lowered.to_executorch().buffer)

zeropoint.register()  # line 2
program = Runtime.get().load_program(path)
y = program.load_method("forward").execute([x])[0]

error = float((y - model(x)).norm() / model(x).norm())
print(zeropoint.inspect(path))
print(f"relative error against eager PyTorch: {error:.1e}")
assert error < 1e-3  # each linear is exact to 1e-6; a code of the second one may still round the other way
