"""Zeropoint: an ExecuTorch delegate that runs 8da4w models on Vulkan. Importing it has no effects."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .errors import GraphBreakWarning as GraphBreakWarning
    from .errors import ManifestError as ManifestError
    from .errors import OptionError as OptionError
    from .errors import ProgramError as ProgramError
    from .errors import QuantizationWarning as QuantizationWarning
    from .errors import RuntimeFailure as RuntimeFailure
    from .errors import ShaderError as ShaderError
    from .errors import Unsupported as Unsupported
    from .errors import ZeropointError as ZeropointError
    from .export.explanation import explain as explain
    from .export.inspection import inspect as inspect
    from .export.partitioner import ZeropointPartitioner as ZeropointPartitioner
    from .export.passes.decompose_unsupported import decompose_unsupported as decompose_unsupported
    from .export.preprocess import ZeropointBackend as ZeropointBackend
    from .lowering.options import CompileOptions as CompileOptions
    from .program import Program as Program
    from .program.builder import ProgramBuilder as ProgramBuilder
    from .quantization.coverage import quantization_summary as quantization_summary
    from .quantization.half_scales import half_weight_scales as half_weight_scales
    from .quantization.recipes import quantize as quantize
    from .runtime.devices import devices as devices
    from .runtime.library import last_error as last_error
    from .runtime.player import reset_states as reset_states
    from .runtime.register import register as register
    from .verification.verify import verify as verify

# Public name -> the module that has it. A module is imported when its name is first used.
_HOME = {
    "CompileOptions": "lowering.options",
    "GraphBreakWarning": "errors",
    "ManifestError": "errors",
    "OptionError": "errors",
    "Program": "program",
    "ProgramBuilder": "program.builder",
    "ProgramError": "errors",
    "QuantizationWarning": "errors",
    "RuntimeFailure": "errors",
    "ShaderError": "errors",
    "Unsupported": "errors",
    "ZeropointBackend": "export.preprocess",
    "ZeropointError": "errors",
    "ZeropointPartitioner": "export.partitioner",
    "decompose_unsupported": "export.passes.decompose_unsupported",
    "devices": "runtime.devices",
    "explain": "export.explanation",
    "half_weight_scales": "quantization.half_scales",
    "inspect": "export.inspection",
    "last_error": "runtime.library",
    "quantization_summary": "quantization.coverage",
    "quantize": "quantization.recipes",
    "register": "runtime.register",
    "reset_states": "runtime.player",
    "verify": "verification.verify",
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
