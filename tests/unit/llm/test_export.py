from __future__ import annotations

import pytest

from zeropoint.errors import OptionError
from zeropoint.llm.export import TextExportOptions


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_context": 1}, r"export: max_context 1; need 2 to 1048576"),
        ({"max_prefill": 1}, r"export: max_prefill 1; need 2 to max_context, which is 512"),
        ({"max_context": 64}, r"export: max_prefill 128; need 2 to max_context, which is 64"),
    ],
)
def test_lengths_that_make_no_sense(options: dict[str, int], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        TextExportOptions(**options)
