"""What a bundle says of itself, and the words of findings, for everybody who shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.times import instant, moment
from pipeline.words import (
    GLYPHS,
    NOTICE,
    TRIAGE_WORDS,
    answer_words,
    finding_words,
    headline,
    noun,
    shown_flags,
    with_article,
)
from store.tables import Bundle

__all__ = [
    "GLYPHS",
    "NOTICE",
    "TRIAGE_WORDS",
    "answer_words",
    "finding_words",
    "headline",
    "instant",
    "label_meaning",
    "moment",
    "noun",
    "shown_flags",
    "thresholds",
    "with_article",
]


def label_meaning(bundle: Bundle) -> str:
    """Return what a positive label of the bundle says of an image."""
    return str(bundle.manifest.get("label_meaning", "fractured"))


def thresholds(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Return ``{region: {"low": ..., "high": ...}}`` of the regions that the bundle reads."""
    models: Mapping[str, Any] = bundle.manifest.get("models", {})
    return {
        region: {"low": float(model["thresholds"]["low"]), "high": float(model["thresholds"]["high"])}
        for region, model in models.items()
    }
