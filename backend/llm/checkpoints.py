"""Models of one's own: a folder of transformers' files, or the id of one on a hub, read by transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torchao.quantization import IntxUnpackedToInt8Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
)
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from ..errors import OptionError
from .kept_weights import Matrix
from .packed_checkpoints import PackedMatrix, check_settings, read_packed
from .quantized_loading import WhileLoading
from .seq2seq import check_seq2seq, is_seq2seq, reads_speech

_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # of a hub
TORCHAO = "torchao"  # as quantization_config calls it; transformers loads its weights
_LONGEST = 300  # characters of another library's message
_WORDS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """config.json, weights (safetensors, sharded or not, f32, f16 or bf16) and, where there is one, a tokenizer.

    place: the folder, or the id `owner/name` that transformers finds on a hub or in its cache.
    """

    place: str
    recipe: str | None = None
    reads_embeddings: bool = False

    @property
    def name(self) -> str:
        """What a .pte of it is called by default."""
        return Path(self.place).resolve().name if self.is_local else self.place.split("/")[-1]

    @property
    def is_local(self) -> bool:
        return Path(self.place).is_dir()

    def config(self, *, n_layers: int | None = None, floats: bool = False) -> PreTrainedConfig:
        """Of the model, or of its first layers. Raises OptionError on one that cannot be read.

        floats: whether weights that are quantized in its files are refused.
        """
        with one_line(self.place):
            config: PreTrainedConfig = AutoConfig.from_pretrained(self.place, trust_remote_code=False)
        settings = getattr(config, "quantization_config", None)
        if settings and floats:
            raise OptionError(f"export: {self.place}: weights that are quantized; an encoder's are read in float")
        if self._settings(config):
            check_settings(self.place, config.quantization_config)
            del config.quantization_config  # transformers would ask for the method's own package
        if n_layers is not None:
            keep_layers(config, n_layers)
        return config

    @staticmethod
    def _settings(config: PreTrainedConfig) -> dict[str, Any]:
        """How its weights are quantized, where it is by a method that transformers does not read for us."""
        settings = getattr(config, "quantization_config", None) or {}
        return settings if settings.get("quant_method") != TORCHAO else {}

    def _packed(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedMatrix]] | None:
        """Its float tensors and packed linears; None where it has no packed ones."""
        with one_line(self.place):
            settings = self._settings(AutoConfig.from_pretrained(self.place, trust_remote_code=False))
        return read_packed(self.place, settings, dict(self._tensors())) if settings else None

    def matrices(self) -> Mapping[str, Matrix]:
        """The packed linears, by the names of their weights; none in a float checkpoint."""
        packed = self._packed()
        return {} if packed is None else packed[1]

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for path in self.weight_files():
            with one_line(str(path)), safe_open(path, "pt") as file:
                yield from ((name, file.get_tensor(name)) for name in file.keys())

    def weight_files(self) -> list[Path]:
        """Its safetensors files; an id's are fetched. Raises OptionError where there are none."""
        if self.is_local:
            found = sorted(Path(self.place).glob("*.safetensors"))
        else:
            with one_line(self.place):
                index = cached_file(self.place, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
                names = (
                    set(json.loads(Path(index).read_text())["weight_map"].values()) if index else [SAFE_WEIGHTS_NAME]
                )
                found = [Path(str(cached_file(self.place, name))) for name in sorted(names)]
        if not found:
            raise OptionError(f"export: {self.place}: no .safetensors file in it; packed weights are read from those")
        return found

    def tokenizer(self) -> PreTrainedTokenizerFast | None:
        """With the chat template; None where a folder has none. Raises OptionError on one without a tokenizer.json."""
        if self.is_local and not any((Path(self.place) / name).is_file() for name in _WORDS):
            return None
        with one_line(self.place):
            found = AutoTokenizer.from_pretrained(self.place, trust_remote_code=False)
        if not isinstance(found, PreTrainedTokenizerFast):
            raise OptionError(
                f"export: {self.place}: its tokenizer, {type(found).__name__}, has no tokenizer.json; "
                "save a fast one there: tokenizer.save_pretrained(...)"
            )
        return found if self._is_as_written(found) else self._tokenizer_as_written()

    def _is_as_written(self, tokenizer: PreTrainedTokenizerFast) -> bool:
        """transformers 5 builds some classes, Qwen2's say, as byte pairs of their own whatever the file holds."""
        path = Path(self.place) / "tokenizer.json"
        if not path.is_file():
            return True
        return type(tokenizers.Tokenizer.from_file(str(path)).model) is type(tokenizer.backend_tokenizer.model)

    def _tokenizer_as_written(self) -> PreTrainedTokenizerFast:
        with one_line(self.place):
            found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(self.place)
        return found

    def load(self, *, n_layers: int | None = None, quantizer: WhileLoading | None = None) -> PreTrainedModel:
        """The model in float32. Raises OptionError on files of one that generates no text.

        quantizer: of weights that its files hold in float.
        """
        config = self.config(n_layers=n_layers)
        check_generates(config, self.place)
        packed = self._packed()
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **exportable(config)}
        options["ignore_mismatched_sizes"] = True
        with one_line(self.place):
            if packed is None:
                source: dict[str, Any] = {"pretrained_model_name_or_path": self.place, "trust_remote_code": False}
                if quantizer is not None and not getattr(config, "quantization_config", None):
                    source["quantization_config"] = quantizer
            else:
                linears = {name: torch.from_numpy(matrix.values()) for name, matrix in packed[1].items()}
                source = {"pretrained_model_name_or_path": None, "state_dict": packed[0] | linears}
            kind, kinds = classes_of(config)
            model: PreTrainedModel
            model, info = (kind if packed is None else kinds[type(config)]).from_pretrained(**source, **options)
            if packed is not None and ((Path(self.place) / GENERATION_CONFIG_NAME).is_file() or not self.is_local):
                model.generation_config = GenerationConfig.from_pretrained(self.place)
        different = set() if quantizer is None else quantizer.mismatched
        check_complete(self.place, {**info, "mismatched_keys": different | {*info["mismatched_keys"]}})
        plain_linears(model)
        _in_float32(self.place, model)
        return model


def is_place(name: str) -> bool:
    """Whether it is a folder of transformers' files, or may be the id of one. Raises OptionError on other paths."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise OptionError(f"export: {name}: no config.json in it; need a folder of transformers' save_pretrained")
        return True
    if path.exists():
        raise OptionError(f"export: {name}: is a file; need a folder of transformers' files, or a .gguf")
    if "/" in name and _ID.fullmatch(name) is None:
        raise OptionError(f"export: {name}: no such folder")
    return "/" in name


@contextmanager
def one_line(place: str) -> Iterator[None]:
    """Whatever transformers says about a place becomes one line of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError, SafetensorError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"export: {place}: {text[:_LONGEST]}") from error


def classes_of(config: PreTrainedConfig) -> tuple[Any, Any]:
    """transformers' class that loads a model which generates text, and its models' classes by their configurations'."""
    if not is_seq2seq(config):
        return AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING
    if reads_speech(config):
        return AutoModelForSpeechSeq2Seq, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    return AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


def check_generates(config: PreTrainedConfig, place: str) -> None:
    """Raises OptionError on a model that generates no text."""
    if is_seq2seq(config):
        check_seq2seq(config, place)
        return
    names = ", ".join(config.architectures or [type(config).__name__])
    is_other = config.architectures and not any(
        name.endswith(("CausalLM", "LMHeadModel")) for name in config.architectures
    )
    if is_other or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise OptionError(f"export: {place}: {names} is no decoder; an encoder takes --task encode")


def check_complete(place: str, info: Mapping[str, Iterable[Any]]) -> None:
    """Raises OptionError where transformers made up weights that the files lack, or have in other sizes.

    info: output_loading_info of from_pretrained, with ignore_mismatched_sizes, which is told apart from an error here.
    """
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise OptionError(f"export: {place}: {name} is {list(found)} in its files; config.json needs {list(wanted)}")
    names = sorted(info["missing_keys"])
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise OptionError(f"export: {place}: no weight {names[0]}{more} in its files; is a shard missing?")


def keep_layers(config: PreTrainedConfig, n_layers: int) -> None:
    """Cuts a configuration to its first layers, of the encoder and of the decoder."""
    for name in ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"):
        if getattr(config, name, None) is not None:
            setattr(config, name, min(n_layers, getattr(config, name)))
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:n_layers]


def exportable(config: PreTrainedConfig) -> dict[str, str]:
    """What from_pretrained has to be told so that torch.export gets one graph of the model's own function."""
    options = {}
    if getattr(config, "attn_logit_softcapping", None):  # transformers' sdpa leaves the soft cap out
        options["attn_implementation"] = "eager"
    if getattr(config, "num_experts_per_tok", None):  # the other ways loop over the experts that are hit
        options["experts_implementation"] = "batched_mm"
    return options


def plain_linears(model: nn.Module) -> None:
    """Falcon's linears multiply by weight.T, which torchao's weights do not know; the function is Linear's."""
    for module in model.modules():
        if type(module).__name__ == "FalconLinear":
            module.__class__ = nn.Linear


def _in_float32(place: str, model: nn.Module) -> None:
    """Gives torchao's integers scales in float32: transformers leaves them, and only them, as they were saved.

    Raises OptionError on weights that torchao quantized in a way that has no rule.
    """
    for module_name, module in model.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, IntxUnpackedToInt8Tensor):
                integers = (weight.qdata, weight.scale.float(), weight.zero_point, weight.target_dtype)
                rest = (weight.block_size, torch.float32, weight.activation_quantization)
                setattr(module, name, nn.Parameter(IntxUnpackedToInt8Tensor(*integers, *rest), requires_grad=False))
            elif type(weight).__module__.startswith("torchao."):
                raise OptionError(
                    f"export: {place}: {module_name}.{name} is torchao's {type(weight).__name__}; offered "
                    "IntxUnpackedToInt8Tensor, as Int8DynamicActivationIntxWeightConfig and IntxWeightOnlyConfig make"
                )


def untie(model: PreTrainedModel) -> PreTrainedModel:
    """Gives the last linear weights of its own, so that it and the embedding are quantized apart."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedding = model.get_input_embeddings()
    if isinstance(head, nn.Linear) and head.weight is getattr(embedding, "weight", None):
        head.weight = nn.Parameter(head.weight.detach(), requires_grad=False)
    if not is_seq2seq(model.config):  # of which some, UMT5 say, scale what goes into the last linear by this setting
        model.config.tie_word_embeddings = False
    return model
