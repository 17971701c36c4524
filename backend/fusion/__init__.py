"""Fusion: passes over the calls of a lowered Program, each of them switchable (`CompileOptions.fusions`).

A pass either puts one call in the place of several, or offers an alternative: a call that the player takes for several
others where the device and the shape have an algorithm for it. Fused calls compute the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from ..errors import FusionWarning
from ..lowering.options import CompileOptions
from ..program.builder import ProgramBuilder
from .draft import Draft, Step
from .invariants import Invariants
from .merged_linears import merge_linears
from .quantization import merge_gated, merge_norm, merge_quantization
from .residual import merge_residuals
from .rope_attention import offer_rope_attention
from .rope_cache import merge_rope_cache
from .row_linear import offer_row_linears

# In this order: later passes read what earlier ones made.
PASSES: dict[str, Callable[[Draft], None]] = {
    "quantize": merge_quantization,
    "norm_quantize": merge_norm,
    "gated_quantize": merge_gated,
    "rope_cache": merge_rope_cache,
    "merged_linears": merge_linears,
    "residual": merge_residuals,
    "row_linear": offer_row_linears,
    "rope_attention": offer_rope_attention,
}

warnings.filterwarnings("ignore", category=FusionWarning, append=True)  # a user loses speed, and can do nothing


def fuse(builder: ProgramBuilder, options: CompileOptions) -> Draft:
    """Runs the passes on what has been lowered, outputs and states declared.

    What would break an invariant of the Program is taken back, with a FusionWarning. Returns the calls that are left,
    and what is offered for them.
    """
    draft = Draft.of(builder, options)
    invariants = Invariants.of(draft)
    for name, run in PASSES.items():
        if options.fuses(name):
            _attempt(draft, name, run, invariants)
    draft.finish()
    return draft


def _attempt(draft: Draft, name: str, run: Callable[[Draft], None], invariants: Invariants) -> None:
    """Runs a pass: all of it is taken back where the calls do not compute what they did, or single alternatives."""
    steps, alternatives = list(draft.steps), list(draft.alternatives)
    run(draft)
    reason = invariants.broken_call(draft)
    if reason is not None:
        draft.steps, draft.alternatives = steps, alternatives
        warnings.warn(f"fusion {name} is taken back: {reason}", FusionWarning, stacklevel=3)
    for item, why in list(invariants.unfit(draft)):
        draft.alternatives = [other for other in draft.alternatives if other is not item]
        warnings.warn(f"fusion {name}: an alternative is taken back: {why}", FusionWarning, stacklevel=3)


__all__ = ["PASSES", "Draft", "Step", "fuse"]
