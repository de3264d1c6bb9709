"""Which letters a report can print: fonts for those that its own typeface lacks, and codes for the rest."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from bisect import bisect_right
from functools import cache
from itertools import pairwise
from pathlib import Path

from fontTools.ttLib import TTFont

FONTS = Path(__file__).parent / "fonts"
#: Written right to left. A value that holds such a letter must not reorder the sentence around it.
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
#: Have no picture of their own in any font (Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\\s]"
)
#: Ask for a picture in colours or a plain one: no font here has the former, and a digit would count as one.
_PRESENTATION = re.compile("[\ufe0e\ufe0f]")


def isolated(text: str) -> str:
    """Return the text so that its right-to-left letters do not reorder what stands around it.

    A text without such letters comes back as it is.
    """
    if not _RIGHT_TO_LEFT.search(text):
        return text
    return "\n".join(f"{FIRST_STRONG_ISOLATE}{line}{POP_ISOLATE}" for line in text.split("\n"))


@cache
def letters_of(name: str) -> frozenset[int]:
    """Return the letters that a file below `FONTS` has, by its own table."""
    with TTFont(io.BytesIO((FONTS / name).read_bytes()), lazy=True) as font:
        return frozenset(font.getBestCmap())


@cache
def coverage() -> dict[str, tuple[list[int], list[int]]]:
    """Return the first and last letter of each run that a font is said to have, in the order to ask them."""
    stated = json.loads((FONTS / "noto" / "coverage.json").read_text("utf-8"))
    return {
        f"noto/{name}": ([low for low, _ in runs], [high for _, high in runs])
        for name, runs in stated.items()
    }


def _font_of(letter: str) -> str | None:
    code = ord(letter)
    for name, (lows, highs) in coverage().items():
        at = bisect_right(lows, code) - 1
        if at >= 0 and code <= highs[at] and code in letters_of(name):
            return name
    return None


def fonts_for(text: str, own: frozenset[int]) -> tuple[str, tuple[str, ...]]:
    """Find the fonts that a text needs beyond the report's own, and write out what none of them has.

    Parameters
    ----------
    own
        The letters of the report's own typeface.

    Returns
    -------
    str
        The text; a letter that no font has is its code, such as ``U+1F9B4``, in brackets where it would run
        into a letter, a digit or another code.
    tuple of str
        Files below `FONTS`, in the order in which they are to be asked.
    """
    foreign = {letter for letter in set(text) if ord(letter) not in own and not _INVISIBLE.match(letter)}
    if not foreign:
        return text, ()
    found = {letter: _font_of(letter) for letter in foreign}
    needed = {name for name in found.values() if name}
    unknown = {letter for letter, name in found.items() if name is None}
    return _spelt(_PRESENTATION.sub("", text), unknown), tuple(name for name in coverage() if name in needed)


def _spelt(text: str, unknown: set[str]) -> str:
    if not unknown:
        return text
    around = ["", *text, ""]
    written = []
    for (before, letter), after in zip(pairwise(around), around[2:], strict=False):
        if letter not in unknown:
            written.append(letter)
            continue
        code = f"U+{ord(letter):04X}"
        joined = any(
            near in unknown or near.isalnum() or unicodedata.combining(near)
            for near in (before, after)
            if near
        )
        written.append(f"[{code}]" if joined else code)
    return "".join(written)
