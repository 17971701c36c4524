"""Zeropoint: an ExecuTorch delegate that runs 8da4w models on Vulkan. Importing it has no effects."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "CompileOptions": "options",
    "ManifestError": "errors",
    "OptionError": "errors",
    "Program": "program",
    "ProgramBuilder": "builder",
    "ProgramError": "errors",
    "RuntimeFailure": "errors",
    "ShaderError": "errors",
    "Unsupported": "errors",
    "ZeropointError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; offered {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from .errors import ZeropointError as ZeropointError
