"""Which part may say *negative*: thresholds by a lower confidence bound, and the evidence for each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pipeline.types import SensitivityEvidence, Thresholds

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: What the low threshold must show on the images that it is fitted on.
SENSITIVITY, SENSITIVITY_LOWER = 0.95, 0.90
SPECIFICITY = 0.90
#: A part with so many fractures of its own stands on them alone, with this lower bound ...
OWN_FRACTURES, OWN_LOWER = 30, 0.80
#: ... and one with fewer on its family's, if its own misses are no rarer than this under the family's rate.
FAMILY_LOWER, UNEXPLAINED = 0.90, 0.05
_Z = NormalDist().inv_cdf(0.975)


def wilson_lower(found: int, of: int) -> float:
    """Return the lower end of the 95% interval of a share (Wilson 1927); 0 of none."""
    if not of:
        return 0.0
    p, z2 = found / of, _Z**2
    return float((p + z2 / (2 * of) - _Z * np.sqrt(p * (1 - p) / of + z2 / (4 * of**2))) / (1 + z2 / of))


def cautious_thresholds(probabilities: FloatArray, positive: BoolArray) -> Thresholds:
    """Cut low where the lower bound on sensitivity is still 0.90, and high for a specificity of 0.90.

    With too few fractures for the bound, low is the least probability of any.

    Raises
    ------
    ValueError
        One of the two classes is empty.
    """
    up, down = np.sort(probabilities[positive])[::-1], np.sort(probabilities[~positive])
    if not len(up) or not len(down):
        raise ValueError("thresholds need fractured and normal images")
    low = float(up[-1])
    for found in range(len(up), 0, -1):
        if found / len(up) < SENSITIVITY or wilson_lower(found, len(up)) < SENSITIVITY_LOWER:
            break
        low = float(up[found - 1])
    high = float(down[min(int(np.ceil(SPECIFICITY * len(down))), len(down) - 1)])
    return Thresholds(min(low, high), max(low, high))


def explained(missed: int, of: int, rate: float) -> bool:
    """Tell whether missing so many or more of `of` is likelier than `UNEXPLAINED`, at a rate of misses."""
    if missed == 0:
        return True
    fewer = sum(comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(missed))
    return 1 - fewer > UNEXPLAINED


def earned(
    fractures: Mapping[str, int], found: Mapping[str, int], families: Mapping[str, str], alone: Sequence[str]
) -> dict[str, tuple[bool, SensitivityEvidence]]:
    """Return for each part whether it may say *negative*, and on what evidence.

    Parameters
    ----------
    fractures, found
        By part: held-out fractures, and those that the low threshold found.
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
            verdicts[part] = (evidence.lower >= OWN_LOWER, evidence)
        elif bound is None or not family_n:
            verdicts[part] = (False, evidence)
        else:
            rate = 1 - family_hit / family_n
            verdicts[part] = (bound >= FAMILY_LOWER and explained(n - hit, n, rate), evidence)
    return verdicts
