"""The table of the worklist: one denormalised row a study, and the words by which it is found."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, column_property, mapped_column

from store.base.tables import Base

#: Where a row stands when the list is sorted by a column, as its index has it. Before it stands whether
#: the study was reviewed: either list is read by itself.
PLACES = {
    "name": "left(lower(coalesce(nullif(accession, ''), path)), 40)",  # collated as C by its migration
    "share": "coalesce(probability, -1)",
    "arrived": "arrived_at",
    "touched": "coalesce(reviewed_at, opened_at, '1970-01-01 00:00:00+00'::timestamptz)",
}


class WorklistRow(Base):
    """A study as the newest batch that holds it shows it; written by `store.reading.worklist` alone.

    `rank` is the class (see `worklist.Rank`) and `since` the place in it; both stand in every index,
    with the filters' columns behind them, so that a filter is looked at in the index.
    """

    __tablename__ = "worklist"
    __table_args__ = (
        Index(
            "ix_worklist_order",
            *("site_id", "rank", "since", "study_id"),
            *("triage", "region", "status", "bundle", "day", "batch_id"),
        ),
        Index("ix_worklist_batch", "batch_id", "rank", "since", "study_id", "triage", "region", "status"),
        Index(
            "ix_worklist_triage",
            *("site_id", "triage", "rank", "since", "study_id", "region", "status", "bundle", "day"),
        ),
        Index(
            "ix_worklist_region",
            *("site_id", "region", "rank", "since", "study_id", "triage", "status", "bundle", "day"),
        ),
        Index(
            "ix_worklist_not_done",
            *("site_id", "status", "rank", "since", "study_id", "region", "bundle", "day"),
            postgresql_where=text("status <> 'done'"),
        ),
        Index("ix_worklist_waiting", "arrived_at", postgresql_where=text("rank > 0 and rank < 9")),
        *(
            Index(
                f"ix_worklist_{name}",
                *("site_id", text("(rank / 9)"), text(f"({place})")),
                *("study_id", "rank", "triage", "region", "status", "day"),
            )
            for name, place in PLACES.items()
        ),
    )
    study_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True
    )
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"))
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    image_id: Mapped[uuid.UUID]  # the image that decides; no foreign key, its study's rows go together
    bundle: Mapped[str]
    basis: Mapped[str] = mapped_column(server_default="")  # of the study's finding; what a review is about
    rank: Mapped[int] = mapped_column(SmallInteger)
    since: Mapped[datetime]
    arrived_at: Mapped[datetime]
    day: Mapped[date]  # of the arrival, in UTC
    priority: Mapped[int] = mapped_column(SmallInteger)
    risen: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    status: Mapped[str]
    triage: Mapped[str | None]
    reason: Mapped[str | None]
    probability: Mapped[float | None] = mapped_column()
    region: Mapped[str] = mapped_column(server_default="")
    n_images: Mapped[int] = mapped_column(Integer)
    path: Mapped[str] = mapped_column()  # of the image that decides
    accession: Mapped[str] = mapped_column(server_default="")
    age_years: Mapped[int | None] = mapped_column(SmallInteger)  # the lowest that an image states
    study_date: Mapped[str] = mapped_column(server_default="")
    opened_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    opened_at: Mapped[datetime | None] = mapped_column()
    reviewed_at: Mapped[datetime | None] = mapped_column()
    answer: Mapped[str | None]
    signed_at: Mapped[datetime | None]
    # somebody reviewed or signed an earlier state of the study
    reread: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # where it stood before it left the list; taken back, it stands there again
    before_rank: Mapped[int | None] = mapped_column(SmallInteger)
    before_since: Mapped[datetime | None]
    # the expressions of the indexes, with their constants in the statement: the planner knows them by those
    place_name = column_property(
        func.left(
            func.lower(func.coalesce(func.nullif(accession, literal_column("''")), path)),
            literal_column("40"),
        ).collate("C")
    )
    place_share = column_property(func.coalesce(probability, literal_column("-1")))
    place_touched = column_property(
        func.coalesce(
            reviewed_at,
            opened_at,
            literal_column("'1970-01-01 00:00:00+00'::timestamptz", DateTime(timezone=True)),
        )
    )
    flags: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))


class WorklistView(Base):
    """What a person narrows and sorts the list by again and again, under a name of theirs."""

    __tablename__ = "worklist_views"
    __table_args__ = (UniqueConstraint("user_id", "name", name="uq_worklist_views_user_id_name"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    query: Mapped[str]  # of the page's address


class WorklistWords(Base):
    """What a study is found by, each word behind the beginning of its site's id: see `worklist_search`.

    A table of its own, since a row of the worklist is written again and again and its words are not.
    """

    __tablename__ = "worklist_words"
    __table_args__ = (Index("ix_worklist_words_words", "words", postgresql_using="gin"),)
    study_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("worklist.study_id", ondelete="CASCADE"), primary_key=True
    )
    words: Mapped[str] = mapped_column(TSVECTOR)
