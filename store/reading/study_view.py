"""A study or an image as a reader sees it: with its finding, its other images and earlier results."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import literal, or_, select
from sqlalchemy.orm import Session

from store.base.errors import NotFound
from store.base.tables import Batch, Bundle, Finding, Image, Study, StudyFinding
from store.bundles.bundles import get_bundle
from store.reading import studies
from store.reading.images import ImageRow, get_images
from store.reading.worklist_tables import WorklistRow
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import worst_of

#: Earlier results of an image that a page shows.
MAX_EARLIER = 20


@dataclass(frozen=True)
class StudyReading:
    """A study as the bundle of its newest batch reads it.

    Attributes
    ----------
    batch
        The newest one that holds the study and that the person may see.
    finding
        The newest version; None when nothing was read.
    images
        Those that the finding stands on, or else those of the batch, in the order of their numbers.
    reports
        Every version that has a report, of whatever bundle, the newest first.
    row
        Of the worklist, when the study stands there with this batch.
    read_at
        When the bundle read what the finding stands on; a signed version is newer than that.
    amended
        The version that was signed before the finding came to stand on something else; None otherwise.
    """

    study: Study
    batch: Batch
    bundle: Bundle
    finding: StudyFinding | None
    images: list[ImageRow]
    reports: list[StudyFinding]
    row: WorklistRow | None
    read_at: datetime | None = None
    amended: StudyFinding | None = None

    @property
    def deciding(self) -> Image | None:
        """Return the image that decides the finding, where several were there to decide."""
        if self.finding is None or len(self.images) < 2:
            return None
        images = [row.image for row in self.images]
        readings = [
            (Triage(i.triage), i.probability) if i.triage and i.finding_id else (None, None) for i in images
        ]
        return images[worst_of(readings)]


def title(found: StudyReading) -> str:
    """Return what a study is called: its accession number, or its first file."""
    return found.study.accession or (found.images[0].image.path if found.images else str(found.study.id))


def get_study(session: Session, site_id: uuid.UUID, study_id: uuid.UUID, *, trials: bool) -> StudyReading:
    """Return a study of the site.

    Parameters
    ----------
    trials
        Whether the person may see what a bundle said that the site had not promoted.

    Raises
    ------
    NotFound
    """
    study = session.scalar(select(Study).where(Study.id == study_id, Study.site_id == site_id))
    if study is None:
        raise NotFound
    row = session.get(WorklistRow, study_id)
    if row is not None:
        batch = session.get_one(Batch, row.batch_id)
    else:
        query = (
            select(Batch)
            .join(Image, Image.batch_id == Batch.id)
            .where(Image.study_id == study_id, Batch.submitted_at.is_not(None), Batch.run_id.is_(None))
            .order_by(Batch.promoted.desc(), Batch.submitted_at.desc())
            .limit(1)
        )
        found = session.scalar(query)
        if found is None or not (found.promoted or trials):
            raise NotFound
        batch = found
    all_versions = list(
        session.scalars(
            select(StudyFinding)
            .join(Batch, Batch.id == StudyFinding.batch_id)
            .where(
                StudyFinding.study_id == study_id,
                or_(StudyFinding.bundle == batch.bundle, Batch.promoted, literal(trials)),
                Batch.run_id.is_(None),
            )
            .order_by(StudyFinding.created_at.desc(), StudyFinding.version.desc())
        )
    )
    versions = sorted((v for v in all_versions if v.bundle == batch.bundle), key=lambda v: -v.version)
    finding = versions[0] if versions else None
    signed = next((v for v in all_versions if v.signed_at), None)
    stands_on = {image.id for image in studies.study_state(session, study_id, batch.bundle).images}
    of_batch = select(Image.id).where(
        Image.study_id == study_id,
        Image.batch_id == batch.id,
        (Image.status != ImageStatus.REJECTED) | (Image.reason != "duplicate_in_study"),
    )
    if not stands_on:
        stands_on = set(session.scalars(of_batch))
    return StudyReading(
        study=study,
        batch=batch,
        bundle=get_bundle(session, batch.bundle),
        finding=finding,
        images=get_images(session, site_id, stands_on),
        reports=[version for version in all_versions if version.report_key],
        row=row,
        read_at=min((v.created_at for v in versions if finding and v.basis == finding.basis), default=None),
        amended=signed if signed and finding and studies.is_amended(signed, finding) else None,
    )


@dataclass(frozen=True)
class Earlier:
    """An earlier result for the same bytes."""

    image: Image
    batch: Batch


def earlier_results(session: Session, image: Image, *, trials: bool) -> list[Earlier]:
    """Return the results for the image's bytes in other batches of the site, newest first."""
    query = (
        select(Image, Batch)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.site_id == image.site_id,
            Image.sha256 == image.sha256,
            Image.batch_id != image.batch_id,
            Image.finding_id.is_not(None),
            Batch.run_id.is_(None),
        )
        .order_by(Image.seq.desc())
        .limit(MAX_EARLIER)
    )
    if not trials:
        query = query.where(Batch.promoted)
    return [Earlier(other, batch) for other, batch in session.execute(query)]


def trial_findings(session: Session, image: Image, bundle: str) -> list[Finding]:
    """Return other bundles' findings on the image's bytes: for comparing bundles, never for readers."""
    query = (
        select(Finding)
        .where(Finding.site_id == image.site_id, Finding.sha256 == image.sha256, Finding.bundle != bundle)
        .order_by(Finding.created_at.desc())
        .limit(MAX_EARLIER)
    )
    return list(session.scalars(query))
