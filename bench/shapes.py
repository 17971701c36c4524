"""Programs of published shapes without their weights: the layers share one layer's, so that 8 billion fit anywhere.

The lowering is that of `zeropoint export`; what is written holds no constants. `random_constants` makes them, for every
layer its own, on the machine that measures.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from zeropoint.program import Memory, Program
from zeropoint.program.data import Tensor

WEIGHTS = ("w", "w_scale")  # slots

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def llama_8b() -> PreTrainedConfig:
    """meta-llama/Llama-3.1-8B."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=131072, rms_norm_eps=1e-5,
        tie_word_embeddings=False, rope_parameters={
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip


def export_shape(
    config: Callable[[], PreTrainedConfig], *, max_context: int, max_prefill: int, top_logits: int | None = None
) -> Program:
    """The Program of a decoder of this configuration: 8da4w, its table 8 bits, float16 scales."""
    from zeropoint.export.inspection import inspect
    from zeropoint.llm.export import TextExportOptions, export_decoder, lower_decoder, quantize_text_model
    from zeropoint.llm.shape_rules import quick_shapes
    from zeropoint.quantization.half_scales import half_weight_scales

    options = TextExportOptions(algorithm="affine", max_context=max_context, max_prefill=max_prefill)
    model = _of_one_layer(config)
    quantize_text_model(model, options)
    half_weight_scales(model)
    _repeat_layer(model, config())
    with quick_shapes(), tempfile.TemporaryDirectory() as folder:
        exported = export_decoder(model, max_context=max_context, max_prefill=max_prefill, top_logits=top_logits)
        path = Path(folder) / "model.pte"
        lower_decoder(exported, options.program, {}).to_executorch().save(str(path))
        (program,) = inspect(path).programs
    return _separate_layers(program, config().num_hidden_layers)


def _of_one_layer(config: Callable[[], PreTrainedConfig]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    from zeropoint.llm.checkpoints import keep_layers

    cut = config()
    keep_layers(cut, 1)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(cut, dtype=torch.float32).eval()


def _repeat_layer(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Gives the model all layers of a configuration: copies of the one it has, with the same tensors."""
    (first,) = layers = model.model.layers
    kept = {id(tensor): tensor for tensor in (*first.parameters(), *first.buffers())}
    for index in range(1, config.num_hidden_layers):
        layer = copy.deepcopy(first, dict(kept))
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
        layers.append(layer)
    for name in ("num_hidden_layers", "layer_types"):
        if hasattr(config, name):
            setattr(model.config, name, getattr(config, name))


def _separate_layers(program: Program, n_layers: int) -> Program:
    """Gives every layer weights of its own where all have the same: one constant, or one tensor.

    An alternative's fused calls and plain calls are one place.
    """
    place = list(range(len(program.calls)))
    for item in program.alternatives:
        for index in (*item.fused_calls, *item.plain_calls):
            place[index] = item.first
    tensors, calls = list(program.tensors), list(program.calls)
    places: dict[str, list[int]] = {}  # of a constant, in order
    owners: dict[int, int] = {}  # by tensor, the place that keeps it
    own: dict[tuple[str, int], int] = {}
    for index, call in enumerate(calls):
        for arg in call.args:
            found = places.setdefault(tensors[arg.tensor].constant, [])
            if arg.slot in WEIGHTS and place[index] not in found:
                found.append(place[index])
    for index, call in enumerate(calls):
        args = []
        for arg in call.args:
            key, at = program.tensors[arg.tensor].constant, place[index]
            if arg.slot in WEIGHTS and len(places[key]) == n_layers:
                if (key, at) not in own:
                    named = replace(program.tensors[arg.tensor], constant=_key(f"{key} {at}"))
                    if owners.setdefault(arg.tensor, at) == at:
                        tensors[arg.tensor], own[key, at] = named, arg.tensor
                    else:
                        own[key, at] = len(tensors)
                        tensors.append(replace(named, name=f"{named.name}.{at}"))
                arg = replace(arg, tensor=own[key, at])
            args.append(arg)
        calls[index] = replace(call, args=tuple(args))
    return replace(program, tensors=tuple(tensors), calls=tuple(calls))


def _key(name: str) -> str:
    return xxhash.xxh3_128_hexdigest(name.encode())


Made = dict[str, tuple[str, np.ndarray]]  # by a Program's key, that of random bytes and the bytes


def random_constants(program: Program, made: Made | None = None) -> tuple[Program, dict[str, np.ndarray]]:
    """The Program with random constants [bytes, uint8] by key: weights, scales of a usual size, sums and tables.

    made: of another Program of the same model, and is added to.
    """
    generator = np.random.default_rng(1)
    made = {} if made is None else made
    for tensor in program.tensors:
        if tensor.memory is Memory.CONSTANT and tensor.alias_of < 0 and tensor.constant not in made:
            data = _random(generator, tensor)
            made[tensor.constant] = xxhash.xxh3_128_hexdigest(data), data
    tensors = tuple(
        replace(tensor, constant=made[tensor.constant][0]) if tensor.constant in made else tensor
        for tensor in program.tensors
    )
    return replace(program, tensors=tensors), dict(made.values())


def _random(generator: np.random.Generator, tensor: Tensor) -> np.ndarray:
    if tensor.dtype.value in ("f32", "f16"):
        kind = np.float32 if tensor.dtype.value == "f32" else np.float16
        return generator.uniform(0.001, 0.002, tensor.size_bytes // np.dtype(kind).itemsize).astype(kind).view(np.uint8)
    if tensor.dtype.value == "i32":
        return generator.integers(-20, 20, tensor.size_bytes // 4, dtype=np.int32).view(np.uint8)
    return np.frombuffer(generator.bytes(tensor.size_bytes), np.uint8)
