"""Monitoring: days counted by SQL, a window that freezes, alarms that are told, new windows."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select, text, update

from bench.drift import Stream
from store.base.session import session_scope
from store.base.tables import Batch, Bundle, Finding, Image, Notice, Site
from store.bundles import promotions
from store.intake import batches
from store.operations import drift, notices
from store.operations.drift_statistics import BINS, Counts, total
from store.operations.drift_tables import DriftAlarm, DriftBaseline, DriftDay
from tests.db.conftest import make_site, new_files
from tests.reading import read_batch

TODAY = date(2026, 11, 30)


def stated(site: uuid.UUID, days: list[Counts], last: date, bundle: str = "b1") -> None:
    """Write days down as `count_days` would, of two regions and the devices named."""
    with session_scope() as session:
        for n, counts in enumerate(reversed(days)):
            for device in counts.devices or {"": counts.n}:
                session.add(
                    DriftDay(
                        site_id=site, bundle=bundle, day=last - timedelta(days=n), region="hand",
                        device=device, n=counts.n, positive=counts.positive, doubt=counts.doubt,
                        not_assessable=counts.not_assessable, rejected=counts.rejected, logits=counts.logits,
                    )
                )  # fmt: skip


def drawn(n: int, stream: Stream | None = None, seed: int = 5) -> list[Counts]:
    rng = np.random.default_rng(seed)
    return [(stream or Stream()).day(rng, 100) for _ in range(n)]


def watched(site: uuid.UUID, today: date, bundle: str = "b1") -> set[str]:
    with session_scope() as session:
        return {alarm.signal for alarm in drift.watch(session, site, bundle, today)}


def test_a_day_is_counted_as_its_images_ended(site: uuid.UUID) -> None:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        batches.add_files(session, batch.id, site, new_files(6))
        batches.submit(session, batch.id, site)
    read_batch(batch.id, reject=frozenset({"f/000005.png"}))
    device = uuid.uuid4()
    with session_scope() as session:
        read = session.scalars(select(Image).where(Image.status == "done").order_by(Image.path)).all()
        triages = ("positive", "positive", "doubt", "negative", "not_assessable")
        for image, triage, logit in zip(read, triages, (3.0, 99.0, 0.1, -99.0, 1.0), strict=True):
            image.triage, image.region, image.device_id = triage, "hand", device
            session.get_one(Finding, image.finding_id).logit = logit
        session.flush()
        today = datetime.now(UTC).date()
        drift.count_days(session, today - timedelta(days=1))
        first = {each.region: drift._counts(each) for each in session.scalars(select(DriftDay))}
        drift.count_days(session, today - timedelta(days=1))
        assert {each.region: drift._counts(each) for each in session.scalars(select(DriftDay))} == first
    hand, unread = first["hand"], first[""]
    assert (hand.n, hand.positive, hand.doubt, hand.not_assessable, hand.rejected) == (5, 2, 1, 1, 0)
    assert (unread.n, unread.rejected, unread.scored) == (1, 1, 0)
    assert hand.devices == {str(device): 5}
    assert {bin_: n for bin_, n in enumerate(hand.logits) if n} == {0: 1, 17: 1, 23: 1, BINS + 1: 1}


def test_a_window_freezes_and_a_stable_month_raises_nothing(site: uuid.UUID) -> None:
    days = drawn(40)
    stated(site, days[:10], TODAY - timedelta(days=31))
    assert watched(site, TODAY - timedelta(days=30)) == set()
    with session_scope() as session:
        baseline = session.scalars(select(DriftBaseline)).one()
        assert baseline.frozen_on == TODAY - timedelta(days=34), "a week, and 500 scores"
        assert Counts(**baseline.counts) == total(days[:7])
    stated(site, days[10:], TODAY - timedelta(days=1))
    assert watched(site, TODAY) == set()
    assert watched(site, TODAY) == set()
    with session_scope() as session:
        baseline = session.scalars(select(DriftBaseline)).one()
        assert baseline.watched_to == TODAY - timedelta(days=1)
        shown = drift.watched_days(session, baseline)
        assert shown[-1].sums == baseline.sums
        assert len(shown) == 40


@pytest.mark.parametrize(
    ("changed", "signal"),
    [
        (Stream(prevalence=0.36), "positive up"),
        (Stream(flatten=0.5, not_assessable=0.1), "score"),
        (Stream(shift=0.7, device="b"), "device"),
    ],
)
def test_a_change_raises_an_alarm_and_tells(site: uuid.UUID, changed: Stream, signal: str) -> None:
    with session_scope() as session:
        event = [notices.Event.MONITORING_ALARM]
        notices.add_target(session, site, notices.Channel.WEBHOOK, "https://ris.example/", event)
    stated(site, [*drawn(14), *drawn(4, changed)], TODAY - timedelta(days=1))
    assert signal in watched(site, TODAY)
    with session_scope() as session:
        told = session.scalars(select(Notice)).one()
        assert told.event == "monitoring.alarm"
        assert signal in told.payload["data"]["signals"]
        assert {alarm.signal for alarm in session.scalars(select(DriftAlarm))} >= {signal}
        assert all(alarm.day > TODAY - timedelta(days=5) for alarm in drift.alarms(session, site))
    assert watched(site, TODAY) == set(), "a day is watched once"


def test_a_promotion_and_a_person_begin_a_new_window(site: uuid.UUID) -> None:
    other = make_site("B")
    stated(site, drawn(10), TODAY - timedelta(days=1))
    watched(site, TODAY)
    with session_scope() as session:
        session.add(Bundle(name="b2", sha256="1" * 64, manifest={"name": "b2"}, files={}))
        session.flush()
        promotions.promote(session, site, None, "b2")
    stated(site, drawn(2), TODAY - timedelta(days=1), bundle="b2")
    assert watched(site, TODAY, "b2") == set()
    with session_scope() as session:
        baseline = drift.latest_baseline(session, site)
        assert baseline is not None
        assert (baseline.bundle, baseline.frozen_on) == ("b2", None)
        assert drift.latest_baseline(session, other) is None
        drift.restart(session, site)
        again = drift.latest_baseline(session, site)
        assert again is not None
        assert again.id != baseline.id
        assert again.started_on > baseline.started_on
        assert len(drift.weeks(session, site, "b2")) == 12


def test_recovery_counts_and_watches_every_site(site: uuid.UUID) -> None:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        batches.add_files(session, batch.id, site, new_files(3))
        batches.submit(session, batch.id, site)
    read_batch(batch.id)
    with session_scope() as session:
        session.execute(update(Batch).where(Batch.id == batch.id).values(bundle="b1"))
    drift.step()
    with session_scope() as session:
        assert session.scalar(select(DriftDay.n)) is not None
        assert session.scalars(select(DriftBaseline.site_id)).all() == [
            each for each in session.scalars(select(Site.id).where(Site.default_bundle.is_not(None)))
        ]
        session.execute(text("SELECT 1"))
