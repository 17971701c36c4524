"""Fusion: passes over the calls of a lowered Program, each of them switchable (`CompileOptions.fusions`).

A pass either puts one call in the place of several, or offers an alternative: a call that the player takes for several
others where the device and the shape have an algorithm for it. Fused calls compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable

from ..builder import ProgramBuilder
from ..options import CompileOptions
from .draft import Draft, Step
from .merged_linears import merge_linears
from .quantization import merge_gated, merge_norm, merge_quantization
from .rope_attention import offer_rope_attention
from .row_linear import offer_row_linears

# In this order: later passes read what earlier ones made.
PASSES: dict[str, Callable[[Draft], None]] = {
    "quantize": merge_quantization,
    "norm_quantize": merge_norm,
    "gated_quantize": merge_gated,
    "merged_linears": merge_linears,
    "row_linear": offer_row_linears,
    "rope_attention": offer_rope_attention,
}


def fuse(builder: ProgramBuilder, options: CompileOptions) -> Draft:
    """Runs the passes on what has been lowered, outputs and states declared.

    Returns the calls that are left, and what is offered for them.
    """
    draft = Draft.of(builder, options)
    for name, run in PASSES.items():
        if options.fuses(name):
            run(draft)
    draft.finish()
    return draft


__all__ = ["PASSES", "Draft", "Step", "fuse"]
