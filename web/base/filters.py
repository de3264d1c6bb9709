"""How times, shares and regions look on pages: the filters and words of every template."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Flask, g

from store.base.tables import Priority
from store.bundles import words
from vocabulary.reasons import REASONS, Reason
from vocabulary.states import (
    STAGES,
    ImageStatus,
    Triage,
)
from vocabulary.words import (
    GLYPHS,
    TONES,
    TRIAGE_WORDS,
    hundredths,
    odds_sentence,
    percents,
    scale_place,
)
from web.contract.images import AttentionRegion


def corners(region: AttentionRegion, width: int, height: int) -> str:
    """Return the path of a region's four corners: open, so that nobody takes them for an outline.

    An arm is at most 3% of the picture's longer side, and never more than a third of an edge.
    """
    arm = min(0.03 * max(width, height), region.width / 3, region.height / 3)
    right, bottom = region.x + region.width, region.y + region.height
    return "".join(
        f"M{x + dx:g} {y}H{x}V{y + dy:g}"
        for x, dx in ((region.x, arm), (right, -arm))
        for y, dy in ((region.y, arm), (bottom, -arm))
    )


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share (0-1) as a percentage that is never rounded to certainty."""
    return "" if value is None else f"{hundredths(value, digits)}%"


def duration(seconds: int | None) -> str:
    """Return a time span as a person says it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def moment(when: datetime | str | None) -> str:
    """Return a time to the minute, in the site's zone; nothing for none."""
    return words.moment(when, zone=_zone()) if when else ""


def second(when: datetime) -> str:
    """Return a time to the second, in the site's zone."""
    return words.moment(when, zone=_zone(), seconds=True)


def _zone() -> str | None:
    """Return the time zone that the site of whoever asks has set."""
    known = g.get("identity")
    return known.time_zone if known else None


def register(app: Flask) -> None:
    """Register the templates' filters and globals."""
    app.jinja_env.filters.update(
        part=words.part_words,
        percent=percent,
        duration=duration,
        moment=moment,
        second=second,
        corners=corners,
        evidence_words=lambda shown: f"{shown.sentence} {shown.about_negative}".strip(),
    )
    app.jinja_env.globals.update(
        GLYPHS=GLYPHS,
        scale_place=scale_place,
        percents=percents,
        odds_sentence=odds_sentence,
        TONES=TONES,
        TRIAGE_WORDS=TRIAGE_WORDS,
        TRIAGES=list(Triage),
        IMAGE_STATUSES=list(ImageStatus),
        STAGES=list(STAGES),
        PRIORITIES=list(Priority),
        reason_sentence=lambda code: REASONS[Reason(code)].sentence,
    )

    @app.context_processor
    def current_user() -> dict[str, Any]:
        return {"current_user": g.get("identity")}
