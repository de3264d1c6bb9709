"""Cells of tables that no spreadsheet runs as formulas."""

from __future__ import annotations

import re

# A cell also begins behind what separates cells in other countries' programs, which know no quotes there.
_BEGINS = r"(?:^|(?<=[;\t\r\n]))"
_FORMULA = re.compile(_BEGINS + r"(?='*[=+\-@＝＋－＠\t\r\n])")
_ESCAPED = re.compile(_BEGINS + r"'(?='*[=+\-@＝＋－＠\t\r\n])")


def cell(text: str) -> str:
    """Make a text harmless in a spreadsheet: what a formula could start with gets an apostrophe before it.

    Texts that start with apostrophes before such a sign get one more, so that removing one always gives the
    text back (`uncell`). Ordinary names are not touched.
    """
    return _FORMULA.sub("'", text)


def uncell(text: str) -> str:
    """Undo `cell`."""
    return _ESCAPED.sub("", text)
