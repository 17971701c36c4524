"""Compares what a device computes, kernel call by kernel call, with the kernels' PyTorch references.

    print(zeropoint.verify("model.pte"))             # made-up inputs; or inputs=[...], or prompt="..."
    assert zeropoint.verify("model.pte").is_right

A .pte runs in executorch.runtime with all its delegates' tensors kept, so that every delegate is verified on the inputs
that it really gets. A call is right when it lies within its tolerance (tolerances.py) of its reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from executorch.extension.pybindings.portable_lib import MethodMeta

from ..errors import OptionError
from ..export.inspection import inspect
from ..kernels.library import LibrarySummary, read_library
from ..program import Memory, Program
from ..program.constants import Payloads
from ..runtime import library as native
from ..runtime import player
from ..runtime.pte import reported
from ..runtime.running import open_program
from .interpreter import HOST_TORCH, run_reference, to_host
from .recomputation import DeviceRun, first_states, recompute
from .report import OutputCheck, Run, Verification
from .tolerances import output_tolerance

Value = torch.Tensor | np.ndarray | int
T = TypeVar("T")
# ScalarType of executorch/runtime/core/portable_type/scalar_type.h.
_SCALAR_TYPES = {
    0: torch.uint8, 1: torch.int8, 3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32, 11: torch.bool,
    15: torch.bfloat16,
}  # fmt: skip


def verify(
    path: str | PathLike[str],
    inputs: Sequence[Value] | None = None,
    *,
    method: str = "forward",
    prompt: str | None = None,
    tokenizer: Path | None = None,
) -> Verification:
    """Runs a method of a .pte once and verifies every call of our delegates in it.

    inputs: of the method; made up from its metadata unless given, at the largest sizes. prompt: of a text model, which
    reads it and draws one token; tokenizer: see `zeropoint generate`. Raises OptionError where these do not fit.
    """
    path = Path(path)
    if prompt is not None and inputs is not None:
        raise OptionError("verify: inputs and a prompt; give one of them")
    if prompt is not None:
        return _verify_prompt(path, prompt, tokenizer)
    with player.load_flags(keep_all=True):
        program = open_program(path)
        if method not in program.method_names:
            raise OptionError(f"{path}: method {method!r}; offered {', '.join(sorted(program.method_names))}")
        where = f"{path}: method {method}"
        delegates, loaded = _loaded(path, (method,), lambda: reported(where, lambda: program.load_method(method)))
    given = _made_up(path, loaded.metadata) if inputs is None else [_tensor(value) for value in inputs]
    reported(where, lambda: loaded.execute(given))
    return Verification(tuple(run for item in delegates for run in item.verified(method)))


def verify_program(
    program: Program, constants: Mapping[str, bytes], inputs: Sequence[Value], *, library: bytes | None = None
) -> Verification:
    """Verifies one run of a Program without ExecuTorch. library: a kernel library in place of the player's own."""
    with player.LoadedProgram(program, constants, keep_all=True, library=library) as loaded:
        arrays = [value if isinstance(value, int) else _array(torch.as_tensor(value)) for value in inputs]
        loaded.execute(arrays)
        delegate = _Delegate(
            "program", 0, loaded._id, program, constants, read_library(library or player.kernel_library())
        )
        return Verification(tuple(delegate.verified("program")))


def _verify_prompt(path: Path, prompt: str, tokenizer: Path | None) -> Verification:
    from ..llm.files import ENCODE
    from ..llm.generation import TextProgram
    from ..llm.tokenizer import load_words

    with player.load_flags(keep_all=True):
        delegates, text = _loaded(path, (ENCODE, "forward"), lambda: TextProgram(path))
    tokens = load_words(path, text.metadata, tokenizer).chat(prompt)
    runs: list[Run] = []
    if text.has_encoder:
        text.encode(tokens)
        runs += [run for item in delegates for run in item.verified("the text that the encoder reads")]
        written = {key: value for item in delegates if item.states for key, value in item.shared_states().items()}
        tokens, delegates = list(text.metadata.start_ids), [item for item in delegates if item.method != ENCODE]
        for item in delegates:
            item.begin_with(written)
    room = text.metadata.max_context - 1
    if not 0 < len(tokens) <= room:
        raise OptionError(f"verify: prompt: {len(tokens)} tokens; need 1 to {room}, the size of the cache less one")
    limit = text.metadata.max_prefill
    steps = [(tokens[start : start + limit], start) for start in range(0, len(tokens), limit)]
    for part, start in steps:
        scores = text.scores(part, start)
        what = f"tokens {start} to {start + len(part) - 1} of the prompt"
        runs += [run for item in delegates for run in item.verified(what)]
    text.scores([scores.likeliest()], len(tokens))
    runs += [run for item in delegates for run in item.verified("the token after the prompt")]
    return Verification(tuple(runs))


@dataclass(slots=True)
class _Delegate:
    """A live program of the player, with the Program and the constants it was loaded from."""

    method: str
    index: int
    id: int
    program: Program
    constants: Payloads
    library: LibrarySummary
    states: dict[str, torch.Tensor] | None = None  # after the last run

    def verified(self, what: str) -> list[Run]:
        """What its last run did; nothing when it has not run."""
        answer = json.loads(native.text_of(native.open_library().zp_describe(self.id)))
        if answer["symbols"] is None:
            return []
        symbols = tuple(answer["symbols"])
        picks = {pick.call: pick for pick in player.picks_of(self.id)}
        before = first_states(self.program, self.constants) if self.states is None else self.states
        run = DeviceRun(self.program, self.constants, symbols, tuple(picks), before, self._read)
        checks = recompute(run, self.library.outputs)
        outputs = self._check_outputs(run)
        self.states = {name: self._read(index) for name, index in _state_tensors(self.program)}
        shaders = {call: self.library.sources[pick.kernel, pick.algorithm] for call, pick in picks.items()}
        return [Run(what, self.index, answer["device"], self.program, symbols, picks, shaders, checks, outputs)]

    def shared_states(self) -> dict[str, torch.Tensor]:
        """Those of its last run that it shares with other methods, by their keys."""
        tensors, states = self.program.tensors, self.states or {}
        return {key: states[name] for name, index in _state_tensors(self.program) if (key := tensors[index].shared)}

    def begin_with(self, written: Mapping[str, torch.Tensor]) -> None:
        """What another method has left in the states before the first run. written: by their keys."""
        self.states = first_states(self.program, self.constants)
        for name, index in _state_tensors(self.program):
            self.states[name] = written.get(self.program.tensors[index].shared, self.states[name])

    def _read(self, index: int) -> torch.Tensor:
        return torch.from_numpy(player.read_tensor(self.id, index))

    def _check_outputs(self, run: DeviceRun) -> tuple[OutputCheck, ...]:
        """The whole run against the whole Program on references, errors added up."""
        inputs: list[torch.Tensor | int] = []
        for item in self.program.inputs:
            if item.tensor < 0:
                inputs.append(run.symbols[item.symbol])
            else:
                inputs.append(self._read(item.tensor).to(HOST_TORCH[item.host_dtype]))
        states = {name: value.clone() for name, value in run.before.items()}
        wanted = run_reference(self.program, self.constants, inputs, states).outputs
        tolerance = output_tolerance(self.program)
        checks = []
        for index, (output, expected) in enumerate(zip(self.program.outputs, wanted, strict=True)):
            actual = to_host([self._read(tensor) for tensor in output.tensors], output.host_dtype)
            checks.append(OutputCheck.of(index, actual, expected, tolerance))
        return tuple(checks)


def _state_tensors(program: Program) -> list[tuple[str, int]]:
    return [
        (item.name, index)
        for index, item in enumerate(program.tensors)
        if item.memory is Memory.STATE and item.alias_of < 0
    ]


def _loaded(path: Path, methods: Sequence[str], load: Callable[[], T]) -> tuple[list[_Delegate], T]:
    """Loads methods, those of the names that there are, and finds the player's programs that delegates have become."""
    before = {live.id for live in player.programs()}
    value = load()
    # ExecuTorch initializes a method's delegates in the order of the file.
    live = sorted((item.method, item.id) for item in player.programs() if item.id not in before)
    inspection = inspect(path)
    own = sorted((item for item in inspection.delegates if item.method in methods), key=lambda item: item.method)
    if not own:
        raise OptionError(f"verify: {path}: method {methods[-1]} has no delegate of ours; nothing to verify")
    needed = {tensor.constant for item in own for tensor in item.program.tensors if tensor.constant}
    if not needed <= inspection.constants.keys():
        raise OptionError(f"verify: {path}: its weights lie in a .ptd; export it without weights_file to verify it")
    library = read_library(player.kernel_library())
    return [
        _Delegate(item.method, item.index, program_id, item.program, inspection.constants, library)
        for item, (_, program_id) in zip(own, live, strict=True)
    ], value


def _made_up(path: Path, method: MethodMeta) -> list[torch.Tensor]:
    """Inputs of a method's largest sizes: normal floats, random bools, and integers that count along the last axis.

    Those serve as token ids and as positions alike: they are small, and no two of them name one place of a cache.
    """
    generator = torch.Generator().manual_seed(0)
    result = []
    for index in range(method.num_inputs()):
        try:
            info = method.input_tensor_meta(index)
        except IndexError as error:
            raise OptionError(f"verify: {path}: input {index} is no tensor; give the inputs") from error
        shape, dtype = tuple(info.sizes()), _SCALAR_TYPES.get(info.dtype())
        if dtype is None:
            raise OptionError(f"verify: {path}: input {index}: ScalarType {info.dtype()}; give the inputs")
        if dtype.is_floating_point:
            result.append(torch.randn(shape, generator=generator).to(dtype))
        elif dtype is torch.bool:
            result.append(torch.rand(shape, generator=generator) < 0.5)
        else:
            count = torch.arange(shape[-1] if shape else 1) % min(torch.iinfo(dtype).max, 2**31)
            result.append(count.to(dtype).expand(shape or (1,)).reshape(shape).contiguous())
    return result


def _tensor(value: Value) -> torch.Tensor | int:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _array(value: torch.Tensor) -> np.ndarray:
    """As the player takes it: bf16 as its bits."""
    dense = value.contiguous()
    return (dense.view(torch.uint16) if dense.dtype is torch.bfloat16 else dense).numpy()
