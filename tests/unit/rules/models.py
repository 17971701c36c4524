"""Tiny transformers with random weights, exported as users export them: what the rules have to recognise.

Every builder returns the raw program of torch.export; `aten` and tests.edge.edge_program give the two dialects of it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
import transformers
from torch import nn
from torch.export import Dim, ExportedProgram

from zeropoint.llm.export import export_decoder

MAX_CONTEXT = 32
MAX_PREFILL = 16
VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def aten(program: ExportedProgram) -> ExportedProgram:
    """The functional ATen dialect."""
    return program.run_decompositions({})


def decoder(kind: str, **options: object) -> ExportedProgram:
    """A decoder with a static cache, as backend/llm/export.py exports it: input_ids [1, S], cache_position [S]."""
    torch.manual_seed(0)
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **options})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    _shake_norms(model)
    with warnings.catch_warnings(action="ignore"):
        return export_decoder(model, max_context=MAX_CONTEXT, max_prefill=MAX_PREFILL)


@functools.cache
def llama(**options: object) -> ExportedProgram:
    """Grouped queries, a mask of positions."""
    return decoder("Llama", head_dim=16, **options)


@functools.cache
def qwen3(**options: object) -> ExportedProgram:
    """Norms of every head of q and k."""
    return decoder("Qwen3", head_dim=16, **options)


@functools.cache
def gemma2(**options: object) -> ExportedProgram:
    """Soft caps, which need eager attention; sliding window; norms by 1 + weight."""
    return decoder("Gemma2", head_dim=16, query_pre_attn_scalar=16, sliding_window=8, attn_implementation="eager")


@functools.cache
def gemma3(**options: object) -> ExportedProgram:
    """Sliding window in one layer of two, two rotary tables, norms of heads by 1 + weight."""
    return decoder(
        "Gemma3",
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        **options,
    )


@functools.cache
def phi3(**options: object) -> ExportedProgram:
    """Merged q, k and v; half of every head is turned."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return decoder("Phi3", rope_parameters=rope, **options)


@functools.cache
def bert() -> ExportedProgram:
    """An encoder without a cache: input_ids [B, S] and their padding mask [B, S]."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    model = _First(transformers.BertModel(config).eval(), "last_hidden_state")
    ids, mask = torch.randint(0, VOCABULARY, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    length = Dim("length", min=1, max=32)
    return _export(model, (ids, mask), ({1: length}, {1: length}))


@functools.cache
def vit() -> ExportedProgram:
    """An image encoder without the convolution that cuts its patches: patches [1, P, 64]."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=16, patch_size=4
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.embeddings = _Embedded(model.embeddings)
    return _export(_First(model, "last_hidden_state"), (torch.randn(1, 17, 64),))


@functools.cache
def executorch_llama(*, custom_ops: bool = False, dynamic: bool = True, hf_rope: bool = False) -> ExportedProgram:
    """ExecuTorch's own Llama with its cache: tokens [1, S], input_pos [1] (its last token's if not dynamic: [S]).

    custom_ops: with llama.update_cache and llama.custom_sdpa.
    """
    from executorch.examples.models.llama.llama_transformer import construct_transformer
    from executorch.examples.models.llama.model_args import ModelArgs

    torch.manual_seed(0)
    model = construct_transformer(
        ModelArgs(
            dim=64,
            n_layers=2,
            n_heads=4,
            n_kv_heads=2,
            vocab_size=VOCABULARY,
            hidden_dim=96,
            max_seq_len=MAX_CONTEXT,
            max_context_len=MAX_CONTEXT,
            use_kv_cache=True,
            generate_full_logits=False,
            enable_dynamic_shape=dynamic,
            use_hf_rope=hf_rope,
        )
    ).eval()
    _shake_norms(model)
    if custom_ops:
        from executorch.examples.models.llama.source_transformation import custom_kv_cache, sdpa

        model = custom_kv_cache.replace_kv_cache_with_custom_kv_cache(model)
        model = sdpa.replace_sdpa_with_custom_op(model)
    tokens = torch.ones(1, 3 if dynamic else 1, dtype=torch.long)
    shapes = ({1: Dim("length", min=1, max=MAX_PREFILL)}, {"input_pos": {0: 1}}) if dynamic else None
    return _export(model, (tokens, {"input_pos": torch.tensor([0])}), shapes)


class _First(nn.Module):
    """One output of a transformers model."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        if attention_mask is None:
            return getattr(self.model(x), self.name)
        places = torch.arange(x.shape[1]).unsqueeze(0)
        types = torch.zeros_like(x)
        result = self.model(x, attention_mask=attention_mask, position_ids=places, token_type_ids=types)
        return getattr(result, self.name)


class _Embedded(nn.Module):
    """In place of embeddings: the input is embedded already."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.patch_embeddings = embeddings.patch_embeddings

    def forward(self, x: torch.Tensor, **options: object) -> torch.Tensor:
        return x


def _shake_norms(model: nn.Module) -> None:
    """Weights of norms begin as ones or zeros, which would hide a wrong one."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
            assert "norm" in name or "bias" in name, name


def _export(model: nn.Module, inputs: tuple[object, ...], shapes: object = None) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)


BUILDERS: dict[str, Callable[[], ExportedProgram]] = {
    "llama": llama,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi3": phi3,
    "bert": bert,
    "vit": vit,
    "executorch_llama": executorch_llama,
}
