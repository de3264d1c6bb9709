"""Words for labels and regions in data sets that are not ours to name."""

from __future__ import annotations

#: Label words and what a positive then means; a bare number or yes/no says nothing of it.
_POSITIVE = {
    "fractured": "fractured",
    "fracture": "fractured",
    "broken": "fractured",
    "abnormal": "abnormal",
    "positive": "",
    "1": "",
    "true": "",
    "yes": "",
}
_NEGATIVE = frozenset(
    {
        "normal",
        "negative",
        "0",
        "false",
        "no",
        "healthy",
        "non_fractured",
        "not_fractured",
        "unfractured",
        "intact",
    }
)
#: What a positive means where the label's word does not say it: the weaker claim.
WEAKEST_MEANING = "abnormal"


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def label(word: str) -> bool | None:
    """Return whether a word is a positive label; None when it is no label."""
    word = _plain(word)
    return True if word in _POSITIVE else False if word in _NEGATIVE else None


def meaning(word: str) -> str:
    """Return what a label word says that a positive means; empty when it does not."""
    return _POSITIVE.get(_plain(word), "fractured" if "fractured" in _plain(word) else "")


def region(word: str) -> str:
    """Return a region's name as we write it: ``XR_ELBOW`` is ``elbow``."""
    return _plain(word).removeprefix("xr_")
