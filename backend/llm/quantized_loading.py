"""Weights that are quantized as transformers reads them: one at a time in float, so a model may be larger than memory.

It is transformers' own way to quantize while it loads, as its torchao quantizer does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

_NAME = "zeropoint"  # among transformers' quantizers

# Of a model without memory, the names of the weights to quantize, and what does so with a module of such a weight.
Choose: TypeAlias = Callable[[PreTrainedModel], Mapping[str, Callable[[nn.Module], object]]]


class WhileLoading(QuantizationConfigMixin):
    """from_pretrained's quantization_config; the model that it gives has none.

    progress: is told how many weights are quantized, and of how many.
    """

    quant_method = _NAME  # type: ignore[assignment]

    def __init__(self, choose: Choose, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.choose, self.progress = choose, progress
        self.done: set[str] = set()  # names of the weights that were quantized
        # Names of weights, with their shapes in the files and in the model.
        self.mismatched: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = set()

    def __deepcopy__(self, memo: object) -> WhileLoading:  # transformers copies the configuration that it lies in
        return self


@register_quantizer(_NAME)
class _Quantizer(HfQuantizer):
    """Of one call of from_pretrained."""

    quantization_config: WhileLoading
    is_serializable = is_trainable = False  # type: ignore[assignment]

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.chosen = dict(self.quantization_config.choose(model))
        self._shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.chosen

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self)

    def postprocess_model(self, model: PreTrainedModel, **kwargs: Any) -> None:
        """transformers compares no shapes of quantized weights, and 5.4 of none beside them."""
        for name, weight in model.named_parameters():
            found, wanted = tuple(weight.shape), self._shapes.get(name)
            if wanted is not None and found != wanted:
                self.quantization_config.mismatched.add((name, found, wanted))
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]


class _Quantize(ConversionOps):
    def __init__(self, quantizer: _Quantizer) -> None:
        self._quantizer = quantizer

    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], *, model: PreTrainedModel, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        return {
            name: self._quantized(name, value[0] if isinstance(value, list) else value, model)
            for name, value in input_dict.items()
        }

    def _quantized(self, name: str, value: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
        chosen, config = self._quantizer.chosen, self._quantizer.quantization_config
        if name not in chosen:
            return value
        module = model.get_submodule(name.rpartition(".")[0])
        if value.shape != module.weight.shape:
            return value
        module.weight = nn.Parameter(value, requires_grad=False)
        chosen[name](module)
        config.done.add(name)
        config.progress(len(config.done), len(chosen))
        return module.weight
