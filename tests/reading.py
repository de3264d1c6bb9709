"""Batches read to their end without a neural network: the rows and bytes that the stages leave."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Work, WorkState
from store.queue import counters
from store.reading import studies, worklist
from vocabulary.reasons import Reason
from vocabulary.states import BatchStatus, ImageStatus, Triage


def read_batch(
    batch_id: str | uuid.UUID,
    *,
    reject: frozenset[str] = frozenset(),
    fail: frozenset[str] = frozenset(),
    facts: Callable[[str], Mapping[str, str]] = lambda path: {},
) -> None:
    """Bring every waiting image of a submitted batch to its end, as the stages do.

    The probability comes from the first byte of the image's hash; `reject` and `fail` name paths; `facts`
    says what a path's header would (`study_uid`, `accession`).
    """
    with session_scope() as session:
        batch = session.get_one(Batch, uuid.UUID(str(batch_id)))
        waiting = select(Image).where(Image.batch_id == batch.id, Image.status == ImageStatus.QUEUED)
        images = list(session.scalars(waiting.order_by(Image.seq)))
        uploads = {image.id: image.incoming_key for image in images if image.incoming_key}
        with counters.counted(session, batch.id, images):
            for image in images:
                for name, said in facts(image.path).items():
                    setattr(image, name, said)
            studies.assign(session, images)
            for image in images:
                image.passed = counters.LAST
                image.finished_at = func.clock_timestamp()
                if image.path in reject:
                    image.status, image.reason = ImageStatus.REJECTED.value, Reason.TRUNCATED.value
                    image.incoming_key = None
                elif image.path in fail:
                    image.status, image.reason = ImageStatus.FAILED.value, Reason.WORKER_LOST.value
                else:
                    _read(session, batch, image)
        read = {image.study_id for image in images if image.study_id and image.finding_id}
        for study_id in sorted(read, key=str):
            _save_study(session, batch, study_id)
        session.execute(update(Work).where(Work.batch_id == batch.id).values(state=WorkState.DONE.value))
        batch.status = (BatchStatus.PARTIAL if fail else BatchStatus.DONE).value
        batch.finished_at = func.clock_timestamp()
        batch.version += 1
    worklist.fill(batch)
    for image in images:
        if image.incoming_key is None and image.id in uploads:
            get_blobs().delete(uploads[image.id])


def _read(session: Session, batch: Batch, image: Image) -> None:
    probability = int(image.sha256[:2], 16) / 255
    triage = (
        Triage.POSITIVE if probability >= 0.7 else Triage.DOUBT if probability >= 0.2 else Triage.NEGATIVE
    )
    known = select(Finding).where(
        Finding.site_id == image.site_id, Finding.sha256 == image.sha256, Finding.bundle == batch.bundle
    )
    finding = session.scalar(known) or Finding(
        id=uuid.uuid4(),
        site_id=image.site_id,
        sha256=image.sha256,
        bundle=batch.bundle,
        precision="float32",
        region="hand",
        region_probability=0.9,
        region_probabilities={"hand": 0.9},
        logit=0.0,
        probability=probability,
        triage=triage.value,
    )
    session.add(finding)
    session.flush()
    folder = f"images/{image.site_id}/{image.id}"
    image.original_key, image.overlay_key = f"{folder}/original", f"{folder}/overlay.jpg"
    image.original_sha256, _ = get_blobs().put(image.original_key, image.path.encode())
    image.overlay_sha256, image.overlay_size = get_blobs().put(image.overlay_key, b"a heat map")
    image.incoming_key = None
    image.status, image.finding_id = ImageStatus.DONE.value, finding.id
    image.region, image.region_probability = "hand", 0.9
    image.probability, image.triage = probability, triage.value


def _save_study(session: Session, batch: Batch, study_id: uuid.UUID) -> None:
    state = studies.study_states(session, [study_id], batch.bundle)[study_id]
    latest = studies.latest_findings(session, [study_id], batch.bundle).get(study_id)
    version = latest.version + 1 if latest else 1
    kept = None
    if batch.with_report:
        key = f"reports/{batch.site_id}/{study_id}/v{version}.pdf"
        kept = studies.Report(key, *get_blobs().put(key, f"%PDF-1.7 {study_id} version {version}".encode()))
    worst = min((Triage(i.triage) for i in state.images if i.triage), key=list(Triage).index)
    new = studies.NewFinding(study_id, state.basis, worst, (), len(state.images), version, kept)
    studies.save_findings(session, batch, [new])
