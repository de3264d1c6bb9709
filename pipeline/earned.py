"""Which body part may say *negative*: the rule, and the confidence bound that it rests on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist
from typing import Any

from pipeline.types import SensitivityEvidence

#: A part with so many fractures of its own stands on them alone, with this lower bound ...
OWN_FRACTURES, OWN_LOWER = 30, 0.80
#: ... and one with fewer on its family's, if its own misses are no rarer than this under the family's rate.
FAMILY_LOWER, UNEXPLAINED = 0.90, 0.05
_Z = NormalDist().inv_cdf(0.975)


def wilson(found: int, of: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927); 0 to 1 of none."""
    if not of:
        return 0.0, 1.0
    p, z2 = found / of, _Z**2
    middle, half = p + z2 / (2 * of), _Z * sqrt(p * (1 - p) / of + z2 / (4 * of**2))
    return max(0.0, (middle - half) / (1 + z2 / of)), min(1.0, (middle + half) / (1 + z2 / of))


def wilson_lower(found: int, of: int) -> float:
    """Return the lower end of `wilson`."""
    return wilson(found, of)[0]


def explained(missed: int, of: int, rate: float) -> bool:
    """Tell whether missing so many or more of `of` is likelier than `UNEXPLAINED`, at a rate of misses."""
    if missed == 0:
        return True
    fewer = sum(comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(missed))
    return 1 - fewer > UNEXPLAINED


def earned_alone(fractures: int, found: int) -> bool:
    """Tell whether a part's own fractures let it say *negative*."""
    return fractures >= OWN_FRACTURES and wilson_lower(found, fractures) >= OWN_LOWER


@dataclass(frozen=True)
class PartFigures:
    """What a bundle said of labelled images of one body part, counted at its lower threshold.

    Attributes
    ----------
    positives, found
        Images labelled positive, and how many of them were not below the threshold.
    negatives, cleared
        Images labelled negative, and how many of them were below it.
    """

    positives: int
    found: int
    negatives: int
    cleared: int

    @property
    def sensitivity(self) -> tuple[float, float] | None:
        """95% interval; None without positives."""
        return wilson(self.found, self.positives) if self.positives else None

    @property
    def specificity(self) -> tuple[float, float] | None:
        """95% interval; None without negatives."""
        return wilson(self.cleared, self.negatives) if self.negatives else None

    @property
    def earned(self) -> bool:
        """Whether these images let the part say *negative*."""
        return earned_alone(self.positives, self.found)


def earned(
    fractures: Mapping[str, int],
    found: Mapping[str, int],
    families: Mapping[str, str],
    alone: Collection[str],
) -> dict[str, tuple[bool, SensitivityEvidence]]:
    """Return for each part whether it may say *negative*, and on what evidence.

    Parameters
    ----------
    fractures, found
        By part: held-out fractures, and those that the low threshold found.
    families
        Part to family; the parts are its keys.
    alone
        Parts that no family speaks for; with fewer than `OWN_FRACTURES` they never say negative.
    """
    verdicts = {}
    for part in families:
        n, hit = fractures.get(part, 0), found.get(part, 0)
        relatives = [p for p in families if families[p] == families[part]]
        family_n = sum(fractures.get(p, 0) for p in relatives)
        family_hit = sum(found.get(p, 0) for p in relatives)
        bound = None if part in alone else wilson_lower(family_hit, family_n)
        evidence = SensitivityEvidence(n, hit, wilson_lower(hit, n), bound)
        if n >= OWN_FRACTURES:
            verdicts[part] = (earned_alone(n, hit), evidence)
        elif bound is None or not family_n:
            verdicts[part] = (False, evidence)
        else:
            rate = 1 - family_hit / family_n
            verdicts[part] = (bound >= FAMILY_LOWER and explained(n - hit, n, rate), evidence)
    return verdicts


def earned_by_figures(figures: Mapping[str, Any], region: str) -> tuple[bool, SensitivityEvidence | None]:
    """Return the same for a region that no family speaks for, from the figures of a test part.

    Parameters
    ----------
    figures
        As `training.figures` makes them; a region that they do not tell of, or that they only count because
        it had no fractures or nothing else, may not say negative. Older bundles count ``fractured`` in place
        of ``positives``.
    """
    found = figures.get("regions", {}).get(region) or {}
    sensitivity = found.get("sensitivity_at_low", {}).get("value")
    if sensitivity is None:
        return False, None
    fractures = round((found.get("positives") or found["fractured"])["value"])
    hits = {region: round(sensitivity * fractures)}
    return earned({region: fractures}, hits, {region: region}, {region})[region]


def negative_of(manifest: Mapping[str, Any], region: str) -> tuple[bool, SensitivityEvidence | None]:
    """Return whether a bundle's manifest lets a region say *negative*, and on what evidence.

    Format 1 does not say. It is judged by the figures on its test part that it carries, each region on its
    own; one that carries none may not say it.
    """
    entry = manifest["models"][region]
    if "may_say_negative" in entry:
        kept = entry.get("evidence")
        return bool(entry["may_say_negative"]), SensitivityEvidence(**kept) if kept else None
    return earned_by_figures(manifest.get("metrics") or {}, region)
