"""Checkpoints as GPTQ, AWQ and compressed-tensors lay them out, written from integers that a test chose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weight:
    """scales * (codes - zeros): unsigned codes [N, K] and zeros [N, groups] of some bits, scales f16 [N, groups]."""

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    bits: int

    @property
    def half(self) -> int:
        return 1 << self.bits - 1

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantized(self) -> torch.Tensor:
        zeros, scales = (part.repeat_interleave(self.group, 1) for part in (self.zeros, self.scales))
        return (self.codes - zeros).float() * scales.float()


def random_weight(rows: int, length: int, group: int, bits: int, *, symmetric: bool) -> Weight:
    top, groups = 1 << bits, length // group
    zeros = torch.full((rows, groups), top // 2) if symmetric else torch.randint(0, top, (rows, groups))
    if not symmetric:
        zeros[0, 0], zeros[-1, -1] = 0, top - 1
    codes = torch.randint(0, top, (rows, length))
    codes[0, :2] = torch.tensor([0, top - 1])
    scales = (torch.rand(rows, groups) + 0.5).div(8 * top).half()
    return Weight(codes, zeros, scales, bits)


def words(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """[..., n] -> int32 [..., n * bits / 32], the first number in the lowest bits; zeros fill the last word."""
    per_word = 32 // bits
    padded = torch.nn.functional.pad(numbers.long(), (0, -numbers.shape[-1] % per_word))
    parts = padded.reshape(*padded.shape[:-1], -1, per_word) << torch.arange(0, 32, bits)
    sums = parts.sum(-1)
    return torch.where(sums >= 1 << 31, sums - (1 << 32), sums).int()


def gptq(weight: Weight, *, version: int = 1) -> Tensors:
    length = weight.codes.shape[1]
    zeros = weight.zeros.T if version == 2 else (weight.zeros.T - 1) % (1 << weight.bits)
    return {
        "qweight": words(weight.codes, weight.bits).T.contiguous(),
        "qzeros": words(zeros, weight.bits),
        "scales": weight.scales.T.contiguous(),
        "g_idx": (torch.arange(length) // weight.group).int(),
    }


def awq(weight: Weight) -> Tensors:
    def packed(numbers: torch.Tensor) -> torch.Tensor:
        eights = numbers.reshape(*numbers.shape[:-1], -1, 8)
        return words(eights[..., [0, 2, 4, 6, 1, 3, 5, 7]].reshape(numbers.shape), 4)

    return {
        "qweight": packed(weight.codes.T.contiguous()),
        "qzeros": packed(weight.zeros.T.contiguous()),
        "scales": weight.scales.T.contiguous(),
    }


def compressed(weight: Weight) -> Tensors:
    return {
        "weight_packed": words(weight.codes, weight.bits),
        "weight_zero_point": words(weight.zeros.T.contiguous(), weight.bits).T.contiguous(),
        "weight_scale": weight.scales.bfloat16(),
        "weight_shape": torch.tensor(weight.codes.shape),
    }


def compressed_symmetric(weight: Weight) -> Tensors:
    parts = compressed(weight)
    del parts["weight_zero_point"]
    return parts


def compressed_integers(weight: Weight) -> Tensors:
    """One scale a row, and bytes that are not packed."""
    return {"weight": (weight.codes - weight.half).to(torch.int8), "weight_scale": weight.scales.float()}


def settings(method: str, **more: object) -> dict[str, object]:
    """A quantization_config."""
    group = {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None, "targets": ["Linear"]}
    own: dict[str, dict[str, object]] = {
        "gptq": {"bits": 4, "group_size": 32, "desc_act": False, "sym": False, "checkpoint_format": "gptq"},
        "awq": {"bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
        "compressed-tensors": {"format": "pack-quantized", "config_groups": {"group_0": group}, "ignore": ["lm_head"]},
    }
    return {"quant_method": method, **own.get(method, {}), **more}


def pack_folder(
    folder: Path, pack: Callable[[Weight], Tensors], config: dict[str, object], make: Callable[[int, int], Weight]
) -> dict[str, Weight]:
    """Puts packed weights in the place of a saved decoder's linears, but the last; gives them by their names."""
    found: dict[str, Weight] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors: Tensors = {}
        for name, tensor in load_file(path).items():
            linear, _, kind = name.rpartition(".")
            if kind == "weight" and linear.endswith("_proj"):
                found[name] = make(*tensor.shape)
                tensors |= {f"{linear}.{part}": value for part, value in pack(found[name]).items()}
            else:
                tensors[name] = tensor
        save_file(tensors, path, {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    return found
