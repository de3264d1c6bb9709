"""The tables of monitoring: devices, what came of each day, acceptance windows, and alarms."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import Date, Float, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base, id_column, now_column, site_column, zero_column


class Device(Base):
    """What made images: a coded manufacturer, its model, and a keyed hash of the station's name."""

    __tablename__ = "devices"
    __table_args__ = (UniqueConstraint("site_id", "manufacturer", "model", "station"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    manufacturer: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(32))
    station: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = now_column()


class DriftDay(Base):
    """What came of the images that one bundle read of one region, from one device, on one day (UTC).

    `device` is an id, or empty where it is not known; `logits` and `distances` have the counts of
    `drift_statistics.Counts`, the latter none where an earlier version counted. It outlives the images.
    """

    __tablename__ = "drift_days"
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    bundle: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(String(36), primary_key=True)
    n: Mapped[int] = zero_column()
    positive: Mapped[int] = zero_column()
    doubt: Mapped[int] = zero_column()
    not_assessable: Mapped[int] = zero_column()
    rejected: Mapped[int] = zero_column()
    logits: Mapped[list[Any]]
    distances: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)


class DriftBaseline(Base):
    """The acceptance window of a bundle at a site, and the sums that have gathered since it was frozen.

    The latest one of a site counts. While it is open, `counts` is empty. `parts` has the window and the sums
    of each region and device, as `drift_statistics.Part` has them.
    """

    __tablename__ = "drift_baselines"
    __table_args__ = (Index("ix_drift_baselines_site", "site_id", "created_at"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    bundle: Mapped[str]
    started_on: Mapped[date] = mapped_column(Date)
    frozen_on: Mapped[date | None] = mapped_column(Date)  # its last day
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    sums: Mapped[dict[str, Any]] = mapped_column(default=dict)
    rests: Mapped[dict[str, Any]] = mapped_column(default=dict)
    parts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"), default=dict)
    watched_to: Mapped[date | None] = mapped_column(Date)
    created_at: Mapped[datetime] = now_column()


class DriftAlarm(Base):
    """Something that was no longer as in the acceptance window: of all images, or of a region or device.

    `part` is empty, ``region NAME`` or ``device ID``.
    """

    __tablename__ = "drift_alarms"
    __table_args__ = (
        UniqueConstraint("baseline_id", "day", "signal", "part"),
        Index("ix_drift_alarms_site", "site_id", "day"),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    baseline_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("drift_baselines.id"))
    bundle: Mapped[str]
    day: Mapped[date] = mapped_column(Date)
    signal: Mapped[str]
    part: Mapped[str] = mapped_column(server_default=text("''"), default="")
    value: Mapped[float] = mapped_column(Float)
    limit: Mapped[float] = mapped_column("limit_value", Float)
    created_at: Mapped[datetime] = now_column()
