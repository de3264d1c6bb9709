"""Runs in the queue: clinical work goes first, and nothing of research is seen among clinical work."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import Batch, Priority, Site, Work
from store.intake import batches, quotas
from store.queue import dispatch
from store.reading import images, worklist
from store.research import datasets, runs
from store.research.datasets import NewImage, ScanResult
from store.research.research_tables import Run
from store.results import results
from tests.db.conftest import submitted


def start(site: uuid.UUID, n: int = 200, **options: Any) -> Run:
    """Start a run over a data set of which only the rows are there."""
    with session_scope() as session:
        new = [NewImage(f"{i}.png", f"s{i}", f"p{i}", "hand", "", i % 2 == 0) for i in range(n)]
        dataset = datasets.add_dataset(
            session,
            site,
            name="rows",
            root="file:///nowhere",
            format="table",
            label_meaning="abnormal",
            images=new,
            left_out={},
        )
        waiting = datasets.waiting(session, dataset.id, n)
        seen = [ScanResult(i.id, f"{i.number:064x}", 10, None) for i in waiting]
        datasets.save_scan_results(session, dataset.id, seen)
        datasets.end_scan(session, dataset.id)
        return runs.start_run(session, site, None, dataset, ["b1"], **options)


def chosen() -> list[uuid.UUID | None]:
    """Return the batches of what dispatch takes next, in its order."""
    with session_scope() as session:
        messages = dispatch._choose(session)
        rows = {w.id: w.batch_id for w in session.scalars(select(Work))}
    return [rows[message.work_id] for message in messages]


def test_an_urgent_image_overtakes_a_run_whose_window_is_full(site):
    run = start(site)
    first = chosen()
    assert set(first) == {run.batch_id}
    assert chosen() == []  # the window is full: the rest of the run waits in the database
    urgent = submitted(site, 1, Priority.URGENT)
    assert chosen()[0] == urgent.id


@pytest.mark.parametrize("priority", [Priority.URGENT, Priority.NORMAL])
def test_clinical_work_goes_before_a_run_even_one_that_waited_long(site, priority):
    start(site)
    with session_scope() as session:
        session.execute(update(Work).values(created_at=Work.created_at - timedelta(hours=9)))
    clinical = submitted(site, 1, priority)
    assert chosen()[0] == clinical.id


def test_no_clinical_list_shows_a_run(site):
    run = start(site)
    with session_scope() as session:
        assert batches.list_batches(session, site).items == []
        with pytest.raises(NotFound):
            batches.get_batch(session, site, run.batch_id)
        with pytest.raises(NotFound):
            images.list_images(session, site, run.batch_id)
        assert results.count(session, results.Selection(site)) == 0
        assert quotas.quota(session, site).used == 0
        assert session.get_one(Batch, run.batch_id).promoted is False
        worklist.refresh(session, session.get_one(Batch, run.batch_id), [])


def test_a_run_is_paused_resumed_cancelled_and_retried(site):
    run = start(site, 10)
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "queued")):
        with session_scope() as session:
            runs.act(session, runs.get_run(session, site, run.id), action)
        with session_scope() as session:
            assert session.get_one(Batch, run.batch_id).status == status
    with session_scope() as session:
        assert session.get_one(Batch, run.batch_id).n_cancelled == 10


def test_a_shadow_needs_a_bundle_that_does_not_serve(site):
    clinical = submitted(site, 1)
    with session_scope() as session:
        batch = session.get_one(Batch, clinical.id)
        assert runs.shadow_batch(session, batch) is None
        session.get_one(Site, site).shadow_bundle = batch.bundle
        session.flush()
        assert runs.shadow_batch(session, batch) is None
