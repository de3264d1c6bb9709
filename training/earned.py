"""Thresholds by a lower confidence bound; which part may then say *negative*, `pipeline.earned` tells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.earned import wilson_lower
from pipeline.types import Thresholds

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: What the low threshold must show on the images that it is fitted on: a little more than what
#: `pipeline.earned.FAMILY_LOWER` asks of held-out ones; aimed at just that, half of the time it is missed.
SENSITIVITY, SENSITIVITY_LOWER = 0.95, 0.92
SPECIFICITY = 0.90


def cautious_thresholds(probabilities: FloatArray, positive: BoolArray) -> Thresholds:
    """Cut low where the lower bound on sensitivity is still 0.92, and high for a specificity of 0.90.

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
