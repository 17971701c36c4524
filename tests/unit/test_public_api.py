"""The public names: complete, lazy, and an error that offers them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zeropoint


def test_every_public_name_resolves() -> None:
    for name in zeropoint.__all__:
        assert getattr(zeropoint, name) is not None
        assert name in dir(zeropoint)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'partition'; offered CompileOptions, GraphBreakWarning, ManifestError,"
    ):
        _ = zeropoint.partition  # type: ignore[attr-defined]


def test_importing_has_no_effects() -> None:
    code = "import sys, zeropoint; assert not {'torch', 'executorch', 'numpy', 'flatbuffers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_public_name_is_a_module() -> None:
    """Importing a module puts it in the package under its name, in the place of what should be found there."""
    modules = {path.stem for path in Path(zeropoint.__file__).parent.iterdir()}
    assert not modules & set(zeropoint.__all__)
