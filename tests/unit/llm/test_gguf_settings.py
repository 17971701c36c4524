"""Settings of GGUF files that transformers' loader leaves out. Whole files run in tests/e2e/test_gguf_files.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, Phi3Config, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from zeropoint.errors import OptionError
from zeropoint.llm.gguf_settings import complete_config, llama3_factors

HEAD = 64


def completed(
    config: PreTrainedConfig, architecture: str, tensors: dict[str, np.ndarray] | None = None, **settings: object
) -> PreTrainedConfig:
    """The configuration after a file with these keys, of which a double underscore is a dot."""
    writer = gguf.GGUFWriter("", architecture)
    writer.add_block_count(config.num_hidden_layers)
    for name, value in settings.items():
        key = f"{architecture}.{name.replace('__', '.')}"
        add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(key, value)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data.astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        complete_config(config, gguf.GGUFReader(path), "model.gguf")
    return config


def llama() -> LlamaConfig:
    return LlamaConfig(hidden_size=4 * HEAD, num_attention_heads=4, num_hidden_layers=2)


def test_factors_of_llama_3() -> None:
    """Those that transformers divides its frequencies by, from one wavelength to another."""
    scaled = llama()
    factors = llama3_factors(5e5, HEAD, 32.0)
    completed(scaled, "llama", {"rope_freqs.weight": factors}, rope__freq_base=5e5)
    frequencies = 1 / 5e5 ** (np.arange(0, HEAD, 2) / HEAD)
    found = ROPE_INIT_FUNCTIONS["llama3"](scaled, "cpu")[0].numpy()
    np.testing.assert_allclose(frequencies / found, factors, rtol=1e-5)
    assert factors[0] == 1.0
    assert factors[-1] == 32.0


def test_factors_of_no_one() -> None:
    factors = llama3_factors(1e4, HEAD, 8.0)
    factors[HEAD // 4] *= 1.01
    with pytest.raises(OptionError, match=r"rope_freqs\.weight: factors of the rotation that are not Llama 3's"):
        completed(llama(), "llama", {"rope_freqs.weight": factors})
    assert (
        completed(llama(), "llama", {"rope_freqs.weight": np.ones(HEAD // 2)}).rope_parameters["rope_type"] == "default"
    )


def test_a_rotation_of_a_part() -> None:
    phi = Phi3Config(hidden_size=4 * HEAD, num_attention_heads=4, num_hidden_layers=2)
    assert completed(phi, "phi3", rope__dimension_count=48).rope_parameters["partial_rotary_factor"] == 0.75
    with pytest.raises(OptionError, match=r"rope.dimension_count 48; transformers' model rotates all 64$"):
        completed(llama(), "llama", rope__dimension_count=48)
    with pytest.raises(
        OptionError, match=r"rope_factors_long\.weight: a rotation that depends on the length of the text"
    ):
        completed(phi, "phi3", {"rope_factors_long.weight": np.ones(24)})


def test_scaled_rotations() -> None:
    """Of Gemma 3 in its full attentions alone."""
    config = Gemma3TextConfig(num_hidden_layers=6)
    completed(config, "gemma3", rope__scaling__type="linear", rope__scaling__factor=8.0, rope__freq_base=1e6)
    assert config.rope_parameters["full_attention"] == {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    assert config.rope_parameters["sliding_attention"]["rope_type"] == "default"
    with pytest.raises(
        OptionError, match=r"rope.scaling.type 'longrope' with factor, type; offered none, linear, and yarn"
    ):
        completed(llama(), "llama", rope__scaling__type="longrope", rope__scaling__factor=8.0)
    with pytest.raises(OptionError, match=r"'yarn' with attn_factor, factor, type; offered"):
        completed(
            llama(), "llama", rope__scaling__type="yarn", rope__scaling__factor=8.0, rope__scaling__attn_factor=2.0
        )


@pytest.mark.parametrize(("n_layers", "scalar"), [(42, 32), (46, 48)])
def test_scale_of_gemma(n_layers: int, scalar: int) -> None:
    """The largest one's queries are divided by the root of the hidden width over the heads."""
    config = Gemma2Config(hidden_size=192, num_attention_heads=4, head_dim=32, num_hidden_layers=n_layers)
    completed(config, "gemma2", attn_logit_softcapping=20.0, final_logit_softcapping=10.0)
    assert config.query_pre_attn_scalar == scalar
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (20.0, 10.0)
