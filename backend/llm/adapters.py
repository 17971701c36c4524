"""LoRA adapters in peft's format, merged into a decoder's weights before anything is quantized."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel

from ..errors import OptionError
from ..quantization.coverage import quantization_summary
from .checkpoints import one_line


def merge_adapter(model: PreTrainedModel, place: str, *, all_layers: bool = True) -> PreTrainedModel:
    """W + scale * B @ A in the place of W, for each linear that the adapter has; peft does it.

    place: a folder of peft's save_pretrained, or an id. all_layers: whether the model has all of its own. Raises
    OptionError on an adapter that is no such folder, changes no weights, or was made for another model.
    """
    if quantization_summary(model).quantized:
        raise OptionError(f"export: adapter {place}: the model's weights are quantized already; take its float ones")
    try:
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict, load_peft_weights
    except ImportError as error:
        raise OptionError(f"export: adapter {place}: the package peft is not installed; pip install peft") from error
    _check_folder(place)
    with one_line(f"adapter {place}"):
        wrapped = PeftModel.from_pretrained(model, place)
        saved, found = set(load_peft_weights(place, device="cpu")), set(get_peft_model_state_dict(wrapped))
    if not hasattr(wrapped, "merge_and_unload"):
        method = wrapped.peft_config["default"].peft_type
        kind = getattr(method, "value", method)
        raise OptionError(f"export: adapter {place}: {kind} changes no weights; offered LoRA and its like")
    if found - saved or (all_layers and saved - found):  # peft makes up what is missing, or drops it, with a warning
        name = min(found - saved or saved - found)
        whose = "adapter's files" if found - saved else "model"
        raise OptionError(f"export: adapter {place}: {name} is not in the {whose}; it was made for another model")
    with one_line(f"adapter {place}"):
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def _check_folder(place: str) -> None:
    path = Path(place)
    if not path.exists():
        return
    config = path / "adapter_config.json"
    if not config.is_file():
        raise OptionError(f"export: adapter {place}: no adapter_config.json in it; need a folder of peft's")
    try:
        json.loads(config.read_text())
    except ValueError as error:
        raise OptionError(f"export: adapter {place}: adapter_config.json: {error}") from error
