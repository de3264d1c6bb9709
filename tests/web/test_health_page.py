"""What administrators see of the service: the page of health."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select, update

from store.base.session import session_scope
from store.base.tables import Maintenance, Site, Worker
from store.operations import monitoring
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
        monitoring.note_success(session, monitoring.RECOVER)
        monitoring.note_failure(session, "retention", "secret words of an exception")


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
    expect(steps.get_by_role("row").filter(has_text="retention")).to_contain_text("failed")
    expect(page.get_by_text("secret words")).to_have_count(0)
    expect(page.get_by_text("none by fractureai backup")).to_be_visible()


def test_a_backup_is_known_and_grows_old(browser: Browser) -> None:
    with session_scope() as session:
        monitoring.note_success(session, monitoring.BACKUP)
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
