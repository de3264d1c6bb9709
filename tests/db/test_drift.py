"""Monitoring: days counted by SQL, a window that freezes, alarms that are told, new windows."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select, text, update

from bench.drift import CHANGES, DEVICES, REGIONS, Hospital, Stream
from store.base.advisory_locks import AdvisoryLock, try_to_hold
from store.base.session import get_engine, session_scope
from store.base.tables import Batch, Bundle, Finding, Image, Notice, Site
from store.bundles import promotions
from store.intake import batches
from store.operations import drift
from store.operations.drift_statistics import BINS, DISTANCE_BINS, Counts, total
from store.operations.drift_tables import Device, DriftAlarm, DriftBaseline, DriftDay
from store.outgoing import notices
from tests.db.conftest import make_site, new_files
from tests.reading import read_batch

TODAY = date(2026, 11, 30)


def stated(site: uuid.UUID, days: list[Counts], last: date, bundle: str = "b1") -> None:
    """Write days down as `count_days` would, of one region and the devices named."""
    with session_scope() as session:
        for n, counts in enumerate(reversed(days)):
            for device in counts.devices or {"": counts.n}:
                session.add(
                    DriftDay(
                        site_id=site, bundle=bundle, day=last - timedelta(days=n), region="hand",
                        device=device, n=counts.n, positive=counts.positive, doubt=counts.doubt,
                        not_assessable=counts.not_assessable, rejected=counts.rejected, logits=counts.logits,
                        distances=counts.distances,
                    )
                )  # fmt: skip


def stated_by_all(site: uuid.UUID, days: list[Hospital], last: date) -> None:
    """Write days down, of every device and region of a hospital."""
    rng = np.random.default_rng(6)
    with session_scope() as session:
        for n, hospital in enumerate(reversed(days)):
            for (region, device), stream in hospital.streams.items():
                counts = stream.day(rng, 150 * REGIONS[region] * DEVICES[device])
                values = {name: value for name, value in asdict(counts).items() if name != "devices"}
                session.add(
                    DriftDay(
                        site_id=site, bundle="b1", day=last - timedelta(days=n), region=region,
                        device=stream.device, **values,
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
        logits, far = (3.0, 99.0, 0.1, -99.0, 1.0), (1.0, 0.0, float("inf"), float("nan"), 1e9)
        for image, triage, logit, distance in zip(read, triages, logits, far, strict=True):
            image.triage, image.region, image.device_id = triage, "hand", device
            finding = session.get_one(Finding, image.finding_id)
            finding.logit, finding.distance = logit, distance
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
    assert {bin_: n for bin_, n in enumerate(hand.distances) if n} == {17: 1, DISTANCE_BINS + 1: 1}


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


def test_a_change_on_one_device_does_not_drown(site: uuid.UUID) -> None:
    with session_scope() as session:
        device = Device(site_id=site, manufacturer="SIEMENS", model="YSIO", station="1a2b3c4d5e6f")
        session.add(device)
        session.flush()
        key = str(device.id)
        event = [notices.Event.MONITORING_ALARM]
        notices.add_target(session, site, notices.Channel.WEBHOOK, "https://ris.example/", event)
    usual = Hospital().with_change(lambda stream: replace(stream, device=key), device="b")
    changed = CHANGES["inverted LUT on one device (30%)"](usual)
    stated_by_all(site, [usual] * 30, TODAY - timedelta(days=4))
    assert watched(site, TODAY - timedelta(days=3)) == set()
    stated_by_all(site, [changed] * 3, TODAY - timedelta(days=1))
    assert watched(site, TODAY)
    with session_scope() as session:
        (by_itself,) = {
            alarm.part for alarm in drift.alarms(session, site) if alarm.part.startswith("device")
        }
        assert by_itself == f"device {key}"
        told = session.scalars(select(Notice)).one().payload["data"]["signals"]
        assert any("(device SIEMENS YSIO 1a2b3c4d)" in signal for signal in told)
        baseline = drift.latest_baseline(session, site)
        assert baseline is not None
        shown = drift.by_device(session, baseline, TODAY - timedelta(days=30))
        assert [each.name for each in shown if each.part and each.part.frozen_on] == [
            each.name for each in shown
        ]
        assert {"hand", "leg"} == {
            each.name for each in drift.by_region(session, baseline, TODAY - timedelta(days=30))
        }
    assert watched(site, TODAY) == set(), "a day is watched once"


def test_what_an_earlier_version_counted_and_froze_goes_on(site: uuid.UUID) -> None:
    stated(site, drawn(20), TODAY - timedelta(days=11))
    watched(site, TODAY - timedelta(days=10))
    with session_scope() as session:
        session.execute(update(DriftDay).values(distances=[]))
        baseline = session.scalars(select(DriftBaseline)).one()
        baseline.counts = {name: kept for name, kept in baseline.counts.items() if name != "distances"}
        baseline.sums = {name: kept for name, kept in baseline.sums.items() if name != "distance up"}
        baseline.parts = {}
    stated(site, drawn(10, seed=8), TODAY - timedelta(days=1))
    assert watched(site, TODAY) == set()
    with session_scope() as session:
        baseline = session.scalars(select(DriftBaseline)).one()
        assert "distance up" not in baseline.sums
        parts = drift.parts_of(baseline)
        assert parts["region hand"].frozen_on == TODAY - timedelta(days=4), "a week from then on"


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
    with get_engine().connect() as loop:  # as while the loop runs that calls it
        assert try_to_hold(loop, AdvisoryLock.RECONCILE)
        drift.step()
        loop.invalidate()
    with session_scope() as session:
        assert session.scalar(select(DriftDay.n)) is not None
        assert session.scalars(select(DriftBaseline.site_id)).all() == [
            each for each in session.scalars(select(Site.id).where(Site.default_bundle.is_not(None)))
        ]
        session.execute(text("SELECT 1"))
