"""Which parameters of a model are quantized, which stay in float, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torchao.quantization import IntxUnpackedToInt8Tensor
from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear

_SHOWN = 3  # names of each reason
_VECTORS = "vectors: biases, norms and the like"
_EXPECTED = (_VECTORS, "embedding: looked up, not multiplied")


@dataclass(frozen=True, slots=True)
class QuantizationSummary:
    """quantized: the weight's name -> its elements; left: a parameter's name -> its elements and why it is in float."""

    quantized: dict[str, int]
    left: dict[str, tuple[int, str]]

    @property
    def total(self) -> int:
        """Parameters of the model, each once."""
        return sum(self.quantized.values()) + sum(count for count, _ in self.left.values())

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Reason -> the names that stay in float for it, of the most elements first."""
        found: dict[str, list[str]] = {}
        for name, (_, why) in self.left.items():
            found.setdefault(why, []).append(name)
        return dict(sorted(found.items(), key=lambda item: -self._elements(item[1])))

    def surprises(self) -> str:
        """One line about matrices in float that a user might have thought quantized; empty where there are none."""
        parts = [f"{self._share(self._elements(names))} {why} ({self._few(names)})"
                 for why, names in self.reasons.items() if why not in _EXPECTED]  # fmt: skip
        return "; ".join(parts)

    def __str__(self) -> str:
        """One line for what is quantized, and one for each reason why something is not."""
        count = sum(self.quantized.values())
        lines = [f"quantized: {len(self.quantized)} weights, {count:,} parameters ({self._share(count)})"]
        for why, names in self.reasons.items():
            count = self._elements(names)
            lines.append(f"in float: {count:,} parameters ({self._share(count)}), {why}: {self._few(names)}")
        return "\n".join(lines)

    def _elements(self, names: list[str]) -> int:
        return sum(self.left[name][0] for name in names)

    def _share(self, count: int) -> str:
        return f"{100 * count / max(self.total, 1):.1f} %"

    def _few(self, names: list[str]) -> str:
        return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def quantization_summary(model: nn.Module, reasons: Mapping[str, str] | None = None) -> QuantizationSummary:
    """What of a model's parameters quantize(), or torchao, has quantized. reasons: by module, why a linear was left.

    A parameter that several modules share counts once, as quantized if one of them has it so.
    """
    quantized: dict[str, int] = {}
    left: dict[str, tuple[int, str]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, Int8DynActInt4WeightLinear):
            quantized[f"{prefix}weight"] = module.weight.numel()
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(parameter, IntxUnpackedToInt8Tensor):
                quantized[prefix + name] = parameter.numel()
            else:
                why = (reasons or {}).get(path) if name == "weight" else None
                left[prefix + name] = (parameter.numel(), why or _reason(module, parameter))
    return QuantizationSummary(quantized, left)


def _reason(module: nn.Module, parameter: nn.Parameter) -> str:
    if parameter.dim() < 2:
        return _VECTORS
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return _EXPECTED[1]
    if isinstance(module, _ConvNd):
        return "convolution: only linears are quantized"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "linear that nn.MultiheadAttention reads itself, so torchao leaves it"
    if isinstance(module, nn.Linear):
        return "linear that was not quantized"
    return f"no nn.Linear: a matrix of {type(module).__name__}, which multiplies by it itself"
