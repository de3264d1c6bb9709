"""Times are written in UTC and say so, on a machine of any zone and when its clock is put back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from cli.output import moment as of_the_client
from store.base.days import begin_of, end_of
from tests.conftest import ROOT
from vocabulary.times import instant, known_zone, list_zones, moment

PACKAGES = ("cli", "models", "pipeline", "store", "web", "worker")
BERLIN = ZoneInfo("Europe/Berlin")
#: The days of 23 and of 25 hours.
SUMMER = (date(2026, 3, 29), date(2026, 10, 25))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("when", "written"),
    [
        (datetime(2026, 3, 29, 1, 59, tzinfo=BERLIN), "2026-03-29 00:59 UTC"),
        (datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN), "2026-03-29 01:00 UTC"),
        (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), "2026-10-25 00:30 UTC"),
        (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), "2026-10-25 01:30 UTC"),
        (datetime(2026, 7, 1, 0, 30, tzinfo=BERLIN), "2026-06-30 22:30 UTC"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00 UTC"),
    ],
)
def test_a_time_of_any_zone_is_written_in_utc(when: datetime, written: str) -> None:
    assert moment(when) == written
    assert moment(when.isoformat()) == written
    assert of_the_client(when.isoformat()) == written
    assert moment(when, seconds=True) == written.replace(" UTC", ":00 UTC")
    assert instant(when).endswith("+00:00")
    assert datetime.fromisoformat(instant(when)) == when.astimezone(UTC)


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("zone", "when", "written"),
    [
        ("Europe/Berlin", "2026-07-01T12:05:00+00:00", "2026-07-01 14:05 CEST"),
        ("Europe/Berlin", "2026-03-29T00:59:00+00:00", "2026-03-29 01:59 CET"),
        ("Europe/Berlin", "2026-03-29T01:00:00+00:00", "2026-03-29 03:00 CEST"),
        ("Europe/Berlin", "2026-10-25T00:30:00+00:00", "2026-10-25 02:30 CEST"),
        ("Europe/Berlin", "2026-10-25T01:30:00+00:00", "2026-10-25 02:30 CET"),  # the hour comes twice
        ("Asia/Dubai", "2026-07-01T22:30:00+00:00", "2026-07-02 02:30 UTC+04"),
        ("America/New_York", "2026-07-01T02:30:00+00:00", "2026-06-30 22:30 EDT"),
        ("UTC", "2026-07-01T02:30:00+00:00", "2026-07-01 02:30 UTC"),
    ],
)
def test_a_site_writes_times_in_its_zone_and_says_which(zone: str, when: str, written: str) -> None:
    assert moment(when, zone=zone) == written


@pytest.mark.usefixtures("in_berlin")
def test_a_day_begins_at_its_zones_midnight_whatever_the_clock_does() -> None:
    begins = [
        (day, zone, begin_of(day, zone).isoformat()) for day in SUMMER for zone in ("Europe/Berlin", None)
    ]
    assert begins == [
        (SUMMER[0], "Europe/Berlin", "2026-03-28T23:00:00+00:00"),
        (SUMMER[0], None, "2026-03-29T00:00:00+00:00"),
        (SUMMER[1], "Europe/Berlin", "2026-10-24T22:00:00+00:00"),
        (SUMMER[1], None, "2026-10-25T00:00:00+00:00"),
    ]
    hours = [
        (end_of(day, "Europe/Berlin") - begin_of(day, "Europe/Berlin")).total_seconds() / 3600
        for day in SUMMER
    ]
    assert hours == [23, 25]


def test_only_zones_that_are_known_are_taken() -> None:
    assert known_zone("Europe/Berlin") == "Europe/Berlin"
    for name in ("", "Berlin", "europe/berlin", "../etc/passwd", "CEST", "Europe"):
        with pytest.raises(ValueError, match="known"):
            known_zone(name)
    assert {"Europe/Berlin", "America/Sao_Paulo", "UTC"} <= set(list_zones())
    assert not [zone for zone in list_zones() if known_zone(zone) != zone]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        moment(datetime(2026, 1, 1))


def test_no_page_formats_a_time_by_itself() -> None:
    templates = [*ROOT.glob("web/templates/**/*.html"), *ROOT.glob("web/**/*.py")]
    assert templates
    assert [path.name for path in templates if "strftime" in path.read_text()] == []


@pytest.mark.usefixtures("in_berlin")
def test_every_line_of_a_log_is_in_utc() -> None:
    code = "import logging, settings as s; s.start_log(s.Settings()); logging.info('a line')"
    before = datetime.now(UTC).replace(microsecond=0)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    stamp, line = done.stderr.split(" UTC ")
    assert line == "INFO root a line\n"
    assert before <= datetime.fromisoformat(stamp.replace(",", ".") + "+00:00") <= datetime.now(UTC)


def test_nothing_takes_the_machines_own_time() -> None:
    """`datetime` is watched by the linter; of `time` only what was given a time; one log, in `settings`."""
    own = re.compile(
        r"time\.(localtime|ctime|asctime)|time\.strftime\([^,()]*\)|basicConfig\((?!level=level)"
    )
    files = [file for part in PACKAGES for file in (ROOT / part).rglob("*.py")]
    assert [str(file) for file in files if own.search(file.read_text())] == []


def test_the_client_does_not_load_the_pipeline_for_a_time() -> None:
    code = "import cli.output, sys; print([m for m in ('numpy', 'cv2', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
