"""The page of monitoring: an open window, a frozen one with its plots, alarms, and a new window."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from bench.drift import Stream
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Site
from store.operations import drift
from store.operations.drift_tables import DriftDay
from tests.db.test_drift import drawn, stated
from tests.web.world import make_world


def test_a_window_its_plots_its_alarms_and_a_new_one(app: Any) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    assert "Nothing to show yet" in browser.client.get("/admin/monitoring").text
    with session_scope() as session:
        site = session.scalars(select(Site).where(Site.name == world.marker)).one()
        site_id, bundle = site.id, site.default_bundle or ""
    today = datetime.now(UTC).date()
    stated(site_id, drawn(3), today - timedelta(days=41), bundle)
    with session_scope() as session:
        drift.watch(session, site_id, bundle, today)
    page = browser.client.get("/admin/monitoring").text
    assert "The last 3 days" in page
    assert "The acceptance window is open since" in page
    assert "of 500 images with a score" in page
    stated(
        site_id,
        [*drawn(37), *drawn(3, Stream(prevalence=0.4, device="b"))],
        today - timedelta(days=1),
        bundle,
    )
    with session_scope() as session:
        drift.watch(session, site_id, bundle, today)
    page = browser.client.get("/admin/monitoring").text
    assert "Positive: more than before" in page
    assert "A device that was not there before" in page
    assert page.count('<svg class="plot days"') == 7
    assert len(re.findall(r'<polyline points="[\d., ]+"', page)) == 7
    assert "Distance to the training data, median a day" in page
    assert "<td>region hand</td>" in page, "an alarm says of what"
    assert re.search(r"<td>hand</td>.*?\d+\.\d of \d+\.\d</td>", page)
    assert "It does not say that findings are wrong" in page
    assert "style=" not in page.partition("<main")[2]
    if folder := os.environ.get("FRACTUREAI_TEST_PAGES"):
        Path(folder, "monitoring.html").write_text(page)
    assert browser.post("/admin/monitoring/restart").status_code == 303
    assert "The acceptance window is open since" in browser.client.get("/admin/monitoring").text


def test_one_day_is_seen_and_what_no_day_has_is_not_drawn(app: Any) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    with session_scope() as session:
        site = session.scalars(select(Site).where(Site.name == world.marker)).one()
        site_id, bundle = site.id, site.default_bundle or ""
    today = datetime.now(UTC).date()
    stated(site_id, drawn(1), today, bundle)
    with session_scope() as session:
        session.execute(update(DriftDay).values(distances=[], region="lower_leg"))
        drift.watch(session, site_id, bundle, today)
    page = browser.client.get("/admin/monitoring").text
    assert "The last day" in page
    assert "Distance to the training data, median a day" not in page
    strokes = re.findall(r'<polyline points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', page)
    assert strokes
    assert all(float(left) + 4 < float(right) for left, _, right, _ in strokes)
    assert "<td>lower leg</td>" in page
