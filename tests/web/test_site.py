"""What an administrator sets for the whole site: the time zone of its pages, reports and days."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from store.base.session import session_scope
from store.base.tables import Audit, Batch, Image, Site
from store.reading.worklist_tables import WorklistRow
from tests.web.asking import Asker, Browser
from tests.web.test_admin_api import fits
from tests.web.test_audit import read

#: 23:30 on the day before in UTC, 01:30 of the day on which Berlin's clock goes forward.
ARRIVED = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)


@pytest.fixture
def batch(ask: Asker) -> str:
    """A batch that arrived in the night in which summer time began."""
    batch, _ = read(ask)
    with session_scope() as session:
        for table in (Batch, Image):
            session.execute(update(table).values(created_at=ARRIVED))
        session.execute(update(WorklistRow).values(arrived_at=ARRIVED, day=ARRIVED.date(), since=ARRIVED))
        session.execute(update(Batch).values(submitted_at=ARRIVED))
        site = session.scalars(select(Site)).one()
        session.add(Audit(site_id=site.id, action="batch_submit", object_id=batch, at=ARRIVED, detail={}))
    return batch


def berlin(browser: Browser) -> None:
    answer = browser.post("/admin/site", time_zone="Europe/Berlin", starts_with_map="on")
    assert answer.status_code == 303, answer.text


def test_pages_write_times_in_the_site_s_zone_and_the_api_stays_in_utc(
    browser: Browser, ask: Asker, batch: str
) -> None:
    get = browser.client.get
    assert "2026-03-28 23:30 UTC" in get("/worklist").text
    assert "data-time-zone" not in get("/worklist").text
    berlin(browser)
    for page in ("/worklist", f"/batches/{batch}", "/batches", "/downloads"):
        text = get(page).text
        assert "2026-03-29 00:30 CET" in text, page
        assert 'data-time-zone="Europe/Berlin"' in text
        assert "23:30" not in re.sub(r'datetime="[^"]*"', "", text)
    assert "2026-03-29 00:30:00 CET" in get("/admin/audit?last=2026-03-29").text
    assert ask.get(f"/batches/{batch}").json["created_at"].startswith("2026-03-28T23:30:00")
    assert ask.get("/worklist").json["items"][0]["arrived_at"] == "2026-03-28T23:30:00+00:00"


def test_days_of_filters_are_the_site_s(browser: Browser, ask: Asker, batch: str) -> None:
    def found(day: str) -> tuple[bool, ...]:
        listed = ask.get(f"/worklist?from={day}&until={day}").json["items"]
        lines = ask.get(f"/results?format=jsonl&since={day}&until={day}").text
        audit = browser.client.get(f"/admin/audit?first={day}&last={day}&action=batch_submit").text
        return bool(listed), bool(lines), batch in audit

    assert (found("2026-03-28"), found("2026-03-29")) == ((True,) * 3, (False,) * 3)
    berlin(browser)
    assert (found("2026-03-28"), found("2026-03-29")) == ((False,) * 3, (True,) * 3)
    assert "Arrived from (Europe/Berlin)" in browser.client.get("/worklist").text
    assert "Uploaded from (Europe/Berlin)" in browser.client.get("/downloads").text
    assert "From (Europe/Berlin)" in browser.client.get("/admin/audit").text
    for minute, there in ((datetime(2026, 3, 29, 21, 59), True), (datetime(2026, 3, 29, 22, 1), False)):
        with session_scope() as session:  # the day has 23 hours
            moved = {"arrived_at": minute.replace(tzinfo=UTC), "day": minute.date()}
            session.execute(update(WorklistRow).values(moved))
        assert bool(ask.get("/worklist?from=2026-03-29&until=2026-03-29").json["items"]) is there


def test_a_prepared_file_keeps_the_zone_in_which_it_was_asked_for(
    browser: Browser, ask: Asker, batch: str
) -> None:
    berlin(browser)
    wish = {"format": "jsonl", "since": "2026-03-29", "until": "2026-03-29"}
    assert ask.post("/exports", json=wish).json["request"]["zone"] == "Europe/Berlin"


def test_a_name_that_is_no_zone_is_refused_in_the_form_and_by_the_api(browser: Browser, ask: Asker) -> None:
    answer = browser.post("/admin/site", time_zone="Berlin", starts_with_map="on")
    assert answer.status_code == 422
    assert "no time zone of this name is known" in answer.text
    assert 'value="Berlin"' in answer.text
    wish = {"time_zone": "CEST", "starts_with_map": True}
    assert browser.asker()("PUT", "/site", json=wish).status_code == 422


def test_the_api_sets_it_for_administrators_and_the_audit_says_so(browser: Browser) -> None:
    ask: Any = browser.asker()
    assert fits("Site", ask.get("/site"))["time_zone"] is None
    wish = {"time_zone": "America/Sao_Paulo", "starts_with_map": False}
    told = fits("Site", ask("PUT", "/site", json=wish))
    assert {name: told[name] for name in wish} == wish
    assert fits("Site", ask("PUT", "/site", json=wish | {"time_zone": None}))["time_zone"] is None
    with session_scope() as session:
        said = session.scalars(select(Audit).where(Audit.action == "time_zone_changed").order_by(Audit.id))
        assert [line.detail for line in said] == [
            {"before": None, "zone": "America/Sao_Paulo"},
            {"before": "America/Sao_Paulo", "zone": None},
        ]
        assert session.scalars(select(Site)).one().starts_with_map is False
