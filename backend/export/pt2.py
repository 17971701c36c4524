"""Reads what torch.export.save wrote (.pt2) without running anything that the file brings.

torch.export.load unpickles tensors of subclasses, example inputs and custom objects, runs compiled code that an archive
may hold, and evaluates the text of its symbolic sizes as Python. Here tensors are read as weights only, and the rest is
refused before PyTorch sees the file. Source: torch 2.13, export/pt2_archive/_package.py and _export/serde/serialize.py.
"""

from __future__ import annotations

import ast
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeGuard

import torch
from torch.export import ExportedProgram

from ..errors import OptionError

# What an archive may hold, below its one folder.
_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment|extra/.*|"
    r"models/[^/]+\.json|data/sample_inputs/[^/]+\.pt|data/(weights|constants)/(weight_\d+|tensor_\d+|[^/]+_config\.json)"
)
_TARGETS = re.compile(r"torch\.ops(\.\w+)+|torch\.sym_\w+|_operator\.\w+|math\.\w+")
_SIZES = frozenset(
    "Symbol Integer Rational Float Add Mul Pow Max Min Mod Abs floor ceiling true false And Or Not Xor "
    "Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan FloorDiv ModularIndexing Where "
    "PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv "
    "IntTrueDiv TruncToFloat TruncToInt RoundToInt ToFloat IsNonOverlappingAndDenseIndicator IntInfinity "
    "NegativeIntInfinity".split()
)
_NAMED = frozenset({"Symbol", "Float"})  # they take a text, and do not evaluate it
_PLAIN = (ast.Expression, ast.keyword, ast.Load, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator, ast.Tuple)


def load_exported(path: Path) -> ExportedProgram:
    """The program in a .pt2. Raises OptionError where it is none, or holds what would have to be run to be read."""
    need = f"write one with torch.export.save(exported, {path.name!r})"
    if not path.is_file():
        raise OptionError(f"explain: {path}: no such file; {need}")
    if not zipfile.is_zipfile(path):
        raise OptionError(f"explain: {path}: not a .pt2 archive; {need}")
    _register_operators()
    try:
        unsafe = next(_unsafe(path), None)
        if unsafe is not None:
            raise OptionError(f"explain: {path}: {unsafe}; it is not loaded, as that may run code; {need}")
        with path.open("rb") as file, _weights_only():  # by its handle: a name would have to end in .pt2
            exported = torch.export.load(file)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"explain: {path}: a pickle with more than tensors in it is not loaded ({reason})") from error
    except (RuntimeError, ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise OptionError(f"explain: {path}: {(str(error) or type(error).__name__).splitlines()[0]}; {need}") from error
    exported._guards_code = []  # Python that module() would compile
    return exported


def _register_operators() -> None:
    """Operators and tensor classes that quantized programs name."""
    import torchao.quantization  # noqa: F401
    from torch.ao.quantization.fx import _decomposed  # noqa: F401


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.load reads weights only meanwhile, whatever it is asked for."""
    load = torch.load
    torch.load = partial(_load_weights, load)
    try:
        yield
    finally:
        torch.load = load


def _load_weights(load: object, source: object, **options: object) -> object:
    assert callable(load)
    return load(source, **{**options, "weights_only": True})


def _unsafe(path: Path) -> Iterator[str]:
    """What the archive holds that cannot be read without running it."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            yield "two files of one name"
        for name in names:
            inner = name.partition("/")[2]
            if not _FILES.fullmatch(inner):
                yield f"{inner or name} is no tensor and no graph"
            elif inner.startswith("models/"):
                yield from _unsafe_values(json.loads(archive.read(name)))
            elif inner.startswith("data/constants/") and inner.endswith(".json"):
                config = json.loads(archive.read(name))["config"]
                yield from (f"constant {key} is an object" for key, item in config.items()
                            if not str(item["path_name"]).startswith("tensor_"))  # fmt: skip


def _unsafe_values(value: object) -> Iterator[str]:
    """Operators and sizes in a graph that are more than that."""
    if isinstance(value, list):
        for item in value:
            yield from _unsafe_values(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "expr_str" and not _is_size(str(item)):
                yield f"the size {str(item)[:60]!r} is no arithmetic"
            elif key == "target" and isinstance(item, str) and "inputs" in value and not _TARGETS.fullmatch(item):
                yield f"{item[:60]!r} is no operator"
            yield from _unsafe_values(item)


def _is_size(text: str) -> bool:
    """Whether a symbolic size is built of numbers, symbols and arithmetic alone."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    calls = [item for item in ast.walk(tree) if _is_call(item)]
    called = {id(item.func) for item in calls}
    named = {id(arg) for item in calls for arg in item.args[:1] if ast.unparse(item.func) in _NAMED}
    return all(
        isinstance(item, _PLAIN)
        or _is_call(item)
        or (isinstance(item, ast.Constant) and (isinstance(item.value, (int, float)) or id(item) in named))
        or (isinstance(item, ast.Name) and (id(item) in called or re.fullmatch(r"[a-z]+_?\d+|oo|int_oo", item.id)))
        for item in ast.walk(tree)
    )


def _is_call(item: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id in _SIZES
