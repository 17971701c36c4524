"""The `where` language of variants."""

from __future__ import annotations

import pytest

from zeropoint.errors import ManifestError
from zeropoint.kernels.dtypes import DType, Storage
from zeropoint.kernels.where import compile_where

KEY = {
    "x": (DType.F16, Storage.BUFFER),
    "zp": (DType.I8, Storage.IMAGE),
    "bias": (DType.NONE, Storage.NONE),
}


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("dtype(x) == 'f16'", True),
        ("dtype(x) != 'f16'", False),
        ("dtype(x) == dtype(zp)", False),
        ("storage(x) != storage(zp)", True),
        ("dtype(bias) == 'none' and storage(bias) == 'none'", True),
        ("dtype(x) in ('f16', 'f32')", True),
        ("dtype(x) not in ('f16', 'f32')", False),
        ("dtype(zp) in ['i32']", False),
        ("not dtype(x) == 'f16' or storage(zp) == 'image'", True),
        ("not (dtype(x) == 'f16' or storage(zp) == 'image')", False),
    ],
)
def test_value(text: str, accepted: bool) -> None:
    assert compile_where(text, tuple(KEY), "k.toml: variants.where[0]").accepts(KEY) is accepted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dtype(x) ==", "does not parse"),
        ("dtype(x)", "'dtype(x)' is no condition; compare dtype(slot) or storage(slot), join by and, or, not"),
        ("dtype(q) == 'f16'", "'q' is no slot; slots: x, zp, bias"),
        ("dtype(x) == 'f64'", "'f64' is no dtype; offered none, f32, f16, i32, i8, u8, i4"),
        ("storage(x) == 'i8'", "'i8' is no storage; offered none, buffer, image"),
        ("dtype(x) in ('f16', 1)", "1 is no dtype; offered"),
        ("dtype(x) == storage(zp)", "dtype(...) compared with storage(...)"),
        ("dtype(x) < 'f16'", "only ==, != and `in (...)` compare dtypes and storages"),
        ("dtype(x) in dtype(zp)", "only ==, != and `in (...)` compare dtypes and storages"),
        ("rows(x) == 'f16'", "'rows(x)' is neither dtype(slot) nor storage(slot)"),
        ("'f16' == dtype(x)", "\"'f16'\" is neither dtype(slot) nor storage(slot)"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ManifestError) as error:
        compile_where(text, tuple(KEY), "k.toml: variants.where[0]")
    assert str(error.value).startswith(f"k.toml: variants.where[0]: expression {text!r}: ")
    assert message in str(error.value)
