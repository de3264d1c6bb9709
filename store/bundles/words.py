"""What a bundle says of itself, and the words of findings, for everybody who shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.evidence import PartEvidence, part_evidence
from store.base.tables import Bundle
from vocabulary.anatomy import coded_region, family_of, part_words
from vocabulary.times import instant, moment
from vocabulary.words import (
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

__all__ = [
    "GLYPHS",
    "NOTICE",
    "TRIAGE_WORDS",
    "PartEvidence",
    "answer_words",
    "coded_region",
    "evidence",
    "families",
    "family",
    "family_of",
    "finding_words",
    "headline",
    "instant",
    "label_meaning",
    "moment",
    "noun",
    "part_words",
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


def families(bundle: Bundle) -> dict[str, str]:
    """Return the family of each region that the bundle reads."""
    said: Mapping[str, str] = bundle.manifest.get("families") or {}
    return {region: family_of(region, said) for region in bundle.manifest.get("models", {})}


def evidence(bundle: Bundle, region: str) -> PartEvidence | None:
    """Return what the bundle has shown for a region; None where it does not read it."""
    return part_evidence(bundle.manifest, region)


def family(bundle: Bundle, region: str | None) -> str | None:
    """Return the family of a region in a bundle; None where none is known."""
    return family_of(region, bundle.manifest.get("families") or {}) or None if region else None
