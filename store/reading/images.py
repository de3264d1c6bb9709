"""Images with the findings on them, as pages, the API and reports read them."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Row, Select, and_, func, select
from sqlalchemy.orm import Session, aliased

from store.base.errors import NotFound
from store.base.paging import Keyset, Page, whole
from store.base.tables import Batch, Finding, Image, Study, StudyFinding
from store.reading.studies import numbers

_BY_ARRIVAL = Keyset((Image.seq,), (whole(64),))


@dataclass(frozen=True)
class ImageRow:
    """An image with its study, its finding and the study's latest finding, where there are any."""

    image: Image
    study: Study | None
    finding: Finding | None
    study_finding: StudyFinding | None


def _image_rows(site_id: uuid.UUID) -> Select[Image, Study, Finding, StudyFinding]:
    latest = aliased(StudyFinding)
    newest = (
        select(func.max(latest.version))
        .where(latest.study_id == StudyFinding.study_id, latest.bundle == StudyFinding.bundle)
        .correlate(StudyFinding)
        .scalar_subquery()
    )
    return (
        select(Image, Study, Finding, StudyFinding)
        .join(Batch, Batch.id == Image.batch_id)
        .outerjoin(Study, Study.id == Image.study_id)
        .outerjoin(Finding, Finding.id == Image.finding_id)
        .outerjoin(
            StudyFinding,
            and_(
                StudyFinding.study_id == Image.study_id,
                StudyFinding.bundle == Batch.bundle,
                StudyFinding.version == newest,
            ),
        )
        .where(Image.site_id == site_id, Batch.run_id.is_(None))
    )


def _image_row(row: Row[Image, Study, Finding, StudyFinding]) -> ImageRow:
    image, study, finding, study_finding = row
    return ImageRow(image, study, finding, study_finding)


def list_images(
    session: Session,
    site_id: uuid.UUID,
    batch_id: uuid.UUID,
    *,
    status: str | None = None,
    triage: str | None = None,
    region: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ImageRow]:
    """Return a batch's images in the order of their arrival. Raises `NotFound`, `InvalidCursor`."""
    mine = select(Batch.id).where(Batch.id == batch_id, Batch.site_id == site_id, Batch.run_id.is_(None))
    if session.scalar(mine) is None:
        raise NotFound
    # the page's images first, and by themselves: where most batches are small the planner takes this one for
    # small, too, and would look up the study and the finding of every image in it
    chosen = select(Image.id).where(Image.batch_id == batch_id)
    for column, value in ((Image.status, status), (Image.triage, triage), (Image.region, region)):
        if value is not None:
            chosen = chosen.where(column == value)
    ids = session.scalars(_BY_ARRIVAL.after(chosen, cursor).limit(limit + 1)).all()
    rows = session.execute(_image_rows(site_id).where(Image.id.in_(ids)).order_by(Image.seq)) if ids else ()
    return _BY_ARRIVAL.page(map(_image_row, rows), limit, lambda row: row.image)


def get_image(session: Session, site_id: uuid.UUID, image_id: uuid.UUID) -> ImageRow:
    """Return one image of the site. Raises `NotFound`."""
    row = session.execute(_image_rows(site_id).where(Image.id == image_id)).first()
    if row is None:
        raise NotFound
    return _image_row(row)


def get_images(session: Session, site_id: uuid.UUID, ids: Collection[uuid.UUID]) -> list[ImageRow]:
    """Return images of one study of the site in the order of their numbers."""
    rows = [_image_row(row) for row in session.execute(_image_rows(site_id).where(Image.id.in_(ids)))]
    place = numbers(row.image for row in rows)
    return sorted(rows, key=lambda row: place[row.image.id])
