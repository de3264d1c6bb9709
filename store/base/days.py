"""Days as people name them in a query: parsed within bounds that every later sum stays in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

FIRST, LAST = date(1900, 1, 1), date(2999, 12, 31)


def parse_day(text: str) -> date:
    """Return the day of ``YYYY-MM-DD``. Raises `ValueError` with a sentence."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a day as YYYY-MM-DD") from None
    if not FIRST <= day <= LAST:
        raise ValueError(f"must be a day from {FIRST} to {LAST}")
    return day


def begin_of(day: date, zone: str | None = None) -> datetime:
    """Return the first moment of a day of a zone (None: UTC), in UTC."""
    return datetime.combine(day, time(), ZoneInfo(zone) if zone else UTC).astimezone(UTC)


def end_of(day: date, zone: str | None = None) -> datetime:
    """Return the first moment that no longer belongs to a day of a zone (None: UTC), in UTC."""
    return begin_of(day + timedelta(days=1), zone)
