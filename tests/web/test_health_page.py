"""What administrators see of the service: the page of health."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select, update

from store.base.session import session_scope
from store.base.tables import Maintenance, NoticeTarget, Site, Worker
from store.intake.poll_sources import PollSource
from store.operations import monitoring
from store.outgoing.delivery_tables import Destination
from tests.web.asking import Asker, Browser, png
from tests.web.browsing import chromium, page, sign_in
from tests.web.test_results import finished

__all__ = ["chromium", "page"]


def add_worker(name: str, *queues: str, seen: timedelta = timedelta(0)) -> None:
    with session_scope() as session:
        session.merge(
            Worker(name=name, queues=list(queues), slots=2, version="9.9", seen_at=func.now() - seen)
        )


@pytest.fixture
def busy(ask: Asker) -> None:
    """Something that waits, something that failed, a worker that is there and one that is gone."""
    finished(ask, ("a.png", png("a")), ("b.txt", b"text"), fail=frozenset({"a.png"}))
    batch = ask.draft()
    ask.send(batch, ("c.png", png("c")))
    ask.post(f"/batches/{batch}/submit")
    add_worker("here@host", "cpu", "report")
    add_worker("gone@host", "gpu", seen=timedelta(minutes=5))
    with session_scope() as session:
        monitoring.record_success(session, monitoring.Step.RECOVER)
        monitoring.record_failure(session, monitoring.Step.DELETION, "secret words of an exception")
        monitoring.expect_steps(session)
        long_ago = update(Maintenance).where(Maintenance.step == monitoring.Step.MONITORING)
        session.execute(long_ago.values(known_since=func.now() - timedelta(minutes=31)))


def test_it_says_what_is_wrong_and_what_waits(
    page: Page, link: Callable[[], str], ask: Asker, busy: None
) -> None:
    sign_in(page, link)
    page.get_by_role("link", name="Admin", exact=True).click()
    page.get_by_role("link", name="Health").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No gpu worker was seen in 30 seconds.")
    expect(alert).not_to_contain_text("cpu")
    queues = page.get_by_role("region", name="Queues").get_by_role("row")
    expect(queues.filter(has_text="cpu")).to_contain_text("1")
    workers = page.get_by_role("region", name="Workers").get_by_role("row")
    expect(workers.filter(has_text="here@host")).to_contain_text("at work")
    expect(workers.filter(has_text="here@host")).to_contain_text("another version")
    expect(workers.filter(has_text="gone@host")).to_contain_text("gone")
    failures = page.get_by_role("region", name="Not read")
    expect(failures).to_contain_text("not_an_image")
    expect(failures).to_contain_text("worker_lost")
    steps = page.get_by_role("region", name="Recovery and cleaning up")
    expect(steps.get_by_role("row").filter(has_text="deletion")).to_contain_text("failed")
    expect(alert).to_contain_text("“deletion” failed when last done")
    expect(steps.get_by_role("row").filter(has_text="monitoring")).to_contain_text("never")
    expect(alert).to_contain_text("“monitoring” never went through")
    expect(steps.get_by_role("row").filter(has_text="scratch")).to_contain_text("not yet")
    expect(page.get_by_text("secret words")).to_have_count(0)
    expect(page.get_by_text("none by fractureai backup")).to_be_visible()


def everything_went_through() -> None:
    add_worker("one", "cpu", "gpu", "report", "notices", "exports")
    with session_scope() as session:
        for step in monitoring.Step:
            monitoring.record_success(session, step)


def first_line(browser: Browser) -> str:
    return browser.client.get("/admin/health").text.split('id="health"')[1].split("<section")[0]


@pytest.mark.parametrize("step", list(monitoring.Step))
def test_the_first_line_says_which_step_fails_or_is_overdue(browser: Browser, step: monitoring.Step) -> None:
    everything_went_through()
    assert "is there, and every step" in first_line(browser)
    with session_scope() as session:
        monitoring.record_failure(session, step, "secret words of an exception")
    words = first_line(browser)
    assert f"“{step}” failed when last done" in words
    assert "is there" not in words
    with session_scope() as session:
        monitoring.record_success(session, step)
    assert "is there" in first_line(browser)
    with session_scope() as session:
        half_an_hour = func.now() - timedelta(minutes=31)
        session.execute(update(Maintenance).where(Maintenance.step == step).values(succeeded_at=half_an_hour))
    late = first_line(browser)
    assert (
        "Recovery does not go through" if step == monitoring.Step.RECOVER else f"“{step}” is overdue"
    ) in late
    assert "is there" not in late
    with session_scope() as session:
        session.execute(
            update(Maintenance)
            .where(Maintenance.step == step)
            .values(succeeded_at=None, known_since=half_an_hour)
        )
    never = first_line(browser)
    assert "Recovery does not" in never or f"“{step}” never went through" in never


def test_a_fresh_servers_first_round_is_not_overdue(browser: Browser) -> None:
    """Deleting alone may take many rounds: until each step's turn has come, it is not late."""
    add_worker("one", "cpu", "gpu", "report", "notices", "exports")
    with session_scope() as session:
        monitoring.expect_steps(session)
        monitoring.record_success(session, monitoring.Step.RECOVER)
    assert "is there, and every step" in first_line(browser)
    steps = browser.client.get("/admin/health").text.split("Recovery and cleaning up")[1]
    assert "overdue" not in steps
    assert steps.count("not yet") == len(monitoring.Step) - 1


def test_the_first_line_says_whom_nothing_reaches(browser: Browser) -> None:
    everything_went_through()
    with session_scope() as session:
        site = session.scalars(select(Site.id)).first()
        session.add_all(
            [
                Destination(
                    **{
                        "site_id": site,
                        "name": "north",
                        "protocol": "dimse",
                        "address": "a:1",
                        "kinds": ["sr"],
                    },
                    stopped="another patient",
                ),
                NoticeTarget(
                    **{"site_id": site, "channel": "webhook", "address": "https://hook", "events": []},
                    failures=2,
                ),
                PollSource(
                    site_id=site, name="vault", address="https://v", cursor_day=date.today(), error="401"
                ),
            ]
        )
    words = first_line(browser)
    for name in ("north", "https://hook", "vault"):
        assert f" {name}: see" in words


def test_a_backup_is_known_and_grows_old(browser: Browser) -> None:
    with session_scope() as session:
        monitoring.record_success(session, monitoring.BACKUP)
    text = browser.client.get("/admin/health").text
    assert f"{datetime.now(UTC):%Y-%m-%d}" in text.split("Last backup")[1].split("</dl>")[0]
    assert "overdue" not in text
    with session_scope() as session:
        session.execute(
            update(Maintenance)
            .where(Maintenance.step == monitoring.BACKUP)
            .values(succeeded_at=func.now() - timedelta(days=3))
        )
    assert "overdue" in browser.client.get("/admin/health").text


def test_how_busy_other_sites_are_is_not_told(ask: Asker, stranger: Asker, browser: Browser) -> None:
    for of, n in ((ask, 2), (stranger, 5)):
        batch = of.draft()
        of.send(batch, *((f"{k}.png", png(f"{n} {k}")) for k in range(n)))
        of.post(f"/batches/{batch}/submit")
    with session_scope() as session:
        everybody = monitoring.queue_depths(session)
        assert (everybody["cpu"].waiting, everybody["gpu"].waiting) == (7, 0)
        sites = dict(session.execute(select(Site.name, Site.id)).all())
        own = monitoring.queue_depths_of_site(session, sites["Other hospital"])
        assert own.keys() == everybody.keys()
        assert own["cpu"].waiting == 5
        assert own["cpu"].oldest_seconds <= everybody["cpu"].oldest_seconds
    cells = browser.client.get("/admin/health").text.split("Queues</h2>")[1].split("</section>")[0]
    numbers = re.findall(r'class="number">(\d+)<', cells)
    assert "2" in numbers
    assert not {"5", "7"} & set(numbers)
