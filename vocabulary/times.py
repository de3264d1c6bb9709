"""How times are written everywhere: with their zone. Standard library alone: the command line loads it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones


def time_left(seconds: float) -> str:
    """Return how long something still takes, no more exactly than it is known."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


@cache
def list_zones() -> tuple[str, ...]:
    """Return the names of time zones that people choose from: of places, and UTC."""
    places = {"Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Europe"}
    places |= {"Indian", "Pacific", "UTC"}
    return tuple(sorted(zone for zone in available_timezones() if zone.split("/")[0] in places))


def known_zone(name: str) -> str:
    """Return the name of a time zone as it came.

    Raises
    ------
    ValueError
        This machine knows no such zone.
    """
    if name not in available_timezones():
        raise ValueError("no time zone of this name is known; one is Europe/Berlin")
    return name


def moment(when: datetime | str, *, zone: str | None = None, seconds: bool = False) -> str:
    """Return a time as every page, report, mail and table writes it: to the minute, with its zone.

    Parameters
    ----------
    when
        An aware time of any zone, or one in ISO 8601.
    zone
        The zone in which it is written, such as ``Europe/Berlin``; None for UTC.
    seconds
        To the second.

    Raises
    ------
    ValueError
        The time has no zone: which moment it means cannot be known.
    """
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    local = when.astimezone(ZoneInfo(zone) if zone else UTC)
    label = local.tzname() or ""
    if not label[:1].isalpha():  # a zone without letters of its own says how far it is off, such as +04
        label = f"UTC{label}"
    return f"{local:{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M'}} {label}"


def study_day(day: str) -> str:
    """Return a day as DICOM writes it, YYYYMMDD, as people read it; anything else as it stands."""
    return re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", day)


def instant(when: datetime) -> str:
    """Return a time for machines: ISO 8601 in UTC, whatever the zone in which it was read."""
    return when.astimezone(UTC).isoformat()
