"""Text models: from a trained model to a .pte, and from a .pte to text. Importing it loads nothing.

`TextModel` and `TextEncoder` are what running a .pte needs; see text_model.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .text_model import TextEncoder, TextModel

__all__ = ["TextEncoder", "TextModel"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import text_model

    return getattr(text_model, name)
