"""The tables of which bundle serves a site, and of what a site has validated a bundle for."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, Boolean, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base, now_column, site_column


class Promotion(Base):
    """Which bundle began to serve a site by default, and which did before; append-only.

    `rolled_back` tells a step back from a promotion.
    """

    __tablename__ = "promotions"
    __table_args__ = (Index("ix_promotions_site", "site_id", "id"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    before: Mapped[str | None] = mapped_column(ForeignKey("bundles.name"))
    rolled_back: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    at: Mapped[datetime] = now_column()


class PartValidation(Base):
    """What a bundle said of a site's own labelled images of a body part, which lets it say negative there."""

    __tablename__ = "part_validations"
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"), primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    positives: Mapped[int]
    found: Mapped[int]
    negatives: Mapped[int]
    cleared: Mapped[int]
    dataset: Mapped[str]
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    at: Mapped[datetime] = now_column()
