"""Signs a report: the PDF written anew with its reader's answer, a version beside the old ones."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy import select, update

from pipeline.report import render
from pipeline.report.types import Mark, Signature
from store.accounts.accounts import write_audit
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Site, Study, User
from store.queue import work
from store.queue.work import Lease
from store.reading import studies
from store.reading.review_tables import Review
from store.reading.worklist_tables import WorklistRow
from vocabulary.reasons import Reason
from vocabulary.states import Answer, Triage
from worker.reading.study_reports import earlier_signature, study_reasons, study_report


def _mark(review: Review, images: list[Image]) -> Mark | None:
    number = studies.numbers(images).get(review.image_id) if review.image_id else None
    if number is None or review.x is None or review.y is None:
        return None
    return Mark(number, review.x, review.y, review.width or 0, review.height or 0)


def sign(lease: Lease) -> bool:
    """Write the signed version of a review's study; a study that changed since is left to be read again."""
    with session_scope() as session:
        review = session.get_one(Review, lease.subject_id)
        batch = session.get_one(Batch, review.batch_id)
        state = studies.study_state(session, review.study_id, review.bundle)
        latest = studies.latest_finding(session, review.study_id, review.bundle)
        site, study = session.get_one(Site, review.site_id), session.get_one(Study, review.study_id)
        account = review.account or session.get_one(User, review.user_id).email
        signed_before = studies.last_signed(session, [review.study_id]).get(review.study_id)
        ids = [image.finding_id for image in state.images if image.finding_id]
        findings = {f.id: f for f in session.scalars(select(Finding).where(Finding.id.in_(ids)))}
    if latest is None or not latest.basis == state.basis == review.basis:
        with session_scope() as session:
            work.end_unit(session, lease)
        return False
    version, signed_at = latest.version + 1, datetime.now(UTC)
    signature = Signature(
        review.reader,
        account,
        signed_at,
        Answer(review.answer),
        review.comment,
        _mark(review, state.images),
    )
    earlier = earlier_signature(signed_before, review.bundle, state.basis)
    triage, reasons = Triage(latest.triage), tuple(Reason(code) for code in latest.reasons)
    reasons = study_reasons(study, reasons)
    document = study_report(
        site, study, batch, version, triage, reasons, state.images, findings, signature, earlier
    )
    key = f"reports/{site.id}/{study.id}/{batch.bundle}-v{version}-{uuid.uuid4().hex[:8]}.pdf"
    sha256, size = get_blobs().put(key, render.render_report(document))
    saved = False
    try:
        with session_scope() as session:
            work.end_unit(session, lease)
            signed = studies.NewFinding(
                study_id=study.id,
                basis=state.basis,
                triage=triage,
                reasons=reasons,
                n_images=latest.n_images,
                version=version,
                report=studies.Report(key, sha256, size),
                signature=studies.Signature(review.id, review.reader, signed_at),
            )
            saved = bool(studies.save_findings(session, batch, [signed]))
            if not saved:  # the next attempt sees which
                raise RuntimeError("the study got another version meanwhile")
            session.execute(
                update(WorklistRow)
                .where(WorklistRow.study_id == study.id, WorklistRow.basis == review.basis)
                .values(signed_at=signed_at)
                .execution_options(synchronize_session=False)
            )
            write_audit(session, site.id, review.user_id, "report_signed", study.id, version=version)
    finally:
        if not saved:
            get_blobs().delete(key)
    return False
