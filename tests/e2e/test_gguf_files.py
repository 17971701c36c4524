"""GGUF files of other architectures than the demo's, written with the gguf package, exported by the command.

The names are those of llama.cpp's own converter (gguf's table of them); what it changes on the way, the order of
Llama's queries and keys and Gemma's norms, is done here as there. Eager PyTorch gets the integers of the blocks.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor

from tests.e2e.architectures import VOCABULARY
from tests.e2e.test_checkpoints import LENGTH_OPTIONS, check_tokens, decoder, export
from zeropoint.llm.gguf_files import GgufFile

pytestmark = [pytest.mark.usefixtures("validated"), pytest.mark.slow]
ARCHITECTURES = {
    "Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Gemma 2": "gemma2", "Gemma 3": "gemma3",
    "Phi-3": "phi3", "StableLM": "stablelm", "StarCoder2": "starcoder2",
}  # fmt: skip
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"original_max_position_embeddings": 32, "beta_fast": 16.0, "beta_slow": 2.0}
# What files do not say (windows, but for Gemma's; which layers have them; Qwen3's width of a head) is what transformers
# and llama.cpp take. What they say is another number than transformers' default.
CHANGES: dict[str, dict[str, object]] = {
    "Llama": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 2e5, "factor": 32.0, **LLAMA3}},
    "Mistral": {"sliding_window": None, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 4.0}},
    "Qwen2": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **YARN}},
    "Qwen3": {"head_dim": 128},
    "Gemma 2": {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
    "Gemma 3": {"layer_types": None},
    "StableLM": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    "StarCoder2": {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
}
BLOCK = 32
Codes = tuple[torch.Tensor, torch.Tensor]  # int8 [rows, inputs], float16 values of a scale for each block as float32


def quantized(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> tuple[np.ndarray, Codes]:
    """The blocks of a matrix as gguf makes them, and what is in them."""
    data = gguf.quantize(values, kind)
    width = 18 if kind.name == "Q4_0" else 34
    blocks = data.reshape(len(values), -1, width)
    scales = torch.from_numpy(np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32))
    rest = blocks[..., 2:]
    if kind.name == "Q4_0":
        rest = np.concatenate((rest & 15, rest >> 4), -1).astype(np.int8) - 8
    return data, (torch.from_numpy(rest.astype(np.int8).reshape(len(values), -1)), scales)


def permuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a head from halves, as transformers rotates them, to pairs, as GGUF's Llama has them."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def original_factors(theta: float, width: int, factor: float) -> list[float]:
    """As the converter has them: waves shorter than a fourth of the context stay, longer ones than it are stretched."""
    found = []
    for index in range(0, width, 2):
        wave = 2 * np.pi * theta ** (index / width)
        if wave < 8192 / 4:
            found.append(1.0)
        elif wave > 8192:
            found.append(factor)
        else:
            smooth = (8192 / wave - 1) / 3
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found


class Written:
    """A file of a model with random weights, whose linears and table then have the values of their blocks."""

    def __init__(self, name: str, path: Path) -> None:
        self.model, self.architecture = decoder(name, **CHANGES.get(name, {})), ARCHITECTURES[name]
        self.model.eval().requires_grad_(False)
        if name in ("Gemma 2", "Gemma 3"):
            self.model.set_attn_implementation("eager")
        self.writer = gguf.GGUFWriter(str(path), self.architecture)
        self.add_settings()
        self.add_words()
        head = self.model.get_output_embeddings()
        if self.model.config.tie_word_embeddings:
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        for module_name, module in list(self.model.named_modules()):
            self.add_module(module_name, module)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def add_settings(self) -> None:
        config, writer = self.model.config, self.writer
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        rope = config.rope_parameters.get("full_attention", config.rope_parameters)
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        if rope["rope_type"] == "llama3":
            factors = original_factors(rope["rope_theta"], head_dim, rope["factor"])
            writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
        elif rope["rope_type"] != "default":
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
        if hasattr(config, "rms_norm_eps"):
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        else:
            writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or config.norm_epsilon)
        if self.architecture.startswith("gemma"):
            writer.add_sliding_window(config.sliding_window)
        if self.architecture == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_vocab_size(config.vocab_size)

    def add_words(self) -> None:
        """A byte is a token."""
        words = [f"<0x{index:02X}>" for index in range(VOCABULARY)]
        self.writer.add_tokenizer_model("llama" if self.architecture.startswith("gemma") else "gpt2")
        self.writer.add_tokenizer_pre("default")
        self.writer.add_token_list(words)
        self.writer.add_token_scores([0.0] * VOCABULARY)
        self.writer.add_token_types([int(gguf.TokenType.NORMAL)] * VOCABULARY)
        self.writer.add_token_merges([])
        writer = self.writer
        for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
            add(1)

    def add_module(self, name: str, module: nn.Module) -> None:
        names = gguf.get_tensor_name_map(
            next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.architecture),
            self.model.config.num_hidden_layers,
        )
        head = self.model.get_output_embeddings()
        for kind, parameter in module.named_parameters(recurse=False):
            is_tied = module is head and self.model.config.tie_word_embeddings
            found = None if is_tied else names.get_name(f"{name}.{kind}", try_suffixes=(".weight", ".bias"))
            assert is_tied or found is not None, name
            values = parameter.detach().numpy()
            if values.ndim == 1:
                is_norm = self.architecture.startswith("gemma") and kind == "weight"
                self.writer.add_tensor(found, self.ordered(name, values) + np.float32(is_norm))
                continue
            is_small = not (module is head or name.endswith("down_proj") or isinstance(module, nn.Embedding))
            block = gguf.GGMLQuantizationType.Q4_0 if is_small else gguf.GGMLQuantizationType.Q8_0
            _, (codes, scales) = quantized(values, block)
            if found is not None:
                self.writer.add_tensor(found, quantized(self.ordered(name, values), block)[0], raw_dtype=block)
            if isinstance(module, nn.Embedding):
                module.weight = nn.Parameter(codes.float() * scales.repeat_interleave(BLOCK, 1), requires_grad=False)
                continue
            zeros = torch.zeros(scales.shape, dtype=torch.int8)
            kept = (codes, scales, zeros, torch.int4 if is_small else torch.int8, (1, BLOCK), torch.float32)
            weight = IntxUnpackedToInt8Tensor(*kept, "int8_asym_per_token")
            module.weight = nn.Parameter(weight, requires_grad=False)

    def ordered(self, name: str, values: np.ndarray) -> np.ndarray:
        """A linear's rows, or its bias, in the order of the file."""
        config = self.model.config
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if self.architecture == "llama" and name.endswith(part):
                return permuted(values, heads)
        return values


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_file(name: str, tmp_path: Path) -> None:
    """Every quantized weight is kept, and tokens are eager's."""
    torch.manual_seed(5)
    written = Written(name, tmp_path / "model.gguf")
    found, config = GgufFile(tmp_path / "model.gguf").config(), written.model.config
    for key in ("rope_parameters", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
        assert getattr(found, key, None) == getattr(config, key, None), key
    printed = export(tmp_path / "model.gguf", tmp_path / "model.pte", *LENGTH_OPTIONS)
    assert "not kept" not in printed
    check_tokens(tmp_path / "model.pte", written.model)
