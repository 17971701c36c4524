"""Zeropoint: an ExecuTorch delegate that runs 8da4w models on Vulkan. Importing it has no effects."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .builder import ProgramBuilder as ProgramBuilder
    from .errors import GraphBreakWarning as GraphBreakWarning
    from .errors import ManifestError as ManifestError
    from .errors import OptionError as OptionError
    from .errors import ProgramError as ProgramError
    from .errors import QuantizationWarning as QuantizationWarning
    from .errors import RuntimeFailure as RuntimeFailure
    from .errors import ShaderError as ShaderError
    from .errors import Unsupported as Unsupported
    from .errors import ZeropointError as ZeropointError
    from .explanation import explain as explain
    from .inspection import inspect as inspect
    from .options import CompileOptions as CompileOptions
    from .partitioner import ZeropointPartitioner as ZeropointPartitioner
    from .passes.decompose_unsupported import decompose_unsupported as decompose_unsupported
    from .preprocess import ZeropointBackend as ZeropointBackend
    from .program import Program as Program
    from .quantization import quantize as quantize
    from .quantized_weights import quantization_summary as quantization_summary
    from .runtime.devices import devices as devices
    from .runtime.library import last_error as last_error
    from .runtime.player import reset_states as reset_states
    from .runtime.register import register as register
    from .verification import verify as verify

__version__ = "0.1.0"

# Public name -> the module that has it. A module is imported when its name is first used.
_HOME = {
    "CompileOptions": "options",
    "GraphBreakWarning": "errors",
    "ManifestError": "errors",
    "OptionError": "errors",
    "Program": "program",
    "ProgramBuilder": "builder",
    "ProgramError": "errors",
    "QuantizationWarning": "errors",
    "RuntimeFailure": "errors",
    "ShaderError": "errors",
    "Unsupported": "errors",
    "ZeropointBackend": "preprocess",
    "ZeropointError": "errors",
    "ZeropointPartitioner": "partitioner",
    "decompose_unsupported": "passes.decompose_unsupported",
    "devices": "runtime.devices",
    "explain": "explanation",
    "inspect": "inspection",
    "last_error": "runtime.library",
    "quantization_summary": "quantized_weights",
    "quantize": "quantization",
    "register": "runtime.register",
    "reset_states": "runtime.player",
    "verify": "verification",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; offered {', '.join(__all__)}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
