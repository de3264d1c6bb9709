"""Drafts, files, submission, cancelling, pausing, retrying: rows and counters agree throughout."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.base.errors import (
    BatchEmpty,
    BatchNotDraft,
    IdempotencyKeyReused,
    InvalidCursor,
    NotFound,
    WrongState,
)
from store.base.session import session_scope
from store.base.tables import Batch, BatchMark, Image, Priority, Work, WorkState
from store.intake import batches
from store.intake.batches import ManifestRow, NewFile
from store.queue import counters, pace, work
from store.reading import images
from store.results.results import Selection, iter_rows
from tests.db.conftest import make_site, new_files, submitted
from vocabulary.reasons import Reason
from vocabulary.states import STAGES, Stage


def counts_of_rows(batch_id: uuid.UUID) -> Counter[str]:
    with session_scope() as session:
        rows = session.execute(
            select(Image.status, func.count()).where(Image.batch_id == batch_id).group_by(Image.status)
        )
        return Counter({status: n for status, n in rows})


def assert_counters(batch_id: uuid.UUID) -> Batch:
    with session_scope() as session:
        batch = session.get_one(Batch, batch_id)
    rows = counts_of_rows(batch_id)
    for status in ("queued", "running", "done", "rejected", "failed", "cancelled"):
        assert getattr(batch, f"n_{status}") == rows[status], status
    assert batch.n_total == rows.total()
    return batch


def test_one_idempotency_key_makes_one_batch_however_often_at_once(site: uuid.UUID) -> None:
    made: list[uuid.UUID] = []

    def create() -> None:
        with session_scope() as session:
            batch, _ = batches.create_batch(
                session, site_id=site, user_id=None, idempotency_key="k", request_hash="h"
            )
            made.append(batch.id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    with pytest.raises(IdempotencyKeyReused), session_scope() as session:
        batches.create_batch(session, site_id=site, user_id=None, idempotency_key="k", request_hash="other")


def test_a_file_sent_again_is_a_no_op_and_a_rejected_one_keeps_its_row(site: uuid.UUID) -> None:
    bad = NewFile("bad.png", "f" * 64, 0, None, Reason.EMPTY_FILE)
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        first = batches.add_files(session, batch.id, site, [*new_files(3), bad])
        again = batches.add_files(session, batch.id, site, [*new_files(3), bad])
        other_bytes = batches.add_files(session, batch.id, site, [NewFile("f/000000.png", "e" * 64, 5, "k")])
    assert [a.status for a in first] == ["accepted"] * 3 + ["rejected"]
    assert [a.status for a in again] == ["duplicate"] * 4
    assert [a.image_id for a in again] == [a.image_id for a in first]
    assert other_bytes[0].status == "accepted"
    batch = assert_counters(batch.id)
    assert (batch.n_total, batch.n_rejected, batch.n_bytes) == (5, 1, 35)
    with session_scope() as session:
        assert batches.reasons(session, batch.id) == {"empty_file": 1}


def test_submitting_cuts_chunks_once_and_urgent_images_travel_apart(site: uuid.UUID) -> None:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        rows = [ManifestRow("f/000007.png", accession="A7", priority=Priority.URGENT)]
        batches.set_manifest(session, batch.id, site, rows)
        batches.add_files(session, batch.id, site, new_files(100))
    for _ in range(2):
        with session_scope() as session:
            batches.submit(session, batch.id, site)
    assert_counters(batch.id)
    with session_scope() as session:
        units = session.scalars(select(Work).where(Work.batch_id == batch.id)).all()
        sizes = sorted(unit.n_images for unit in units)
        urgent = [unit for unit in units if unit.priority == 0]
        assert sum(sizes) == 100
        assert max(sizes) <= 32
        assert [unit.n_images for unit in urgent] == [1]
        image = session.scalars(select(Image).where(Image.work_id == urgent[0].id)).one()
        assert (image.path, image.accession) == ("f/000007.png", "A7")
        with pytest.raises(BatchNotDraft):
            batches.add_files(session, batch.id, site, new_files(1, start=500))


def test_what_cannot_be_done_says_so(site: uuid.UUID) -> None:
    stranger = make_site("B")
    batch = submitted(site, 3)
    with session_scope() as session:
        empty, _ = batches.create_batch(session, site_id=site, user_id=None)
        for action, error in (
            (lambda: batches.get_batch(session, stranger, batch.id), NotFound),
            (lambda: batches.submit(session, empty.id, site), BatchEmpty),
            (lambda: batches.pause(session, empty.id, site), WrongState),
            (lambda: batches.retry(session, batch.id, site), WrongState),
            (lambda: images.list_images(session, site, batch.id, cursor="!"), InvalidCursor),
            (lambda: batches.list_batches(session, site, cursor="WyJhIl0"), InvalidCursor),
        ):
            with pytest.raises(error):
                action()


def test_pages_cover_everything_once(site: uuid.UUID) -> None:
    batch = submitted(site, 25)
    seen: list[str] = []
    cursor = None
    while True:
        with session_scope() as session:
            page = images.list_images(session, site, batch.id, cursor=cursor, limit=10)
        seen += [row.image.path for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [file.path for file in new_files(25)]
    assert [row.path for row in iter_rows(Selection(site, batch.id))] == seen


def test_cancel_ends_what_waits_and_leaves_what_a_worker_holds(site: uuid.UUID) -> None:
    batch = submitted(site, 64)
    with session_scope() as session:
        held = session.scalars(select(Work).where(Work.batch_id == batch.id)).first()
        assert held is not None
        lease = work.take(session, held.id, Stage.PREPARE)
        assert isinstance(lease, work.Lease)
    with session_scope() as session:
        batches.cancel(session, batch.id, site)
    batch = assert_counters(batch.id)
    assert batch.n_queued == held.n_images
    assert batch.n_cancelled == 64 - held.n_images
    with session_scope() as session:  # the stage's save finds out
        assert work.cancelled_meanwhile(session, work.hold(session, lease))
    batch = assert_counters(batch.id)
    assert batch.n_cancelled == 64
    assert batch.s_report == 64
    with session_scope() as session:
        kinds = session.scalars(select(Work.kind).where(Work.state == WorkState.DUE)).all()
        assert kinds == ["finish"]


def test_retry_queues_the_cancelled_ones_as_a_new_round(site: uuid.UUID) -> None:
    batch = submitted(site, 40)
    with session_scope() as session:
        batches.cancel(session, batch.id, site)
    with session_scope() as session:  # as the finish stage ends it
        session.get_one(Batch, batch.id).status = "cancelled"
    with session_scope() as session:
        batches.retry(session, batch.id, site)
    batch = assert_counters(batch.id)
    assert (batch.round, batch.n_queued, batch.s_report, batch.status) == (2, 40, 0, "queued")


def test_a_paused_batch_is_not_taken_up(site: uuid.UUID) -> None:
    batch = submitted(site, 8)
    with session_scope() as session:
        batches.pause(session, batch.id, site)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()
        assert work.take(session, unit.id, Stage.PREPARE) is work.Verdict.END
    with session_scope() as session:
        assert batches.resume(session, batch.id, site).status == "queued"
        assert isinstance(work.take(session, unit.id, Stage.PREPARE), work.Lease)


def test_results_of_more_rows_than_one_fetch(site: uuid.UUID) -> None:
    batch = submitted(site, 1203)
    rows = list(iter_rows(Selection(site, batch.id)))
    assert [row.path for row in rows] == [f"f/{i:06d}.png" for i in range(1203)]


def test_earlier_batches_of_the_like_tell_what_one_takes(site: uuid.UUID) -> None:
    hours = itertools.count(1)

    def end(ms: int, **values: object) -> None:
        batch = submitted(site, 16)
        with session_scope() as session:
            row = session.get_one(Batch, batch.id)
            # one after the other: what workers did beside a batch counts as theirs
            row.status, row.finished_at = "done", datetime.now(UTC) - timedelta(hours=next(hours))
            row.started_at = row.finished_at - timedelta(milliseconds=16 * 5 * ms / 2)  # two workers at once
            for stage in STAGES:
                setattr(row, f"s_{stage}", 16)
                setattr(row, f"ms_{stage}", 16 * ms)
            for name, value in values.items():
                setattr(row, name, value)

    for ms in (100, 120, 110):
        end(ms)
    end(5, with_report=False)
    end(9000, status="cancelled")
    last = submitted(site, 16)
    elsewhere = submitted(make_site("Elsewhere"), 1)

    def told(session: Session, batch_id: uuid.UUID) -> pace.Pace | None:
        batch = session.get_one(Batch, batch_id)
        return pace.earlier_pace(session, batch, pace.ended_batches(session, batch))

    with session_scope() as session:
        found, other = told(session, last.id), told(session, elsewhere.id)
    assert found == pace.Pace((110.0,) * 5, pytest.approx(2.0))
    assert other is None, "of other sites nothing is told"


def test_the_time_of_workers_at_a_stage_is_counted_with_its_images(site: uuid.UUID) -> None:
    batch = submitted(site, 16)
    for passed in (8, 16):
        with session_scope() as session:
            counters.apply(session, batch.id, Counter(s_prepare=8, ms_prepare=1200))
            marks = session.scalars(select(BatchMark).where(BatchMark.batch_id == batch.id))
            last = max(marks, key=lambda mark: mark.number)
            assert last.passed[0] == passed
            assert last.worked == [150 * passed, 0, 0, 0, 0]
