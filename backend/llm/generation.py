"""Text from a .pte that export_text_model wrote, on ExecuTorch's runtime."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from executorch.runtime import Method

from ..errors import OptionError
from ..export.inspection import inspect
from ..program import Call, Program
from ..runtime import player
from ..runtime.pte import reported
from ..runtime.running import open_program
from .files import ENCODE
from .sampling import Scores


@dataclass(frozen=True, slots=True)
class TextMetadata:
    """The constant methods of export.text_metadata. max_prefill: tokens in one call. n_linears: those of the model.

    start_ids: what the decoder behind an encoder begins with; none of a model without an encoder. top_logits: how many
    of the largest logits a call gives; 0: all.
    """

    vocab_size: int
    max_prefill: int
    max_context: int
    bos_id: int
    eos_ids: tuple[int, ...]
    chat_template: str
    n_linears: int
    start_ids: tuple[int, ...] = ()
    top_logits: int = 0


@dataclass(slots=True)
class Timing:
    """Filled while tokens are drawn. seconds: from the prompt to its first token, then of each further one."""

    seconds: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return self.seconds[0]

    @property
    def tokens_per_s(self) -> float:
        """Of the tokens after the first; 0.0 when there was none."""
        later = self.seconds[1:]
        return len(later) / sum(later) if later else 0.0


@dataclass(frozen=True, slots=True)
class Delegation:
    """What the player ran in the last call.

    n_delegated: linears of the model, of which one call may be several. zero_points: their dtypes as the Program has
    them; a row that a linear quantizes itself has none in memory.
    """

    device: str
    n_delegated: int
    n_linears: int
    zero_points: tuple[str, ...]


def linears_that_ran(program: Program, ran: Collection[int]) -> list[Call]:
    """The linears among the calls that ran, or that fused ones stood for."""
    done = set(ran)
    for item in program.alternatives:
        if item.first in done:
            done |= set(item.plain_calls)
    return [program.calls[index] for index in sorted(done) if program.calls[index].kernel.startswith("linear_")]


def handles_of_linears(call: Call) -> tuple[int, ...]:
    """What ExecuTorch knows a call's linears by, without the addition of a residual, which is the last."""
    adds = any(arg.slot == "residual" for arg in call.args) and len(call.debug_handles) > 1
    return call.debug_handles[:-1] if adds else call.debug_handles


class TextProgram:
    """A loaded model with its KV cache. Not for several threads.

    live: the player's names of its delegates, those of `encode` first, each method's in the file's order.
    """

    def __init__(self, path: Path) -> None:
        """Raises OptionError when path is no text model of ours, RuntimeFailure when it does not load."""
        self._path = path
        self._program = open_program(path)
        self.metadata = self._read_metadata(path)
        self._load()

    def again(self) -> TextProgram:
        """The same program with KV caches of its own; constants on the device are shared.

        Opened once more: ExecuTorch's Program gives the method that it has loaded before.
        """
        other = copy(self)
        other._program = open_program(self._path)
        other._load()
        return other

    @property
    def has_encoder(self) -> bool:
        """Whether answers are about a source that encode() reads."""
        return ENCODE in self._program.method_names

    def encode(self, source: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Reads the tokens of a text, or features f32 [1, mels, frames] of speech: f32 [1, S, hidden].

        From then on scores() are about it. Raises OptionError on another kind of source, or one of another size.
        """
        if self._encode is None:
            raise OptionError(f"{self._path}: no method {ENCODE}: the model has no encoder; give it a prompt")
        given = source if isinstance(source, torch.Tensor) else torch.tensor([source], dtype=torch.long)
        wanted = self._encode.metadata.input_tensor_meta(0)
        sizes, is_text = list(wanted.sizes()), len(wanted.sizes()) == 2
        shape, what = list(given.shape), "tokens" if is_text else "features f32"
        fits = shape == sizes if not is_text else len(shape) == 2 and shape[0] == 1 and 0 < shape[1] <= sizes[1]
        if not fits or given.is_floating_point() == is_text:
            limit = f"1 to {sizes[1]} tokens" if is_text else f"{what} {sizes}"
            raise OptionError(f"generate: source: {given.dtype} {shape}; the encoder reads {limit}")
        encoder = self._encode
        (hidden,) = reported(ENCODE, lambda: encoder.execute([given]))
        result: torch.Tensor = hidden
        return result

    def scores(self, tokens: Sequence[int], position: int) -> Scores:
        """Puts up to max_prefill tokens into the cache from position on; what follows the last one."""
        ids = torch.tensor([tokens], dtype=torch.long)
        positions = torch.arange(position, position + len(tokens), dtype=torch.long)
        found = reported("forward", lambda: self._forward.execute([ids, positions]))
        return Scores(*(item.reshape(-1) for item in found))  # execute() gives copies

    def logits(self, tokens: Sequence[int], position: int) -> torch.Tensor:
        """scores() of the whole vocabulary, [vocabulary]. Raises as check_gives_all()."""
        self.check_gives_all()
        return self.scores(tokens, position).logits

    def read(self, prompt: Sequence[int]) -> Scores:
        """Puts a prompt into the cache from position 0 on, in pieces; what follows it."""
        limit = self.metadata.max_prefill
        for start in range(0, len(prompt), limit):
            found = self.scores(prompt[start : start + limit], start)
        return found

    def prefill(self, tokens: Sequence[int]) -> torch.Tensor:
        """read() of the whole vocabulary, [vocabulary]. Raises as check_gives_all()."""
        self.check_gives_all()
        return self.read(tokens).logits

    def check_gives_all(self) -> None:
        """Raises OptionError where the program gives the largest logits alone."""
        if self.metadata.top_logits:
            raise OptionError(
                f"{self._path}: logits: it gives the {self.metadata.top_logits} largest; export without --top-logits"
            )

    def generate(self, prompt: Sequence[int], *, max_new_tokens: int, timing: Timing | None = None) -> Iterator[int]:
        """The likeliest tokens after the prompt, each as soon as it is known, without an end token.

        Ends at an end token, at max_new_tokens, or when the cache is full. Raises OptionError at once, before any
        token is drawn, on an empty prompt or one that leaves the cache no room.
        """
        if not prompt:
            raise OptionError("generate: prompt: no tokens; write something")
        room = self.metadata.max_context - len(prompt)
        if room < 1:
            raise OptionError(
                f"generate: prompt: {len(prompt)} tokens; the cache holds {self.metadata.max_context}, one of them "
                "for an answer; shorten it, or export with a larger --max-context"
            )
        return self._tokens(list(prompt), min(max_new_tokens, room), timing or Timing())

    def programs(self) -> tuple[Program, ...]:
        """What the delegates hold, in the order of `live`."""
        delegates = inspect(self._path).delegates
        return tuple(item.program for method in _METHODS for item in delegates if item.method == method)

    def delegation(self) -> Delegation:
        """Which linears the last call ran on the device."""
        count, found = 0, set[str]()
        for program, live in zip(self.programs(), self.live, strict=True):
            linears = linears_that_ran(program, {pick.call for pick in player.picks_of(live)})
            count += len({handle for call in linears for handle in handles_of_linears(call)})
            dynamic = [call.tensor("zp") for call in linears if any(arg.slot == "zp" for arg in call.args)]
            found |= {program.tensors[tensor].dtype.value for tensor in dynamic}
        device = ", ".join(sorted({player.device_of(live) for live in self.live})) or "none"
        return Delegation(device, count, self.metadata.n_linears, tuple(sorted(found)))

    def _tokens(self, prompt: list[int], limit: int, timing: Timing) -> Iterator[int]:
        started = time.perf_counter()
        scores = self.read(prompt)
        for position in range(len(prompt), len(prompt) + limit):
            token = scores.likeliest()
            timing.seconds.append(time.perf_counter() - started)
            if token in self.metadata.eos_ids:
                return
            yield token
            if position + 1 < len(prompt) + limit:
                started = time.perf_counter()
                scores = self.scores([token], position)

    def _load(self) -> None:
        self.live: tuple[int, ...] = ()
        loaded: dict[str, Method] = {}
        for name in _METHODS:
            if name in self._program.method_names:
                before = {live.id for live in player.programs()}
                loaded[name] = self._method(self._path, name)
                self.live += tuple(sorted(live.id for live in player.programs() if live.id not in before))
        self._encode, self._forward = loaded.get(ENCODE), loaded["forward"]

    def _read_metadata(self, path: Path) -> TextMetadata:
        names = self._program.method_names
        needed = (*_METADATA, *([_START] if self.has_encoder else []), *({_TOP} & names))
        missing = sorted({*needed, "forward"} - names)
        if missing:
            raise OptionError(f"{path}: no method {missing[0]}; need a text model that `zeropoint export` wrote")
        values = {name: self._constants(path, name) for name in needed}
        found = TextMetadata(
            vocab_size=values["get_vocab_size"][0],
            max_prefill=values["get_max_seq_len"][0],
            max_context=values["get_max_context_len"][0],
            bos_id=values["get_bos_id"][0],
            eos_ids=tuple(values["get_eos_ids"]),
            chat_template=values["get_chat_template"][0],
            n_linears=values["get_n_linears"][0],
            start_ids=tuple(values.get(_START, ())),
            top_logits=values.get(_TOP, (0,))[0],
        )
        sizes = [found.vocab_size, found.max_prefill, found.max_context]
        sizes += [token + 1 for token in (*found.eos_ids, *found.start_ids)]
        inside = 0 <= found.bos_id < found.vocab_size and 0 <= found.top_logits <= found.vocab_size
        if not all(0 < size < 1 << 31 for size in sizes) or not inside:
            raise OptionError(f"{path}: {found}: numbers that no text model has; export it again")
        return found

    def _constants(self, path: Path, name: str) -> list[Any]:
        """What a constant method returns, of the type that TextMetadata says."""
        method = self._method(path, name)
        values = reported(f"{path}: method {name}", lambda: method.execute([]))
        kind = str if name == "get_chat_template" else int
        if not values or not all(type(value) is kind for value in values):
            raise OptionError(f"{path}: method {name}: {values!r}; need {kind.__name__}; export it again")
        return list(values)

    def _method(self, path: Path, name: str) -> Method:
        method: Method = reported(f"{path}: method {name}", lambda: self._program.load_method(name))
        return method


_METHODS = (ENCODE, "forward")  # in this order, as far as a model has them
_START = "get_decoder_start_ids"
_TOP = "get_top_logits"  # of a program that gives the largest logits alone
_METADATA = (
    "get_vocab_size",
    "get_max_seq_len",
    "get_max_context_len",
    "get_bos_id",
    "get_eos_ids",
    "get_chat_template",
    "get_n_linears",
)
