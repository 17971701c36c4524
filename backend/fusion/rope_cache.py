"""Head norms and rotations of queries and keys and the writing of both caches in one call.

q_out = rotary(norm(q)), k_cache[position] = rotary(norm(k)), v_cache[position] = v      (norms or none)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..kernels._generated.signatures import SIGNATURES
from ..kernels.dtypes import DType
from ..program import Dim, Memory
from .draft import Draft, Step

_FUSED, _ROTARY, _UPDATE = "rotary_update_cache", "rotary_embedding", "update_cache"
_NORM, _CHECK = "rms_norm", "check_index"
_ALIKE = ("head_dim", "rotary_dim", "interleaved", "table_rows", "position_mode")  # of both rotations
_ONE = Dim(1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The calls of one layer: two rotations, and the writing of keys and values."""

    query: Step
    key: Step
    keys: Step
    values: Step


@dataclass(frozen=True, slots=True)
class _Heads:
    """Heads where the kernel reads them: before their norm, or where they have none that it computes."""

    tensor: int
    layout: int
    first: int
    norm: Step | None = None


def merge_rope_cache(draft: Draft) -> None:
    """Two rotary_embedding and two update_cache, and up to two rms_norm before them -> rotary_update_cache."""
    calls = draft.steps
    place = {step: index for index, step in enumerate(calls)}
    updates = [step for step in calls if step.call.kernel == _UPDATE]
    placeholders: list[int] = []
    for before, (keys, values) in zip([None, *updates], pairwise(updates), strict=False):
        key = draft.only_writer(keys.args["x"], _ROTARY)
        if key is None or draft.only_reader(key.args["y"], _UPDATE) is not keys:
            continue
        first = -1 if before is None else place[before]
        others = [step for step in draft.readers(key.args["cos_table"]) if step is not key and step in place]
        others = [step for step in others if step.call.kernel == _ROTARY and first < place[step] < place[values]]
        if len(others) == 1:
            _merge(draft, _Layer(others[0], key, keys, values), placeholders)


def _merge(draft: Draft, layer: _Layer, placeholders: list[int]) -> None:
    """One call in the place of a layer's, where they belong together and nothing between them minds."""
    if not _is_alike(draft, layer) or not _is_placed_alike(draft, layer):
        return
    for normed in (True, False):
        found = _operands(draft, layer, normed=normed)
        norms = [heads.norm for heads in found or () if heads.norm is not None]
        group = [*norms, layer.query, layer.key, layer.keys, layer.values]
        if found is not None and _writes_apart(draft, layer, found) and draft.gather(group):
            draft.replace(group, _made(draft, layer, found, group, placeholders))
            return


def _writes_apart(draft: Draft, layer: _Layer, found: tuple[_Heads, _Heads, _Heads]) -> bool:
    """Whether one call may write all three results: they are three buffers, and none of them is read as heads."""
    results = [layer.query.args["y"], layer.keys.args["cache"], layer.values.args["cache"]]
    written = {draft.root(tensor) for tensor in results}
    return len(written) == len(results) and written.isdisjoint(draft.root(heads.tensor) for heads in found)


def _is_alike(draft: Draft, layer: _Layer) -> bool:
    """Whether both rotations and both updates do the same, the second ones with what the first ones make."""
    query, key, keys, values = layer.query, layer.key, layer.keys, layer.values
    turned = all(query.attrs[name] == key.attrs[name] for name in _ALIKE)
    turned = turned and all(query.args[slot] == key.args[slot] for slot in ("cos_table", "sin_table", "position"))
    written = all(keys.attrs[name] == values.attrs[name] for name in ("heads", "head_dim", "cache_layout"))
    written = written and draft.info(keys.args["cache"]).dims == draft.info(values.args["cache"]).dims
    same = keys.attrs["heads"] == key.attrs["heads"] and keys.attrs["head_dim"] == key.attrs["head_dim"]
    one_token = draft.info(key.args["y"]).dims[1 if key.attrs["y_layout"] else 2] == _ONE
    whole = keys.attrs["x_first"] == 0 and (keys.attrs["x_layout"] == key.attrs["y_layout"] or one_token)
    tensors = [query.args["x"], key.args["x"], values.args["x"], keys.args["cache"], values.args["cache"]]
    whole = whole and len({_tokens(draft, step) for step in (query, key, keys, values)}) == 1
    return turned and written and same and whole and len({draft.info(tensor).dtype for tensor in tensors}) == 1


def _tokens(draft: Draft, step: Step) -> tuple[Dim, Dim]:
    """Batch entries, and tokens of each, of what a call reads."""
    dims = draft.info(step.args["x"]).dims
    return dims[0], dims[1 if step.attrs["x_layout"] else 2]


def _is_placed_alike(draft: Draft, layer: _Layer) -> bool:
    """Whether keys and values go to the same places, at which tables that are read by position are read, too."""
    keys, values, key = layer.keys, layer.values, layer.key
    steps = [keys, values] if key.attrs["table_rows"] else [keys, values, key]
    return len({(_places(draft, step), step.attrs["position_mode"]) for step in steps}) == 1


def _places(draft: Draft, step: Step) -> int:
    """The buffer of a call's positions, before any check of them."""
    position = step.args["position"]
    while (check := draft.only_writer(position, _CHECK)) is not None:
        if check.attrs["x_offset"] != 0 or check.attrs["x_stride3"] not in (0, 1):
            break
        position = check.args["x"]
    return draft.root(position)


def _operands(draft: Draft, layer: _Layer, *, normed: bool) -> tuple[_Heads, _Heads, _Heads] | None:
    """Queries, keys and values as one call reads them; None where keys and values lie differently, or norms differ."""
    read = _before_norm if normed else _turned
    query, key = read(draft, layer.query), read(draft, layer.key)
    attrs = layer.values.attrs
    values = _Heads(layer.values.args["x"], _number(attrs["x_layout"]), _number(attrs["x_first"]))
    if query is None or key is None:
        return None
    if (query.norm is None) != (key.norm is None):
        return None
    if query.norm is not None and key.norm is not None and query.norm.attrs["eps"] != key.norm.attrs["eps"]:
        return None
    if key.layout != values.layout:
        key, values = _by_token(draft, key), _by_token(draft, values)
    pair = draft.info(key.tensor).dims, draft.info(values.tensor).dims
    return (query, key, values) if key.layout == values.layout and pair[0] == pair[1] else None


def _by_token(draft: Draft, heads: _Heads) -> _Heads:
    """A single head of many tokens, or the heads of a single one, as rows of tokens."""
    if heads.layout == 1:
        return heads
    batch, count, tokens, width = draft.info(heads.tensor).dims
    if _ONE not in (count, tokens):
        return heads
    rows = _alias(draft, heads.tensor, (batch, tokens, Dim(count.base * width.base)))
    return heads if rows is None else _Heads(rows, 1, 0, heads.norm)


def _turned(draft: Draft, rotation: Step) -> _Heads:
    """What a rotation reads."""
    return _Heads(rotation.args["x"], _number(rotation.attrs["x_layout"]), _number(rotation.attrs["x_first"]))


def _before_norm(draft: Draft, rotation: Step) -> _Heads | None:
    """What the norm of a rotation's heads reads; None where there is no such norm, or its rows are no tokens' heads."""
    x = rotation.args["x"]
    norm = draft.only_writer(x, _NORM)
    if norm is None or draft.only_reader(x, _ROTARY) is not rotation:
        return None
    attrs, dims = norm.attrs, draft.info(x).dims
    heads, width = (_number(rotation.attrs[name]) for name in ("heads", "head_dim"))
    weight = norm.tensor("weight")
    constant = weight is None or draft.info(weight).memory is Memory.CONSTANT
    by_token = rotation.attrs["x_layout"] == 1 or dims[2] == _ONE or heads == 1
    dense = dims[-1] == Dim(heads * width) or rotation.attrs["x_layout"] == 0
    if attrs["row_length"] != width or not (constant and dense):
        return None
    tokens = dims[1 if rotation.attrs["x_layout"] else 2]
    whole = (
        math.prod(dim.base for dim in draft.info(norm.args["x"]).dims) if (dims[0], tokens) == (_ONE, _ONE) else None
    )
    row, first = _row(attrs, heads, width, tokens=None if by_token else tokens, whole=whole), attrs["x_offset"]
    if row is None or not isinstance(first, int) or first + heads * width > row:
        return None
    rows = _alias(draft, norm.args["x"], (dims[0], tokens, Dim(row)))
    return None if rows is None else _Heads(rows, 1, first, norm)


def _row(
    attrs: dict[str, int | float | Dim], heads: int, width: int, *, tokens: Dim | None, whole: int | None
) -> int | None:
    """Elements from one token's heads to the next one's; None where a token's heads do not lie side by side.

    tokens: how many of them the norm's rows count before the next head; None where they count heads first. whole: of
    a single token, all of its tensor.
    """
    count, outer, step = (attrs[name] for name in ("x_inner_rows", "x_outer_stride", "x_inner_stride"))
    if tokens is not None:
        head, token = outer, step
        fits = (count if isinstance(count, Dim) else Dim(int(count))) == tokens
    elif count == 1:
        head, token = outer, heads * outer if isinstance(outer, int) else outer
        fits = True
    else:
        head, token = step, outer
        fits = count == heads
    if whole is not None:
        token = whole
    sides = head == width or heads == 1
    return token if fits and sides and isinstance(token, int) and token > 0 else None


def _alias(draft: Draft, tensor: int, dims: tuple[Dim, ...]) -> int | None:
    """Other dimensions of a tensor's elements; None of a constant, or where they are not as many."""
    info = draft.info(tensor)
    if info.dims == dims:
        return tensor
    if info.memory is Memory.CONSTANT or _count(info.dims) != _count(dims):
        return None
    return draft.builder.alias(tensor, dims)


def _count(dims: tuple[Dim, ...]) -> tuple[int, list[Dim]]:
    """The product of the known dimensions, and the others."""
    return math.prod(dim.base for dim in dims if not dim.terms), sorted((d for d in dims if d.terms), key=repr)


def _made(
    draft: Draft, layer: _Layer, found: tuple[_Heads, _Heads, _Heads], group: list[Step], placeholders: list[int]
) -> Step:
    query, key, values = found
    rotation, update = layer.query, layer.keys
    args: dict[str, int | None] = {"q": query.tensor, "k": key.tensor, "v": values.tensor}
    args |= {slot: rotation.args[slot] for slot in ("cos_table", "sin_table")}
    args |= {"position": update.args["position"], "q_out": rotation.args["y"]}
    args |= {"k_cache": update.args["cache"], "v_cache": layer.values.args["cache"]}
    width = _number(rotation.attrs["head_dim"])
    for slot, heads in (("q_norm", query), ("k_norm", key)):
        args[slot] = _factors(draft, heads.norm, width, placeholders)
    attrs: dict[str, int | float | Dim] = {
        "heads": rotation.attrs["heads"],
        "kv_heads": update.attrs["heads"],
        "q_layout": query.layout,
        "kv_layout": key.layout,
        "q_first": query.first,
        "k_first": key.first,
        "v_first": values.first,
        "out_layout": rotation.attrs["y_layout"],
        "normed": int(query.norm is not None),
        "eps": 0.0 if query.norm is None else query.norm.attrs["eps"],
    }
    given = {**rotation.attrs, **update.attrs, **attrs}
    names = SIGNATURES[_FUSED].attr_names()
    return draft.make(_FUSED, args, {name: given[name] for name in names}, replaces=group)


def _factors(draft: Draft, norm: Step | None, width: int, placeholders: list[int]) -> int:
    """The factors of a head's norm in f32; a placeholder without a norm."""
    if norm is None:
        if not placeholders:
            placeholders.append(draft.builder.constant("no_norm", DType.F32, (1,), data=np.ones(1, np.float32)))
        return placeholders[0]
    weight, offset = norm.tensor("weight"), norm.attrs["weight_offset"]
    assert isinstance(offset, float)
    if weight is None:
        ones = np.full(width, offset, np.float32)
        return draft.builder.constant(f"{norm.call.name}.factor", DType.F32, (width,), data=ones)
    pack = draft.builder.packer(weight)

    def data() -> npt.NDArray[np.generic]:
        values: npt.NDArray[np.float32] = pack().astype(np.float32).reshape(width) + np.float32(offset)
        return values

    return draft.builder.constant(f"{draft.info(weight).name}.norm", DType.F32, (width,), data=data)


def _number(value: int | float | Dim) -> int:
    assert isinstance(value, int), value
    return value
