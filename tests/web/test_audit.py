"""The audit: what is noted, how often, and how an administrator reads it."""

from __future__ import annotations

import csv
import io
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import literal_column, select
from sqlalchemy.exc import OperationalError

from store.accounts import accounts
from store.base.session import session_scope, statement_scope
from store.base.tables import ApiKey, Audit, Site, User
from store.operations.audit import AuditFilter, broken_links, list_actions, list_lines
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from web.auth import identity


def lines(action: str) -> list[Audit]:
    with session_scope() as session:
        return list(session.scalars(select(Audit).where(Audit.action == action)))


def read(ask: Asker) -> tuple[str, str]:
    batch = ask.draft()
    ask.send(batch, ("name of a patient.png", png("1")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    return batch, ask.get(f"/batches/{batch}/images").json["items"][0]["id"]


def test_who_saw_what_is_noted_once_in_a_while(browser: Browser, ask: Asker) -> None:
    batch, image = read(ask)
    for _ in range(3):
        browser.client.get(f"/images/{image}")
        browser.client.get(f"/batches/{batch}")
        browser.client.get(f"/api/v1/images/{image}/overlay")  # belongs to the page
        browser.client.get(f"/api/v1/images/{image}/report")
        ask.get(f"/images/{image}/original")
    for action, subject in {
        "image_viewed": image,
        "batch_viewed": batch,
        "report_viewed": image,
        "original_viewed": image,
    }.items():
        assert [line.object_id for line in lines(action)] == [subject], action
    assert lines("overlay_viewed") == []
    ask.get(f"/images/{image}/overlay")
    assert len(lines("overlay_viewed")) == 1  # a program has no page
    for _ in range(2):
        ask.get(f"/batches/{batch}/results.csv")
    assert len(lines("results_csv_downloaded")) == 2  # what was taken away is noted each time


def test_views_of_the_same_time_are_noted_in_one_transaction_a_line_for_each_person(ask: Asker) -> None:
    with session_scope() as session:
        (site,) = session.scalars(select(User.site_id).distinct())
        people = [
            accounts.create_user(session, site, f"{n}@hospital.example", role=accounts.Role.STAFF).id
            for n in range(3)
        ]
    origin = accounts.Origin("192.0.2.7")
    views = [accounts.View(site, person, "batch_viewed", "b", origin) for person in people]
    for seen in ([*views, views[0]], [*views, accounts.View(site, people[0], "batch_viewed", "c", origin)]):
        with statement_scope() as session:
            accounts.write_views(session, seen)
    found = lines("batch_viewed")
    assert Counter((line.user_id, line.object_id) for line in found) == Counter(
        [*((person, "b") for person in people), (people[0], "c")]
    )
    assert {(line.address, line.key_id) for line in found} == {("192.0.2.7", None)}
    with session_scope() as session:
        transactions = session.scalars(
            select(literal_column("xmin::text")).select_from(Audit).where(Audit.object_id == "b")
        )
        assert len(set(transactions)) == 1
        assert not broken_links(session.connection(), most=1)


def test_what_is_not_shown_is_not_noted_and_what_cannot_be_noted_is_not_shown(
    browser: Browser, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, image = read(ask)
    assert browser.client.get(f"/batches/{uuid.uuid4()}").status_code == 404
    seen = lines("batch_viewed")
    assert [line.object_id for line in seen] == [batch], "by the key"

    def fail(_views: object) -> None:
        raise OperationalError("INSERT", None, ConnectionError("the database is away"))

    monkeypatch.setattr(identity._views, "_write", fail)
    for page in (f"/batches/{batch}", f"/images/{image}", f"/api/v1/images/{image}"):
        answer = browser.client.get(page)
        assert answer.status_code == 503, page
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "patient.png" not in answer.text
    assert len(lines("batch_viewed")) == len(seen)
    assert lines("image_viewed") == []


def test_a_line_says_from_where_and_by_which_key(browser: Browser, ask: Asker) -> None:
    with session_scope() as session:
        key_id = session.scalars(select(ApiKey.id)).one()
    batch = ask.draft()
    (line,) = lines("batch_created")
    assert (line.object_id, line.address, line.key_id, line.operator) == (batch, "127.0.0.1", key_id, None)
    for _ in range(2):
        assert browser.client.get("/worklist").status_code == 200
    (line,) = lines("worklist_viewed")
    assert (line.address, line.key_id) == ("127.0.0.1", None)
    other = Browser(browser.client.application.test_client())
    assert other.sign_in(email="nobody@hospital.example", password="guess").status_code == 401
    (line,) = lines("sign_in_failed")  # of nobody that is known: without what was typed
    assert (line.user_id, line.object_id, line.detail) == (None, None, {})
    rows = list(csv.DictReader(io.StringIO(browser.client.get("/admin/audit/audit.csv").text)))
    assert {row["api_key"] for row in rows if row["action"] == "batch_created"} == {str(key_id)}


def test_the_page_filters_and_pages(browser: Browser, ask: Asker, stranger: Asker) -> None:
    batch, _ = read(ask)
    theirs = stranger.draft()
    page = browser.client.get("/admin/audit").text
    assert "batch submit" in page
    assert batch in page
    assert theirs not in page
    assert "name of a patient" not in page
    one = browser.client.get(f"/admin/audit?object={batch}&action=batch_submit&person=&first=&last=").text
    assert one.count("<tr>") == 2  # the head and one line
    day = datetime.now(UTC).date()
    assert batch in browser.client.get(f"/admin/audit?first={day - timedelta(days=1)}&last={day}").text
    assert "No line matches" in browser.client.get(f"/admin/audit?last={day - timedelta(days=2)}").text
    for wrong in ("person=me", "first=today", "page=2", "cursor=x"):
        assert browser.client.get(f"/admin/audit?{wrong}").status_code == 422


def test_pages_follow_each_other_without_gaps(site_key: str) -> None:
    with session_scope() as session:
        site, user = session.scalars(select(Site)).one(), session.scalars(select(User)).one()
        for n in range(25):  # one transaction: all of the same moment
            accounts.write_audit(session, site.id, user.id, "test", n)
    seen: list[str] = []
    cursor = None
    with session_scope() as session:
        while True:
            page = list_lines(session, site.id, AuditFilter(action="test"), cursor=cursor, limit=10)
            seen += [line.audit.object_id for line in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [str(n) for n in range(24, -1, -1)]
        assert list_actions(session, site.id) == ["api_key_created", "test"]


def test_the_csv_is_whole_and_harmless(browser: Browser, ask: Asker, stranger: Asker) -> None:
    with session_scope() as session:
        site, user = session.scalars(select(Site).order_by(Site.created_at)).first(), None
        for n in range(1200):
            accounts.write_audit(session, site.id, user, "test", f"=cmd{n}")
    answer: Any = browser.client.get("/admin/audit/audit.csv?action=test")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["object_id"] for row in rows] == [f"'=cmd{n}" for n in range(1199, -1, -1)]
    assert {row["person"] for row in rows} == {""}
    assert [line.detail for line in lines("audit_downloaded")] == [{"filters": {"action": "test"}}]
