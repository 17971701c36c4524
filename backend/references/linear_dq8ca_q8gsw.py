"""Linear of dynamically quantized activations and 8-bit group-wise weights: the 4-bit one on another packing."""

from __future__ import annotations

from .linear_dq8ca_q4gsw import reference

__all__ = ["reference"]
