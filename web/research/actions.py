"""Actions on data sets, runs and comparisons, shared by the pages and the API."""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from store.base.session import session_scope
from store.queue import dispatch
from store.research import datasets, run_deletion, runs
from store.research import research_tables as tables
from web.auth.identity import audit, identity
from web.contract.research import (
    NewComparison,
    NewRun,
)


def start(session: Session, body: NewRun) -> tables.Run:
    """Start a run and audit it; call `dispatch` after the commit."""
    run = runs.start_run(
        session,
        identity().site_id,
        identity().user_id,
        datasets.get_dataset(session, identity().site_id, body.dataset),
        body.bundles,
        part=body.part,
        label=body.label,
        priority=body.priority,
        with_heatmap=body.heatmap,
        with_report=body.report,
        with_routing=body.routing,
    )
    audit(session, "run_started", run.id)
    return run


def compare(session: Session, body: NewComparison) -> tables.Comparison:
    """Start a comparison and audit it; call `dispatch` after the commit."""
    a, b = (runs.get_run(session, identity().site_id, run_id) for run_id in (body.run_a, body.run_b))
    made = runs.start_comparison(
        session,
        identity().site_id,
        identity().user_id,
        (a, body.bundle_a),
        (b, body.bundle_b),
        body.margin,
    )
    audit(session, "comparison_started", made.id)
    return made


def find_run(session: Session, run_id: uuid.UUID) -> tables.Run:
    """Return a run of the caller's site. Raises `NotFound`."""
    return runs.get_run(session, identity().site_id, run_id)


def forget_dataset(dataset_id: uuid.UUID) -> None:
    """Remove a data set and audit it."""
    with session_scope() as session:
        datasets.remove_dataset(session, datasets.get_dataset(session, identity().site_id, dataset_id))
        audit(session, "dataset_deleted", dataset_id)


def forget_run(run_id: uuid.UUID) -> None:
    """Delete a run and audit it."""
    with session_scope() as session:
        run_deletion.delete_run(session, find_run(session, run_id))
        audit(session, "run_deleted", run_id)


def act(run_id: uuid.UUID, action: str) -> None:
    """Cancel, pause, resume or retry a run, and audit it."""
    with session_scope() as session:
        runs.act(session, find_run(session, run_id), action)
        audit(session, f"run_{action}", run_id)
    dispatch.dispatch()
