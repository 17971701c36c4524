"""One class per thing a caller can do about a failure. Texts read "where: what (got); limit or options; fix"."""

from __future__ import annotations


class ZeropointError(Exception):
    """Base of every error this package raises on purpose."""


class Unsupported(ZeropointError):
    """A node stays outside the delegate. The only error the partitioner catches."""


class GraphBreakWarning(UserWarning):
    """Some operators stay on the CPU between delegates, which costs copies there and back."""


class VersionWarning(UserWarning):
    """Another package is installed in a version that this one was not tried with."""


class QuantizationWarning(UserWarning):
    """Matrices of a model stay in float, which its user may not expect."""


class FusionWarning(UserWarning):
    """A fusion broke an invariant of the Program and was taken back: a fault of this package that costs speed alone.

    Ignored by default; an error in this package's tests.
    """


class OptionError(ZeropointError):
    """A compile option, command line value or environment variable is not acceptable."""


class ManifestError(ZeropointError):
    """A kernel manifest is malformed, or says something its shader does not do."""


class ShaderError(ZeropointError):
    """A shader variant does not compile, validate, or declare what its key says."""


class ProgramError(ZeropointError):
    """A Program does not verify, cannot be read, or has a version this package does not know."""


class RuntimeFailure(ZeropointError):
    """The player refused or failed: no device, no variant, out of memory, a Vulkan error."""
