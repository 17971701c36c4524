"""CompileOptions: canonical JSON, and refusal of every unknown name or value."""

from __future__ import annotations

import copy

import pytest

from zeropoint import CompileOptions, OptionError


def test_json_round_trip_is_canonical() -> None:
    options = CompileOptions(compute_dtype="f16", qparams_storage="image")
    assert CompileOptions.from_json(options.to_json()) == options
    assert copy.deepcopy(options) == options
    assert options.to_json() == (
        '{"compute_dtype":"f16","float_zero_point":"model","fusions":"all","kv_cache":"model",'
        '"leftover_quantization":"error","max_binding_bytes":134217728,"operators":"all","qparams_storage":"image",'
        '"shared_states":"","weights_file":""}'
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"computee": 1}, r"^CompileOptions: computee: unknown option; offered compute_dtype, float_zero_point,"),
        ({"compute_dtype": "f64"}, r"^CompileOptions: compute_dtype: 'f64'; offered model, f32, f16$"),
        ({"qparams_storage": "texture"}, r"^CompileOptions: qparams_storage: 'texture'; offered buffer, image$"),
        ({"float_zero_point": "f16"}, r"^CompileOptions: float_zero_point: 'f16'; offered model, compute$"),
        ({"leftover_quantization": "drop"}, r"^CompileOptions: leftover_quantization: 'drop'; offered error, keep$"),
        ({"max_binding_bytes": 5}, r"^CompileOptions: max_binding_bytes: 5; need an integer from 1048576 to"),
        ({"max_binding_bytes": True}, r"^CompileOptions: max_binding_bytes: True; need an integer"),
        (
            {"shared_states": "a,,b"},
            r"^CompileOptions: shared_states: 'a,,b'; need names of buffers, separated by commas$",
        ),
        ({"shared_states": ["a,b"]}, r"^CompileOptions: shared_states: \['a,b'\]; need names of buffers"),
        ({"shared_states": 3}, r"^CompileOptions: shared_states: 3; need names of buffers"),
    ],
)
def test_refusals(values: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        CompileOptions(**values)


def test_shared_states_are_names_in_one_order() -> None:
    options = CompileOptions(shared_states=["layer.k", "cache", "cache"])
    assert options == CompileOptions(shared_states="cache, layer.k") == CompileOptions.from_json(options.to_json())
    assert options.shared_names() == ["cache", "layer.k"]
    assert CompileOptions().shared_names() == []


def test_bad_json_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^CompileOptions: '\{' is no JSON"):
        CompileOptions.from_json("{")
    with pytest.raises(OptionError, match=r"^CompileOptions: '\[\]'; need a JSON object"):
        CompileOptions.from_json("[]")
