"""The tables of what arrives by DICOM: who may send, what has come, and which objects are our own."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base, id_column, now_column, site_column, zero_column


class GatewaySite(Base):
    """How a site is reached by DICOM, and when a study that arrives counts as complete.

    `urgent_rules` are texts such as ``0040,1003=HIGH``: objects with that element make their study urgent.
    """

    __tablename__ = "gateway_sites"
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(16), unique=True)
    quiet_seconds: Mapped[float] = mapped_column(Float, server_default=text("60"), default=60.0)
    release_seconds: Mapped[float] = mapped_column(Float, server_default=text("10"), default=10.0)
    longest_seconds: Mapped[float] = mapped_column(Float, server_default=text("900"), default=900.0)
    urgent_rules: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    created_at: Mapped[datetime] = now_column()


class GatewayPeer(Base):
    """A device or archive that may send to a site: its AE title, and from which networks it comes."""

    __tablename__ = "gateway_peers"
    __table_args__ = (UniqueConstraint("site_id", "ae_title"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    ae_title: Mapped[str] = mapped_column(String(16))
    networks: Mapped[list[Any]]
    urgent: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    created_at: Mapped[datetime] = now_column()


class ReceivedStudy(Base):
    """Images of one study that arrive together: a draft of the site, submitted once no more are expected."""

    __tablename__ = "received_studies"
    __table_args__ = (
        Index(
            "uq_received_studies_open",
            "site_id",
            "study_uid",
            unique=True,
            postgresql_where=text("completed_at is null"),
        ),
        Index("ix_received_studies_due", "due_at", postgresql_where=text("completed_at is null")),
        Index("ix_received_studies_batch", "batch_id"),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    study_uid: Mapped[str] = mapped_column(String(64))
    batch_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    source: Mapped[str]
    n_objects: Mapped[int] = zero_column()
    first_at: Mapped[datetime] = now_column()
    due_at: Mapped[datetime] = now_column()
    completed_at: Mapped[datetime | None]


class ReceivedObject(Base):
    """An object that was acknowledged, by what it is known again when its sender repeats it."""

    __tablename__ = "received_objects"
    __table_args__ = (Index("ix_received_objects_image", "image_id"),)
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    sop_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    received_at: Mapped[datetime] = now_column()


class EnvelopeKey(Base):
    """A public key to which a site's identities are sealed; the latest one counts. Its name is its hash."""

    __tablename__ = "envelope_keys"
    __table_args__ = (Index("ix_envelope_keys_site", "site_id"),)
    key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    site_id: Mapped[uuid.UUID] = site_column()
    public_key: Mapped[str]
    created_at: Mapped[datetime] = now_column()


class MadeObject(Base):
    """An object that this service made for a site: should it come back, it is never read."""

    __tablename__ = "made_objects"
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    sop_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_class: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[datetime] = now_column()
