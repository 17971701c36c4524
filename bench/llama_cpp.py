"""llama.cpp's Vulkan backend on random weights of a published shape: the peer of against_llama_cpp.py.

Needs gguf, and inferna-vulkan 0.7.0 (llama.cpp b11669 in a wheel), which runs in a process of its own:

    python bench/llama_cpp.py model.gguf pp128 pp512 tg128 tg128@d900      # a line of JSON for each test
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 5
DEVIATION = 0.02  # of the weights
N_BATCH = 2048
WARM_UP_TOKENS = 16


def write_gguf(path: Path, shape: dict[str, Any]) -> None:
    """A file of random weights: linears as Q4_0, the table of the words (tied or not) as Q6_K, llama-quantize's choice.

    shape: `against_llama_cpp.shape_of`'s.
    """
    import gguf

    writer = gguf.GGUFWriter(str(path), shape["architecture"])
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["positions"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["intermediate"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["eps"])
    writer.add_vocab_size(shape["vocabulary"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)
    _add_words(writer, shape)
    generator = np.random.Generator(np.random.SFC64(1))
    for name, rows, columns, kind in _matrices(shape):
        if kind == "F32":
            writer.add_tensor(name, (1 + 0.05 * generator.standard_normal(columns)).astype(np.float32))
        else:
            blocks = _BLOCKS[kind](generator, rows * columns)
            dtype = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_words(writer: Any, shape: dict[str, Any]) -> None:
    """A vocabulary that nobody reads: every byte, and made-up words."""
    import gguf

    words = [chr(code) for code in range(33, 127)] + [chr(code) for code in range(0xA1, 0x100) if code != 0xAD]
    words += ["!!"] + [f"<w{index}>" for index in range(shape["vocabulary"] - len(words) - 1)]
    kinds = [int(gguf.TokenType.NORMAL)] * len(words)
    kinds[-1] = int(gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(len(words) - 1)
    writer.add_eos_token_id(len(words) - 1)
    writer.add_add_bos_token(False)


def _matrices(shape: dict[str, Any]) -> list[tuple[str, int, int, str]]:
    """(name, rows, columns, type) of every tensor; norms have one row."""
    hidden, inner, head = shape["hidden"], shape["intermediate"], shape["head_dim"]
    queries, keys = shape["heads"] * head, shape["kv_heads"] * head
    found = [("token_embd.weight", shape["vocabulary"], hidden, "Q6_K"), ("output_norm.weight", 1, hidden, "F32")]
    if not shape["tied"]:
        found.append(("output.weight", shape["vocabulary"], hidden, "Q6_K"))
    for index in range(shape["layers"]):
        layer = [("attn_norm", 1, hidden, "F32"), ("ffn_norm", 1, hidden, "F32")]
        if shape["architecture"] == "qwen3":
            layer += [("attn_q_norm", 1, head, "F32"), ("attn_k_norm", 1, head, "F32")]
        layer += [("attn_q", queries, hidden, "Q4_0"), ("attn_k", keys, hidden, "Q4_0")]
        layer += [("attn_v", keys, hidden, "Q4_0"), ("attn_output", hidden, queries, "Q4_0")]
        layer += [("ffn_gate", inner, hidden, "Q4_0"), ("ffn_up", inner, hidden, "Q4_0")]
        layer += [("ffn_down", hidden, inner, "Q4_0")]
        found += [(f"blk.{index}.{name}.weight", rows, columns, kind) for name, rows, columns, kind in layer]
    return found


def _halves(generator: np.random.Generator, count: int, size: float) -> np.ndarray:
    values = (size * (0.75 + 0.5 * generator.random(count, np.float32))).astype(np.float16)
    return values.view(np.uint8).reshape(count, 2)


def _random_bytes(generator: np.random.Generator, count: int, width: int) -> np.ndarray:
    return np.frombuffer(generator.bytes(count * width), np.uint8).reshape(count, width)


def _q4_0(generator: np.random.Generator, count: int) -> np.ndarray:
    """Blocks of 32: a half scale, 16 bytes of codes from -8 on, whose deviation is 4.6."""
    blocks = count // 32
    return np.hstack([_halves(generator, blocks, DEVIATION / 4.6), _random_bytes(generator, blocks, 16)])


def _q6_k(generator: np.random.Generator, count: int) -> np.ndarray:
    """Blocks of 256: 192 bytes of 6-bit codes, 16 int8 scales (here 5 to 12), a half scale."""
    blocks = count // 256
    scales = 5 + (_random_bytes(generator, blocks, 16) & 7)
    last = _halves(generator, blocks, DEVIATION / (18.5 * 8.5))
    return np.hstack([_random_bytes(generator, blocks, 192), scales, last])


_BLOCKS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {"Q4_0": _q4_0, "Q6_K": _q6_k}


class Peer:
    """llama.cpp with a model on every GPU that it takes."""

    def __init__(self, path: str) -> None:
        import inferna.llama._llama_native as native

        self._native, log = native, []
        native.set_log_callback(lambda level, text: log.append(text))
        native.ggml_backend_load_all()
        native.llama_backend_init()
        found = [dict(item) for item in native.ggml_backend_dev_info()]
        if not any(item["type"] in ("GPU", "IGPU") for item in found):
            native.set_log_callback(None)
            sys.exit(f"llama.cpp: no Vulkan device; it lists {found}; {''.join(log)[-500:]}")
        options = native.LlamaModelParams()
        options.n_gpu_layers = 999
        started = time.perf_counter()
        self._model = native.LlamaModel(path, options, False)
        self.load_s = time.perf_counter() - started
        native.set_log_callback(None)  # it would outlive this interpreter

    def rates(self, test: str) -> list[float]:
        """Tokens a second of each run. test: ppN: a prompt of N tokens in one call. tgN@dD: N single ones after D."""
        name, _, depth_text = test.partition("@d")
        count, depth, single = int(name[2:]), int(depth_text or 0), name.startswith("tg")
        context = self._context(max(256, count + depth))
        self._seconds(context, WARM_UP_TOKENS if single else count, depth, single=single)
        found = [count / self._seconds(context, count, depth, single=single) for _ in range(RUNS)]
        context.close()
        return found

    def _context(self, length: int) -> Any:
        options = self._native.LlamaContextParams()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = length, N_BATCH, 512, 1
        options.offload_kqv = True
        options.flash_attn_type = self._native.LLAMA_FLASH_ATTN_TYPE_AUTO
        return self._native.LlamaContext(self._model, options, False)

    def _seconds(self, context: Any, count: int, depth: int, *, single: bool) -> float:
        context.kv_cache_clear(False)
        if depth:
            self._decode(context, [self._batch(depth, 0)])
        sizes = [(1, depth + index) for index in range(count)] if single else [(count, depth)]
        batches = [self._batch(size, past) for size, past in sizes]
        started = time.perf_counter()
        self._decode(context, batches)
        return time.perf_counter() - started

    def _batch(self, count: int, past: int) -> Any:
        words = [random.randrange(self._model.n_vocab) for _ in range(count)]
        return self._native.llama_batch_get_one(words, past)

    def _decode(self, context: Any, batches: list[Any]) -> None:
        for batch in batches:
            if context.decode(batch) not in (0, None):
                sys.exit("llama.cpp: llama_decode failed")
            context.synchronize()


def main() -> None:
    peer = Peer(sys.argv[1])
    print(json.dumps({"test": "load", "unit": "s", "runs": [peer.load_s]}), flush=True)
    for test in sys.argv[2:]:
        print(json.dumps({"test": test, "unit": "tokens/s", "runs": peer.rates(test)}), flush=True)


if __name__ == "__main__":
    main()
