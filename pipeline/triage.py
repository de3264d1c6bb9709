"""Logit to calibrated probability, and calibrated probability to triage."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.types import Platt, RegionModel, Thresholds
from vocabulary.reasons import Reason
from vocabulary.states import Triage

#: What decoding may say of a picture that the network perhaps does not see as its maker meant it.
PICTURE_FLAGS = frozenset(
    {
        Reason.PARTIAL_PICTURE,
        Reason.TOO_LITTLE_CONTRAST,
        Reason.LOW_CONTRAST,
        Reason.SATURATED_PICTURE,
        Reason.INVERTED_PICTURE,
        Reason.PERHAPS_INVERTED,
        Reason.WINDOW_REPLACED,
        Reason.HEADER_VALUE_UNREADABLE,
        Reason.HEADER_CONTRADICTS_PICTURE,
        Reason.DAMAGED_PICTURE_DATA,
        Reason.NON_SQUARE_PIXELS,
        Reason.ELONGATED_PICTURE,
    }
)
#: With one of these an image is never reported negative.
NEVER_NEGATIVE = PICTURE_FLAGS | {
    Reason.REGION_CONTRADICTS_HEADER,
    Reason.SEVERAL_REGIONS,
    Reason.NEGATIVE_NOT_VALIDATED,
}


def may_be_negative(flags: Iterable[Reason]) -> bool:
    """Tell whether an image with these flags may be reported negative."""
    return NEVER_NEGATIVE.isdisjoint(flags)


def withheld(probability: float, thresholds: Thresholds, *, may_say_negative: bool) -> frozenset[Reason]:
    """Return the flag of a reading that is below the lower threshold where *negative* was not earned.

    Parameters
    ----------
    may_say_negative
        Whether the bundle's evidence, or the site's own, allows the body part to be called negative.
    """
    if probability < thresholds.low and not may_say_negative:
        return frozenset({Reason.NEGATIVE_NOT_VALIDATED})
    return frozenset()


def calibrate(logit: float, platt: Platt) -> float:
    """Return the calibrated probability ``sigmoid(slope * logit + intercept)``, 0-1 (Platt 1999).

    Raises
    ------
    ValueError
        The logit is not a finite number.
    """
    if not math.isfinite(logit):
        raise ValueError(f"a logit must be finite, not {logit}")
    z = platt.slope * logit + platt.intercept
    # each branch takes exp of a number <= 0, which cannot overflow
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def triage(probability: float, thresholds: Thresholds, *, never_negative: bool = False) -> Triage:
    """Cut a calibrated probability at the two operating points.

    Parameters
    ----------
    probability
        Calibrated, 0-1.
    thresholds
        Below `low` negative, from `high` up positive, doubt between.
    never_negative
        A flag forbids *negative* for this image: it becomes *doubt*.

    Raises
    ------
    ValueError
        The probability lies outside 0-1, or the thresholds are out of order.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability lies within 0-1, not {probability}")
    if thresholds.low > thresholds.high:
        raise ValueError(f"threshold low {thresholds.low} exceeds high {thresholds.high}")
    if probability >= thresholds.high:
        return Triage.POSITIVE
    if probability >= thresholds.low or never_negative:
        return Triage.DOUBT
    return Triage.NEGATIVE


def judge(
    probability: float, model: RegionModel, flags: Iterable[Reason], *, may_say_negative: bool
) -> tuple[Triage, set[Reason]]:
    """Return what is said of an image, and its flags with those that come of saying it.

    Parameters
    ----------
    probability
        Calibrated, 0-1.
    flags
        Of the picture and of its way to the network; that *negative* was withheld before does not count.
    may_say_negative
        As `withheld` takes it.
    """
    kept = set(flags) - {Reason.NEGATIVE_NOT_VALIDATED}
    if model.pooled:
        kept.add(Reason.POOLED_MODEL)
    kept |= withheld(probability, model.thresholds, may_say_negative=may_say_negative)
    return triage(probability, model.thresholds, never_negative=not may_be_negative(kept)), kept
