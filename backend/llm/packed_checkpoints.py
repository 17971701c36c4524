"""Weights that GPTQ, AWQ or compressed-tensors packed, in safetensors files: read as the integers that they are.

No package of theirs is needed. A weight is scale * (code - zero) of 4 or 8 bits; codes lie in 32-bit words, the lowest
bits first, and are unsigned: half their range is taken off here.

GPTQ: words along K of [K, N]; zeros along N of [groups, N], less one in the first version of the format.
AWQ: words along N of [K, N], the columns of a word in the order 0 2 4 6 1 3 5 7; zeros alike.
compressed-tensors: words along K of [N, K]; zeros along N of [N, groups].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import OptionError
from .kept_weights import Integers

Tensors = Mapping[str, torch.Tensor]  # of a checkpoint, or of one of its linears
Settings = Mapping[str, Any]
_PLACES_OF_COLUMNS = [0, 4, 1, 5, 2, 6, 3, 7]  # in an AWQ word
_SUFFIXES = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "compressed-tensors": (
        *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale"),
    ),
}
METHODS = tuple(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Integers of one linear, and what its format is called."""

    method: str
    bits: int
    integers: Integers

    @property
    def kind(self) -> str:
        return self.method

    @property
    def how(self) -> str:
        group = self.integers.codes.shape[1] // self.integers.scales.shape[1]
        return f"int{self.bits}, groups of {group}" + (", integer zero points" if self.offset else "")

    @property
    def offset(self) -> bool:
        return self.integers.zeros is not None

    def values(self) -> npt.NDArray[np.float32]:
        codes, scales = self.integers.codes.astype(np.int16), self.integers.scales
        grouped = codes.reshape(*scales.shape, -1)
        if self.integers.zeros is not None:
            grouped = grouped - self.integers.zeros[..., None]
        values: npt.NDArray[np.float32] = (grouped.astype(np.float32) * scales[..., None]).reshape(codes.shape)
        return values

    def rows(self, indices: Sequence[int]) -> Integers:
        return Integers.joined([self.integers], indices)


def check_settings(place: str, settings: Settings) -> str:
    """The method of a config.json's quantization_config. Raises OptionError on one whose weights we cannot keep."""
    method = str(settings.get("quant_method", "?"))
    if method not in METHODS:
        raise OptionError(
            f"export: {place}: weights that {method} quantized; offered float, .gguf, {', '.join(METHODS)}, torchao"
        )
    found = [
        f"{name} {settings[name]!r}"
        for name, offered in _OFFERED[method].items()
        if settings.get(name) and str(settings[name]).lower() not in offered
    ]
    if found:
        raise OptionError(f"export: {place}: {method} with {found[0]}; {_offer(method, found[0].split()[0])}")
    if method == "compressed-tensors":
        _check_activations(place, settings)
    return method


_OFFERED: dict[str, dict[str, tuple[str, ...]]] = {
    "gptq": {"checkpoint_format": ("gptq", "gptq_v2"), "pack_dtype": ("int32", "torch.int32")},
    "awq": {"version": ("gemm",)},
    "compressed-tensors": {
        "format": ("pack-quantized", "int-quantized", "mixed-precision"),
        "kv_cache_scheme": (),
        "transform_config": (),
    },
}


def _offer(method: str, name: str) -> str:
    offered = _OFFERED[method][name]
    return f"offered {', '.join(offered)}" if offered else f"save it without {name}"


def _check_activations(place: str, settings: Settings) -> None:
    """Ours are int8 with a scale of their own for each token."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
        if weights.get("type", "int") != "int":
            raise OptionError(f"export: {place}: weights of type {weights['type']}; offered int")
        if inputs and not (
            inputs.get("dynamic") is True and inputs.get("num_bits") == 8 and inputs.get("type") == "int"
        ):
            raise OptionError(
                f"export: {place}: activations of {inputs.get('num_bits')} bits, type {inputs.get('type')}, dynamic "
                f"{inputs.get('dynamic')}; offered int8 ones that are dynamic, or weights alone"
            )


def read_packed(
    place: str, settings: Settings, tensors: Tensors
) -> tuple[dict[str, torch.Tensor], dict[str, PackedMatrix]]:
    """The float tensors of a checkpoint, and its packed linears, by the names of their weights.

    Raises OptionError on a tensor that is not laid out as the method says.
    """
    method = str(settings["quant_method"])
    suffixes = _SUFFIXES[method]
    floats: dict[str, torch.Tensor] = {}
    linears: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        linear, _, suffix = name.rpartition(".")
        is_integer = suffix == "weight" and tensor.dtype == torch.int8 and method == "compressed-tensors"
        if suffix in suffixes or is_integer:
            linears.setdefault(linear, {})[suffix] = tensor
        else:
            floats[name] = tensor
    first_version, act_order = settings.get("checkpoint_format") != "gptq_v2", bool(settings.get("desc_act"))
    readers: dict[str, Callable[[Tensors], tuple[int, Integers]]] = {
        "gptq": partial(_gptq, less_one=first_version, act_order=act_order),
        "awq": _awq,
        "compressed-tensors": _compressed,
    }
    packed = {}
    for linear, parts in linears.items():
        bits, integers = _read(partial(readers[method], parts), f"export: {place}: {linear}")
        packed[f"{linear}.weight"] = PackedMatrix(method, bits, integers)
    return floats, packed


def _read(read: Callable[[], tuple[int, Integers]], where: str) -> tuple[int, Integers]:
    try:
        bits, integers = read()
    except KeyError as error:
        raise OptionError(f"{where}: no tensor {error.args[0]}; is a shard missing?") from None
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error
    return bits, integers


def _unpacked(words: torch.Tensor, bits: int) -> npt.NDArray[np.int16]:
    """int32 [..., n] -> [..., n * 32 / bits], the lowest bits first."""
    if words.dtype != torch.int32:
        raise ValueError(f"packed in {words.dtype}; need int32")
    shifts = np.arange(0, 32, bits, dtype=np.int32)
    numbers = words.numpy()[..., None] >> shifts & ((1 << bits) - 1)
    return numbers.astype(np.int16).reshape(*words.shape[:-1], -1)


def _bits(columns: int, words: int) -> int:
    bits = 32 * words // max(columns, 1)
    if bits not in (4, 8):
        raise ValueError(f"{columns} numbers in {words} words of 32 bits; offered 4 and 8 bits each")
    return bits


def _integers(
    codes: npt.NDArray[np.int16], scales: torch.Tensor, zeros: npt.NDArray[np.int16] | None, bits: int
) -> tuple[int, Integers]:
    """Unsigned [N, K], [N, groups] and [N, groups] or None -> signed."""
    half, length, groups = 1 << bits - 1, codes.shape[1], scales.shape[1]
    if len(codes) != len(scales):
        raise ValueError(f"{len(codes)} outputs beside scales {list(scales.shape)}")
    if length % groups:
        raise ValueError(f"{length} inputs in {groups} groups; a group may not be cut")
    signed = None if zeros is None else zeros - half
    if signed is not None and signed.shape != tuple(scales.shape):
        raise ValueError(f"zero points {list(signed.shape)} beside scales {list(scales.shape)}")
    return bits, Integers(
        (codes - half).astype(np.int8),
        scales.float().numpy(),
        None,
        None if signed is None or not signed.any() else signed.astype(np.int8),
    )


def _check_order(index: torch.Tensor | None, groups: int) -> None:
    """Groups of neighbours: an order by activations would need a permutation of every activation."""
    if index is None:
        return
    length = index.numel()
    if not torch.equal(index.long().cpu(), torch.arange(length) // max(length // groups, 1)):
        raise ValueError("groups in the order of the activations (desc_act, actorder); quantize it without")


def _gptq(parts: Tensors, *, less_one: bool, act_order: bool) -> tuple[int, Integers]:
    words, scales = parts["qweight"], parts["scales"]
    bits = _bits(scales.shape[1], parts["qzeros"].shape[1])
    _check_order(parts["g_idx"] if act_order else parts.get("g_idx"), scales.shape[0])
    zeros = _unpacked(parts["qzeros"], bits).T
    if less_one:
        zeros = (zeros + 1) & ((1 << bits) - 1)  # 0 was written as the largest number
    return _integers(_unpacked(words.T.contiguous(), bits), scales.T.contiguous(), zeros, bits)


def _awq(parts: Tensors) -> tuple[int, Integers]:
    words, scales = parts["qweight"], parts["scales"]
    bits = _bits(scales.shape[1], words.shape[1])
    if bits != 4:
        raise ValueError(f"{bits} bits; AWQ has 4")

    def columns(packed: torch.Tensor) -> npt.NDArray[np.int16]:
        numbers = _unpacked(packed, bits)
        ordered = numbers.reshape(*numbers.shape[:-1], -1, 8)[..., _PLACES_OF_COLUMNS]
        return ordered.reshape(numbers.shape)

    return _integers(columns(words).T, scales.T.contiguous(), columns(parts["qzeros"]).T, bits)


def _compressed(parts: Tensors) -> tuple[int, Integers]:
    if "weight_global_scale" in parts:
        raise ValueError("weights of type float; offered int")
    scales, zeros = parts["weight_scale"], parts.get("weight_zero_point")
    if "weight" in parts:
        codes, bits = parts["weight"].numpy().astype(np.int16) + 128, 8
    else:
        rows, length = (int(size) for size in parts["weight_shape"])
        bits = _bits(length, parts["weight_packed"].shape[1])
        codes = _unpacked(parts["weight_packed"], bits)[:rows, :length]
    scales = scales.reshape(-1, 1) if scales.dim() < 2 else scales
    if len(scales) == 1:  # one for the whole weight
        scales = scales.expand(len(codes), -1).contiguous()
    _check_order(parts.get("weight_g_idx"), scales.shape[1])
    if zeros is None:
        return _integers(codes, scales, None, bits)
    if zeros.dtype == torch.int32:
        unsigned = _unpacked(zeros.T.contiguous(), bits)[:, : len(codes)].T
    else:
        unsigned = zeros.numpy().astype(np.int16).reshape(scales.shape) + (1 << bits - 1)
    return _integers(codes, scales, unsigned, bits)
