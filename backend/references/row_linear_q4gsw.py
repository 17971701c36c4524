"""One row through RMS norm, quantization, a linear of 4-bit weights, and a gated activation or a residual."""

from __future__ import annotations

from .row_linear import reference

__all__ = ["reference"]
