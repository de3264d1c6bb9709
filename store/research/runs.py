"""Runs: batches for research over a data set, or of the site's own traffic for a shadow bundle."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from settings import VERSION
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.errors import NotFound, ServiceError, UnknownBundle, WrongState
from store.base.tables import Batch, Bundle, Image, Priority, Site, WorkKind
from store.intake import batches
from store.intake.batch_end import on_batch_ended
from store.queue import counters, work
from store.research.research_tables import (
    Comparison,
    Dataset,
    DatasetImage,
    DatasetLabel,
    Run,
    RunFile,
    RunKind,
)
from vocabulary.states import ImageStatus

#: Re-scoring is always done in this precision, so that figures repeat.
PRECISION = "float32"
MAX_BUNDLES = 8
#: Loss of study-level AUC that a comparison takes for none, where nobody states another.
MARGIN = 0.02


class DatasetNotReady(ServiceError):
    """Not every image of the data set was looked at yet, or no image is left."""

    code, status = "dataset_not_ready", 409
    title = "The data set was not looked at as a whole yet, or this part of it has no usable image."
    advice = "Let 'fractureai datasets add' end; see 'fractureai datasets show'."


class NotComparable(ServiceError):
    """Two runs have no image in common, or are not evaluated."""

    code, status = "not_comparable", 422
    title = "These two cannot be compared."
    advice = "Compare two bundles of evaluated runs over the same data set and part."


_TAKE_IMAGES = text(
    """
    INSERT INTO images (id, site_id, batch_id, dataset_image_id, path, sha256, size, status, manifest_study)
    SELECT gen_random_uuid(), :site, :batch, i.id, lpad(i.number::text, 8, '0'), i.sha256, i.size, :status,
           CASE WHEN :with_report
                THEN lpad(min(i.number) OVER (PARTITION BY i.study)::text, 8, '0') ELSE '' END
    FROM dataset_images i
    WHERE i.dataset_id = :dataset AND (:part = '' OR i.part = :part) AND i.problem IS NULL
    ORDER BY i.number
    """
)


def made_with(session: Session, dataset: Dataset | None, names: Sequence[str]) -> dict[str, Any]:
    """Return what a run is repeated with: hashes of bundles and data set, settings, versions."""
    rows = session.execute(
        select(Bundle.name, Bundle.sha256, Bundle.manifest["label_meaning"].astext).where(
            Bundle.name.in_(names)
        )
    ).all()
    found = {name: {"sha256": sha256, "label_meaning": meaning or ""} for name, sha256, meaning in rows}
    for name in names:
        if name not in found:
            raise UnknownBundle(name)
    return {
        "software": VERSION,
        "precision": PRECISION,
        "bundles": {name: found[name] for name in names},
        "dataset": {"name": dataset.name, "sha256": dataset.sha256, "label_meaning": dataset.label_meaning}
        if dataset
        else None,
    }


def start_run(
    session: Session,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    dataset: Dataset,
    names: Sequence[str],
    *,
    part: str = "",
    label: str = "",
    priority: Priority = Priority.LOW,
    with_heatmap: bool = False,
    with_report: bool = False,
    with_routing: bool = False,
) -> Run:
    """Queue the scoring of a data set with some bundles as one batch; call `dispatch` after the commit.

    The batch's images have numbers for names: neither path nor label comes with them.

    Raises
    ------
    DatasetNotReady, UnknownBundle
    """
    names = list(dict.fromkeys(names))
    if not 1 <= len(names) <= MAX_BUNDLES:
        raise UnknownBundle(f"name 1 to {MAX_BUNDLES} bundles")
    if dataset.sha256 is None:
        raise DatasetNotReady
    labels = session.scalars(
        select(DatasetLabel.name)
        .join(DatasetImage, DatasetImage.id == DatasetLabel.image_id)
        .where(DatasetImage.dataset_id == dataset.id)
        .distinct()
        .order_by(DatasetLabel.name)
    ).all()
    run = Run(
        id=uuid.uuid4(),
        site_id=site_id,
        user_id=user_id,
        kind=RunKind.DATASET.value,
        dataset_id=dataset.id,
        part=part,
        label=label or (dataset.label_meaning if dataset.label_meaning in labels else next(iter(labels), "")),
        bundles=names,
        with_routing=with_routing,
        made_with=made_with(session, dataset, names),
    )
    if label and label not in labels:
        raise NotFound(f"the data set has no label {label!r}")
    session.add(run)
    batch = Batch(
        id=uuid.uuid4(),
        site_id=site_id,
        user_id=user_id,
        run_id=run.id,
        label=f"{dataset.name} {part}".strip(),
        bundle=names[0],
        priority=priority.rank,
        with_report=with_report,
        with_heatmap=with_heatmap,
    )
    session.add(batch)
    session.flush()
    taken = session.execute(
        _TAKE_IMAGES,
        {
            "site": site_id,
            "batch": batch.id,
            "dataset": dataset.id,
            "part": part,
            "with_report": with_report,
            "status": ImageStatus.UPLOADED.value,
        },
    )
    if not taken.rowcount:  # type: ignore[attr-defined]
        raise DatasetNotReady
    _submit(session, batch)
    run.batch_id = batch.id
    session.flush()
    return run


def _submit(session: Session, batch: Batch) -> None:
    n, size = session.execute(
        select(func.count(), func.coalesce(func.sum(Image.size), 0)).where(Image.batch_id == batch.id)
    ).one()
    counters.apply(session, batch.id, Counter(n_total=n, n_bytes=int(size)))
    session.refresh(batch)
    batches.submit(session, batch.id, batch.site_id)


def shadow_batch(session: Session, batch: Batch) -> Batch | None:
    """Queue a clinical batch's images for the site's shadow bundle; None when there is nothing.

    Runs at low priority, in a batch that nobody but research sees; call `dispatch` after the commit.
    """
    site = session.get_one(Site, batch.site_id)
    if batch.run_id is not None or site.shadow_bundle in {None, batch.bundle}:
        return None
    shadow = str(site.shadow_bundle)
    names = [batch.bundle, shadow]
    wait_for_lock(session, AdvisoryLock.SHADOW_RUN, of=str(site.id))
    run = session.scalar(
        select(Run).where(
            Run.site_id == site.id,
            Run.kind == RunKind.SHADOW,
            Run.bundles == names,
            Run.deleted_at.is_(None),
        )
    )
    if run is None:
        run = Run(
            id=uuid.uuid4(),
            site_id=site.id,
            kind=RunKind.SHADOW.value,
            bundles=names,
            made_with=made_with(session, None, names),
        )
        session.add(run)
    session.flush()
    known = (  # of an earlier round: a retry adds what it has read
        select(Image.source_key)
        .join(Batch, Batch.id == Image.batch_id)
        .where(Batch.run_id == run.id, Batch.label == str(batch.id))
    )
    images = session.scalars(
        select(Image)
        .where(
            Image.batch_id == batch.id,
            Image.status == ImageStatus.DONE,
            Image.original_key.is_not(None),
            Image.original_key.not_in(known),
        )
        .order_by(Image.seq)
    ).all()
    if not images:
        return None
    quiet = Batch(
        id=uuid.uuid4(),
        site_id=site.id,
        run_id=run.id,
        label=str(batch.id),
        bundle=shadow,
        priority=Priority.LOW.rank,
        with_report=False,
        with_heatmap=False,
    )
    session.add(quiet)
    session.flush()
    session.add_all(
        Image(
            site_id=site.id,
            batch_id=quiet.id,
            source_key=image.original_key,
            path=f"{n:08d}",
            sha256=image.sha256,
            size=image.size,
            body_part=image.body_part,
        )
        for n, image in enumerate(images, 1)
    )
    session.flush()
    _submit(session, quiet)
    return quiet


def get_run(session: Session, site_id: uuid.UUID, run_id: uuid.UUID) -> Run:
    """Return one run of the site. Raises `NotFound`."""
    run = session.scalar(
        select(Run).where(Run.id == run_id, Run.site_id == site_id, Run.deleted_at.is_(None))
    )
    if run is None:
        raise NotFound
    return run


def list_runs(session: Session, site_id: uuid.UUID, limit: int = 200) -> list[tuple[Run, Batch | None]]:
    """Return the site's latest runs with their batches, the newest first."""
    query = (
        select(Run, Batch)
        .outerjoin(Batch, Batch.id == Run.batch_id)
        .where(Run.site_id == site_id, Run.deleted_at.is_(None))
        .order_by(Run.created_at.desc())
        .limit(limit)
    )
    return [(run, batch) for run, batch in session.execute(query)]


def batch_of(session: Session, run: Run) -> Batch | None:
    """Return a data set's run's batch; a shadow has many."""
    return session.get(Batch, run.batch_id) if run.batch_id else None


def count_passes(session: Session, run_id: uuid.UUID, *, classified: int = 0, detected: int = 0) -> None:
    """Count images that are about to go through networks; commit before they do."""
    session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(classified=Run.classified + classified, detected=Run.detected + detected)
        .execution_options(synchronize_session=False)
    )


# evaluations


@on_batch_ended
def after_batch(session: Session, batch: Batch) -> None:
    """When a batch has ended: evaluate its run, or let the shadow bundle look at clinical images."""
    if batch.run_id is None:
        shadow_batch(session, batch)
        return
    run = session.get_one(Run, batch.run_id)
    if run.kind == RunKind.DATASET and batch.cancelled_at is None:
        queue_evaluation(session, run)


def queue_evaluation(session: Session, run: Run) -> None:
    """Queue the evaluation of a run whose batch has ended."""
    work.add_unit(session, WorkKind.EVALUATE, site_id=run.site_id, subject_id=run.id, priority=Priority.LOW)


def start_comparison(
    session: Session,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    a: tuple[Run, str],
    b: tuple[Run, str],
    margin: float,
) -> Comparison:
    """Queue the comparison of two bundles of evaluated runs. Raises `NotComparable`."""
    for run, bundle in (a, b):
        if run.kind != RunKind.DATASET or bundle not in run.bundles or run.evaluated_at is None:
            raise NotComparable
    if a[0].dataset_id != b[0].dataset_id or a[0].label != b[0].label or (a[0].id, a[1]) == (b[0].id, b[1]):
        raise NotComparable
    comparison = Comparison(
        id=uuid.uuid4(),
        site_id=site_id,
        user_id=user_id,
        run_a=a[0].id,
        bundle_a=a[1],
        run_b=b[0].id,
        bundle_b=b[1],
        margin=margin,
    )
    session.add(comparison)
    session.flush()
    work.add_unit(
        session, WorkKind.EVALUATE, site_id=site_id, subject_id=comparison.id, priority=Priority.LOW
    )
    return comparison


def get_comparison(session: Session, site_id: uuid.UUID, comparison_id: uuid.UUID) -> Comparison:
    """Return one comparison of the site. Raises `NotFound`."""
    found = session.scalar(
        select(Comparison).where(Comparison.id == comparison_id, Comparison.site_id == site_id)
    )
    if found is None:
        raise NotFound
    return found


def list_comparisons(
    session: Session, site_id: uuid.UUID, run_id: uuid.UUID | None = None, limit: int = 200
) -> list[Comparison]:
    """Return comparisons of the site, or of one run, the newest first."""
    query = select(Comparison).where(Comparison.site_id == site_id)
    if run_id is not None:
        query = query.where((Comparison.run_a == run_id) | (Comparison.run_b == run_id))
    return list(session.scalars(query.order_by(Comparison.created_at.desc()).limit(limit)))


def files_of(session: Session, run_id: uuid.UUID) -> list[RunFile]:
    """Return the tables that a run's evaluation wrote."""
    return list(session.scalars(select(RunFile).where(RunFile.run_id == run_id).order_by(RunFile.name)))


def get_file(session: Session, run_id: uuid.UUID, name: str) -> RunFile:
    """Return one table of a run. Raises `NotFound`."""
    file = session.get(RunFile, (run_id, name))
    if file is None:
        raise NotFound
    return file


#: What can be done with a run, which is done with its batch.
ACTIONS: Mapping[str, Any] = {
    "pause": batches.pause,
    "resume": batches.resume,
    "cancel": batches.cancel,
    "retry": batches.retry,
}


def act(session: Session, run: Run, action: str) -> None:
    """Pause, resume, cancel or retry a run. Raises `WrongState`."""
    if run.batch_id is None:
        raise WrongState
    ACTIONS[action](session, run.batch_id, run.site_id)
