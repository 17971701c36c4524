"""Trained models, mostly the demo's: exported once per state of the sources, and eager PyTorch to compare with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear
from torchao.quantization.quant_primitives import dequantize_affine
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    _apply_int8_act_asym_per_token_quant_dequant,
)
from torchao.quantization.utils import per_token_dynamic_quant
from transformers import DynamicCache

import zeropoint
from zeropoint.llm.export import TextExportOptions, export_text_model, keep_quantized, quantize_text_model
from zeropoint.llm.generation import TextProgram
from zeropoint.llm.models import find_model, load_weights
from zeropoint.llm.tokenizer import Tokenizer, load_words
from zeropoint.quantization.half_scales import half_weight_scales

NAME = "smollm2-135m"
UNDECIDED = 0.01  # between eager's two best logits: either token will do
FEW_LAYERS = 2  # of 30: the export takes seconds instead of minutes
INT8 = TextExportOptions()
SMALL = TextExportOptions(algorithm="affine")  # quicker to quantize, for FEW_LAYERS
FLOAT = TextExportOptions(recipe="8da4w-float-zp")
PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three uses of a paper clip.",
    "def fibonacci(n): finish this Python function and explain it.",
)
_CACHE = Path(__file__).parents[2] / ".cache" / "models"


def exported(options: TextExportOptions, n_layers: int | None, name: str = NAME) -> Path:
    """smollm2.pte with its tokenizer, from the cache while the package's export side is unchanged."""
    package = Path(zeropoint.__file__).parent
    state = hashlib.sha256(repr((name, options, n_layers)).encode())
    for source in sorted(package.rglob("*.py")):
        if not {"runtime", "kernels", "references"} & set(source.relative_to(package).parts):
            state.update(source.read_bytes())
    folder = _CACHE / state.hexdigest()[:16]
    path = folder / f"{name.partition('-')[0]}.pte"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_text_model(name, path, options, n_layers=n_layers)
    return path


def words_of(path: Path, program: TextProgram) -> Tokenizer:
    return load_words(path, program.metadata)


class DequantizedLinear(nn.Module):
    """A torchao 8da4w linear that dequantizes its weight once instead of in every call. The function is the same."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.float_zero_point = isinstance(linear, Int8DynActInt4WeightLinear)
        if isinstance(linear, Int8DynActInt4WeightLinear):
            block = (1, linear.groupsize)
            weight = dequantize_affine(linear.weight, block, linear.scales, linear.zeros, torch.int8, -8, 7)
        else:
            weight = linear.weight.dequantize()
        self.weight, self.bias = weight.detach(), linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.float_zero_point:
            x = per_token_dynamic_quant(x, torch.float32, torch.float32, eps=torch.finfo(torch.float32).eps)
        else:
            x = _apply_int8_act_asym_per_token_quant_dequant(x)
        return nn.functional.linear(x, self.weight, self.bias)


def dequantize_once(model: nn.Module) -> nn.Module:
    """Replaces every linear of a quantized model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, Int8DynActInt4WeightLinear)):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, DequantizedLinear(module))
    return model


def eager(options: TextExportOptions, n_layers: int | None, name: str = NAME) -> nn.Module:
    """The quantized model in PyTorch."""
    source = find_model(name)
    model = load_weights(source, n_layers=n_layers)
    keep_quantized(model, source, options)
    quantize_text_model(model, options)
    if options.weight_scales == "f16":
        half_weight_scales(model)
    table = model.get_input_embeddings()
    if isinstance(table.weight, IntxUnpackedToInt8Tensor):
        table.weight = nn.Parameter(table.weight.dequantize(), requires_grad=False)
    return dequantize_once(model)


@dataclass(frozen=True, slots=True)
class Step:
    """One greedy step: the token chosen, all logits, and how far the second best lies behind."""

    token: int
    logits: torch.Tensor
    margin: float


def greedy(model: nn.Module, prompt: list[int], n_steps: int) -> list[Step]:
    """Greedy decoding with transformers' own cache; goes on past end tokens."""
    cache, steps, tokens = DynamicCache(), [], prompt
    with torch.no_grad():
        for _ in range(n_steps):
            logits = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
                0, -1
            ]
            best, second = logits.topk(2).values
            steps.append(Step(int(logits.argmax()), logits, float(best - second)))
            tokens = [steps[-1].token]
    return steps


def forced(program: TextProgram, prompt: list[int], tokens: list[int]) -> list[torch.Tensor]:
    """The program's logits after the prompt and after each token but the last, whatever it would have chosen."""
    found = [program.prefill(prompt)]
    for index, token in enumerate(tokens[:-1]):
        found.append(program.logits([token], len(prompt) + index))
    return found


def forced_eager(
    model: nn.Module, prompt: list[int], tokens: list[int], *, noise: float, seed: int
) -> list[torch.Tensor]:
    """The same of eager PyTorch whose embeddings carry relative noise."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + noise * torch.randn(output.shape, generator=generator))

    embeddings: nn.Module = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(disturb)
    cache, found = DynamicCache(), []
    with torch.no_grad():
        for fed in (prompt, *([token] for token in tokens[:-1])):
            result = model(torch.tensor([fed]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.append(result.logits[0, -1])
    hook.remove()
    return found
