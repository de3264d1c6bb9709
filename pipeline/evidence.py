"""What a bundle's manifest shows for each part: fractures found, figures, the share in doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.earned import FAMILY_LOWER, OWN_FRACTURES, OWN_LOWER, negative_of, wilson
from vocabulary.anatomy import family_of, part_words
from vocabulary.states import Triage
from vocabulary.words import noun


@dataclass(frozen=True)
class Figure:
    """A figure, 0-1, and its 95% interval."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class PartEvidence:
    """What is known of one part from films that no weight was fitted on.

    Attributes
    ----------
    fractures, found
        Held-out films with a fracture, and how many of them the low threshold found.
    family_lower
        Lower 95% bound on the sensitivity over the part's family; None where it stands alone.
    films
        Held-out films of the part; None in a bundle that does not say. Figures are None then, too, and where
        a part has no fractures or nothing else.
    in_doubt
        Share of the films that end *in doubt*: between the thresholds, and below the lower one where the part
        may not say negative.
    """

    region: str
    family: str
    may_say_negative: bool
    fractures: int
    found: int
    family_lower: float | None
    films: int | None = None
    auc: Figure | None = None
    sensitivity: Figure | None = None
    specificity: Figure | None = None
    in_doubt: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of found / fractures (Wilson 1927)."""
        return wilson(self.found, self.fractures)

    def sentence(self, label_meaning: str) -> str:
        """Return what the part's figures are, for a person."""
        part, thing = part_words(self.region), noun(label_meaning)
        things = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
        if not self.fractures:
            words = f"For the {part}: no held-out {thing} shows how many are found"
        else:
            low, high = (f"{100 * bound:.0f}" for bound in self.interval)
            words = (
                f"For the {part}: found {self.found} of {self.fractures} {things} (95% interval {low} to "
                f"{high}%) in held-out films"
            )
        if self.in_doubt is None or self.films is None:
            return f"{words}."
        return f"{words}; {100 * self.in_doubt:.0f}% of its {self.films} films were in doubt."

    def about_negative(self, triage: Triage | None = None) -> str:
        """Return why the part does not say negative, or on whose evidence; empty where its own is enough.

        Parameters
        ----------
        triage
            What was said of an image: a negative that the bundle has not earned was allowed by the site.
        """
        if self.may_say_negative:
            if self.fractures >= OWN_FRACTURES or self.family_lower is None:
                return ""
            return (
                f"It says negative on the evidence of its family ({self.family}): sensitivity at least "
                f"{self.family_lower:.2f}."
            )
        if triage is Triage.NEGATIVE:
            return "It says negative here because this site has validated it on images of its own."
        if self.fractures >= OWN_FRACTURES:
            bound = self.interval[0]
            reason = f"sensitivity may be as low as {_down(bound)}, and {OWN_LOWER:.2f} is asked"
        elif self.family_lower is None:
            reason = f"{OWN_FRACTURES} are asked of a part that no others can speak for"
        elif self.family_lower < FAMILY_LOWER:
            reason = (
                f"fewer than {OWN_FRACTURES}, and over its family ({self.family}) sensitivity may be as low "
                f"as {_down(self.family_lower)}, where {FAMILY_LOWER:.2f} is asked"
            )
        else:
            reason = f"more were missed than the rate of its family ({self.family}) explains"
        return f"It never says negative: {reason}."


def part_evidence(manifest: Mapping[str, Any], region: str) -> PartEvidence | None:
    """Return what a bundle's manifest, of either format, shows for a region; None where nothing reads it."""
    if region not in manifest.get("models", {}):
        return None
    allowed, evidence = negative_of(manifest, region)
    return PartEvidence(
        region,
        family_of(region, manifest.get("families") or {}),
        allowed,
        evidence.fractures if evidence else 0,
        evidence.found if evidence else 0,
        evidence.family_lower if evidence else None,
        **_figures(_rows(manifest).get(region) or {}, allowed=allowed),
    )


def _rows(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures by region that rest on the most films."""
    tables = [
        table
        for table in (manifest.get("figures") or {}).values()
        if isinstance(table, Mapping) and "overall" in table
    ]
    if metrics := manifest.get("metrics") or {}:
        tables.append({**metrics.get("regions", {}), "overall": metrics.get("overall", {})})
    return max(tables, key=lambda table: _number(table["overall"], "images") or 0, default={})


def _number(row: Mapping[str, Any], key: str) -> float | None:
    kept = row.get(key)
    value = kept.get("value") if isinstance(kept, Mapping) else kept
    return None if value is None else float(value)


def _figures(row: Mapping[str, Any], *, allowed: bool) -> dict[str, Any]:
    films = _number(row, "images")
    if films is None:
        return {}

    def figure(key: str) -> Figure | None:
        value = _number(row, key)
        interval = (row.get(key) or {}).get("interval")
        return None if value is None else Figure(value, tuple(interval) if interval else None)

    sensitivity, specificity = figure("sensitivity_at_low"), figure("specificity_at_low")
    return {
        "films": round(films),
        "auc": figure("auc"),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "in_doubt": _in_doubt(row, films, allowed=allowed),
    }


def _in_doubt(row: Mapping[str, Any], films: float, *, allowed: bool) -> float | None:
    """Return the share of films that are not below low, or not called negative, and not positive."""
    names = ("sensitivity_at_low", "specificity_at_low", "sensitivity_at_high", "specificity_at_high")
    rates = [_number(row, name) for name in names]
    fractured = _number(row, "positives")
    fractured = _number(row, "fractured") if fractured is None else fractured
    if fractured is None or not films or any(rate is None for rate in rates):
        return None
    sensitivity_low, specificity_low, sensitivity_high, specificity_high = (rate or 0.0 for rate in rates)
    normal = films - fractured
    not_positive = (1 - sensitivity_high) * fractured + specificity_high * normal
    below = (1 - sensitivity_low) * fractured + specificity_low * normal if allowed else 0.0
    return max(0.0, not_positive - below) / films


def _down(bound: float) -> str:
    """Return a lower bound with two digits, never more than it is."""
    return f"{math.floor(round(bound * 100, 6)) / 100:.2f}"
