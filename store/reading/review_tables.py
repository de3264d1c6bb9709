"""What readers said of studies: rows that are only ever added."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ColumnElement, ForeignKey, Index, Integer, exists, func
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base


class Review(Base):
    """A reader's answer to a study, and what the AI had said by then; append-only by a trigger.

    `basis` is that of the finding which was on the screen: a study that changed is another question.
    The place, if any, is a box on one image in pixels of the original; a point has no width and no height.
    """

    __tablename__ = "reviews"
    __table_args__ = (
        Index("ix_reviews_study", "study_id", "created_at"),
        Index("ix_reviews_site_bundle", "site_id", "bundle", "study_id", "created_at"),
    )
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"))
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    batch_id: Mapped[uuid.UUID]  # no foreign key: a batch may be deleted, what was said of it stays
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    reader: Mapped[str]  # name or address at that time
    account: Mapped[str] = mapped_column(server_default="")  # the address that they sign in with
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    basis: Mapped[str] = mapped_column(server_default="")
    version: Mapped[int | None]
    triage: Mapped[str | None]
    answer: Mapped[str]
    comment: Mapped[str] = mapped_column(server_default="")
    image_id: Mapped[uuid.UUID | None]
    x: Mapped[int | None] = mapped_column(Integer)
    y: Mapped[int | None] = mapped_column(Integer)
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ReviewWithdrawal(Base):
    """That a reader took an answer back: it counts no longer, and stays in the history."""

    __tablename__ = "review_withdrawals"
    review_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("reviews.id", ondelete="CASCADE"), primary_key=True
    )
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


def counts() -> ColumnElement[bool]:
    """Return the condition that a review was not taken back."""
    return ~exists().where(ReviewWithdrawal.review_id == Review.id)
