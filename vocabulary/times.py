"""How times are written everywhere: in UTC, saying so. Standard library alone: the command line loads it."""

from __future__ import annotations

import re
from datetime import UTC, datetime


def moment(when: datetime | str, *, seconds: bool = False) -> str:
    """Return a time as every page, report, mail and table writes it: in UTC, saying so, to the minute.

    Parameters
    ----------
    when
        An aware time of any zone, or one in ISO 8601.
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
    return f"{when.astimezone(UTC):{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M'}} UTC"


def study_day(day: str) -> str:
    """Return a day as DICOM writes it, YYYYMMDD, as people read it; anything else as it stands."""
    return re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", day)


def instant(when: datetime) -> str:
    """Return a time for machines: ISO 8601 in UTC, whatever the zone in which it was read."""
    return when.astimezone(UTC).isoformat()
