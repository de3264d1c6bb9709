"""Images at full bit depth: rendered by a worker on demand, and deleted after a while.

Each is as large as the kept original; most images are never viewed at this depth.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from settings import get_settings
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import ENDED_WORK, Image, Priority, Work, WorkKind
from store.queue import work

#: How long after a failed rendering it is not tried again.
RETRY_AFTER = timedelta(minutes=10)
#: Images deleted in one transaction.
DELETED_AT_ONCE = 500


class Answer(StrEnum):
    """Whether an image is available at full depth."""

    READY = "ready"
    MAKING = "making"
    NONE = "none"  # no kept original, or it cannot be rendered


def ask(session: Session, image_id: uuid.UUID) -> tuple[Answer, Image]:
    """Return whether an image is available at full depth; request its rendering where it is not yet.

    Call `dispatch` after the commit.
    """
    image = session.get_one(Image, image_id)
    if image.pixels_key is not None:
        return Answer.READY, image
    if image.original_key is None or image.display_key is None:
        return Answer.NONE, image
    session.refresh(image, with_for_update=True)  # two simultaneous requests make one unit of work
    made: str | None = image.pixels_key
    if made is not None:
        return Answer.READY, image
    last = session.scalar(
        select(Work)
        .where(Work.subject_id == image_id, Work.kind == WorkKind.PIXELS)
        .order_by(Work.created_at.desc())
        .limit(1)
    )
    if last is not None and last.state not in ENDED_WORK:
        return Answer.MAKING, image
    now = session.scalar(select(func.clock_timestamp()))
    if last is not None and last.finished_at and now and now - last.finished_at < RETRY_AFTER:
        return Answer.NONE, image
    work.add_unit(
        session, WorkKind.PIXELS, site_id=image.site_id, subject_id=image_id, priority=Priority.URGENT
    )
    return Answer.MAKING, image


def delete_expired() -> None:
    """Delete renderings past their retention; a later request makes them again."""
    keep = timedelta(seconds=get_settings().pixels_keep_seconds)
    with session_scope() as session:
        old = session.scalars(
            select(Image)
            .where(Image.pixels_key.is_not(None), Image.pixels_at < func.statement_timestamp() - keep)
            .order_by(Image.pixels_at)
            .limit(DELETED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        for image in old:
            get_blobs().delete(image.pixels_key or "")
            image.pixels_key = image.pixels_sha256 = image.pixels_at = None
