"""The tables of what goes back to archives: where to, and what became of each object."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ForeignKey, Index, String, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.base.tables import Base, id_column, now_column, site_column, zero_column
from vocabulary.dicom import COMPREHENSIVE_3D_SR, derived_uid


class Destination(Base):
    """An archive that a site's results go to, by C-STORE or STOW-RS.

    `triage` and `bundle` narrow what goes there; empty they do not. The secret of an HTTP header is sealed.
    """

    __tablename__ = "destinations"
    __table_args__ = (Index("ix_destinations_site", "site_id"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    name: Mapped[str]
    protocol: Mapped[str]
    address: Mapped[str]  # host:port, or the address of the DICOMweb service
    called: Mapped[str] = mapped_column(String(16), server_default="", default="")
    calling: Mapped[str] = mapped_column(String(16), server_default="", default="")
    tls: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    secret: Mapped[str | None]
    kinds: Mapped[list[Any]]
    triage: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    bundle: Mapped[str | None]
    check_patient: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    failures: Mapped[int] = zero_column()  # tries in a row that failed
    rest_until: Mapped[datetime | None]  # nothing is sent there before
    last_error: Mapped[str | None]
    stopped: Mapped[str | None]  # why nothing is sent there until a person lets it
    created_at: Mapped[datetime] = now_column()
    removed_at: Mapped[datetime | None]


class Delivery(Base):
    """One object on its way to one destination. Its id is the `subject_id` of its unit of work."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("destination_id", "sop_uid"),
        Index("ix_deliveries_site_created", "site_id", "created_at", "id"),
        Index(
            "ix_deliveries_transaction",
            "transaction_uid",
            postgresql_where=text("transaction_uid is not null"),
        ),
        Index("ix_deliveries_study", "study_id"),
        Index("ix_deliveries_site_state", "site_id", "state"),
        Index("ix_deliveries_finding", "study_finding_id"),
        Index("ix_deliveries_image", "image_id"),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    destination_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("destinations.id"))
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    study_finding_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("study_findings.id", ondelete="CASCADE"))
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    kind: Mapped[str]
    sop_uid: Mapped[str] = mapped_column(String(64))
    sop_class: Mapped[str | None] = mapped_column(String(64))  # of a report, once its archive was asked
    predecessor_id: Mapped[uuid.UUID | None]  # the delivery of the report that it replaces
    state: Mapped[str] = mapped_column(server_default="waiting", default="waiting")
    attempts: Mapped[int] = zero_column()
    detail: Mapped[str] = mapped_column(server_default="", default="")
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the object as it was first sent
    transaction_uid: Mapped[str | None] = mapped_column(String(64))  # of the last request for commitment
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    tried_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    committed_at: Mapped[datetime | None]

    @property
    def instance_uid(self) -> str:
        """The SOP Instance UID as it is sent: an object in another class is another object."""
        return derived_uid("3d", self.sop_uid) if self.sop_class == COMPREHENSIVE_3D_SR else self.sop_uid
