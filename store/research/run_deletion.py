"""Runs that somebody deleted: gone from every page at once, rows and bytes soon after, in small steps."""

from __future__ import annotations

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from store.base.blobs import get_blobs
from store.base.errors import ServiceError
from store.base.session import session_scope
from store.base.tables import Batch, Image, StudyFinding, Work, work_is_open
from store.operations import retention
from store.research import runs
from store.research.research_tables import Comparison, Run
from vocabulary.states import TERMINAL_BATCH_STATUSES

#: How many images one step deletes.
MAX_IMAGES = 500


class RunInUse(ServiceError):
    """The run is scoring, or its figures are being made."""

    code, status = "run_in_use", 409
    title = "The run has not ended, or is being evaluated or compared."
    advice = "Cancel it, or wait until it has ended; then delete it."


def delete_run(session: Session, run: Run) -> None:
    """Delete a run with its figures and comparisons; `step` deletes what it stored.

    Its data set is free at once.

    Raises
    ------
    RunInUse
    """
    session.get_one(Run, run.id, with_for_update=True, populate_existing=True)
    compared = select(Comparison.id).where(or_(Comparison.run_a == run.id, Comparison.run_b == run.id))
    about = or_(Work.subject_id == run.id, Work.subject_id.in_(compared))
    at_work = select(Work.id).where(about, work_is_open())
    moving = select(Batch.id).where(
        Batch.run_id == run.id, Batch.status.not_in([status.value for status in TERMINAL_BATCH_STATUSES])
    )
    if session.scalar(select(at_work.exists() | moving.exists())):
        raise RunInUse
    session.execute(delete(Work).where(about).execution_options(synchronize_session=False))
    session.execute(delete(Comparison).where(or_(Comparison.run_a == run.id, Comparison.run_b == run.id)))
    run.deleted_at, run.dataset_id = func.clock_timestamp(), None


def step() -> int:
    """Delete a little of what deleted runs have stored; return how much, 0 when nothing is left.

    A study goes with its images unless images that are not the run's belong to it.
    """
    with session_scope() as session:
        run = session.scalar(
            select(Run)
            .where(Run.deleted_at.is_not(None))
            .order_by(Run.deleted_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if run is None:
            return 0
        mine = select(Batch.id).where(Batch.run_id == run.id)
        images = session.execute(
            select(Image.id, Image.study_id).where(Image.batch_id.in_(mine)).limit(MAX_IMAGES)
        ).all()
        if not images:
            return _end(session, run)
        other = aliased(Image)
        shared = exists().where(other.study_id == Image.study_id, other.batch_id.not_in(mine))
        own = session.scalars(
            select(Image.study_id).where(Image.id.in_([id_ for id_, _ in images]), ~shared).distinct()
        )
        study_ids = [study_id for study_id in own if study_id is not None]
        return retention.erase(session, run.site_id, study_ids, [id_ for id_, _ in images])


def _end(session: Session, run: Run) -> int:
    """Delete what is left of a run when its images are gone."""
    batch_ids = select(Batch.id).where(Batch.run_id == run.id)
    reports = session.scalars(select(StudyFinding.report_key).where(StudyFinding.batch_id.in_(batch_ids)))
    for key in [*reports, *(file.key for file in runs.files_of(session, run.id))]:
        if key:
            get_blobs().delete(key)
    for statement in (
        delete(StudyFinding).where(StudyFinding.batch_id.in_(batch_ids)),
        delete(Batch).where(Batch.run_id == run.id),
        delete(Run).where(Run.id == run.id),
    ):
        session.execute(statement.execution_options(synchronize_session=False))
    return 1
