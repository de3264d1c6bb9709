"""The tables of research: data sets, runs over them, comparisons, which bundle serves.

They hang on clinical rows by plain ids: what is clinical neither needs nor notices them.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base, id_column, now_column, site_column, zero_column


class RunKind(StrEnum):
    """What a run scores: a dataset, or the site's own traffic with a bundle that does not serve."""

    DATASET = "dataset"
    SHADOW = "shadow"


class Dataset(Base):
    """Labelled radiographs that stay where they lie: `root` is a file:// or s3:// address, only read.

    `sha256` is over the sorted lines ``<image sha256>  <path>``; NULL until every image was looked at.
    """

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("site_id", "name"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    name: Mapped[str]
    root: Mapped[str]
    format: Mapped[str]
    label_meaning: Mapped[str]
    sha256: Mapped[str | None] = mapped_column(String(64))
    n_images: Mapped[int] = zero_column()
    n_seen: Mapped[int] = zero_column()
    left_out: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"), default=dict)
    created_at: Mapped[datetime] = now_column()
    scanned_at: Mapped[datetime | None]


class DatasetImage(Base):
    """One image of a dataset. Path and study may hold the label: scoring is given `id` and nothing else."""

    __tablename__ = "dataset_images"
    __table_args__ = (
        UniqueConstraint("dataset_id", "path"),
        UniqueConstraint("dataset_id", "number"),
        Index(
            "ix_dataset_images_waiting",
            "dataset_id",
            "number",
            postgresql_where=text("look IS NULL AND problem IS NULL"),
        ),
    )
    id: Mapped[uuid.UUID] = id_column()
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    number: Mapped[int]  # in the order of the paths' hashes, so that it tells nothing
    path: Mapped[str]
    study: Mapped[str]
    patient: Mapped[str]
    region: Mapped[str]
    part: Mapped[str]
    sha256: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int | None] = mapped_column(BigInteger)
    problem: Mapped[str | None]  # "missing", or the Reason why it cannot be decoded
    look: Mapped[bytes | None] = mapped_column(LargeBinary)  # pipeline.lookalikes.look_of


class DatasetLabel(Base):
    """What a dataset says of an image under the name of one label column. Read by the evaluation alone."""

    __tablename__ = "dataset_labels"
    image_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("dataset_images.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bool] = mapped_column(Boolean)


class Run(Base):
    """A scoring for research: its batches carry its id. `figures` holds each bundle's evaluation.

    `classified` and `detected` count the images that were sent through region and fracture networks, before
    they were: what a killed worker lost stays counted.
    """

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_site_created", "site_id", "created_at"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[str]
    dataset_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("datasets.id"))
    part: Mapped[str] = mapped_column(server_default="", default="")
    label: Mapped[str] = mapped_column(server_default="", default="")  # the label column
    bundles: Mapped[list[Any]]
    batch_id: Mapped[uuid.UUID | None]  # of a dataset's run; a shadow has one for each clinical batch
    with_routing: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    made_with: Mapped[dict[str, Any]]  # hashes, settings and versions that repeat it
    classified: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    detected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    figures: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = now_column()
    evaluated_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]  # gone from every list; what it stored goes in steps


class RunPicture(Base):
    """A bundle's attention map over one image of a run, as JPEG; kept where a run asks for such pictures."""

    __tablename__ = "run_pictures"
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    bundle: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class RunFile(Base):
    """A table that an evaluation wrote: predictions as MURA takes them, one line an image."""

    __tablename__ = "run_files"
    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class Comparison(Base):
    """Bundle b against bundle a, on the images that both runs have."""

    __tablename__ = "comparisons"
    __table_args__ = (Index("ix_comparisons_site_created", "site_id", "created_at"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    run_a: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    bundle_a: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    run_b: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    bundle_b: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    margin: Mapped[float] = mapped_column(Float)
    figures: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = now_column()
    evaluated_at: Mapped[datetime | None]


class FindingScore(Base):
    """What another network than the clinical finding's says of the same bytes; for evaluations alone."""

    __tablename__ = "finding_scores"
    finding_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("findings.id", ondelete="CASCADE"), primary_key=True
    )
    network: Mapped[str] = mapped_column(primary_key=True)
    logit: Mapped[float]
    cam: Mapped[bytes] = mapped_column(LargeBinary)
    cam_height: Mapped[int] = mapped_column(SmallInteger)
    cam_width: Mapped[int] = mapped_column(SmallInteger)
