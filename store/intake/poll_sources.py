"""Archives that are asked for new studies by DICOMweb: which, how far, and what of each study was fetched."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Date, Float, ForeignKey, Index, Integer, String, cast, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from settings import get_settings
from store.accounts.accounts import write_audit
from store.base.errors import NotFound, ServiceError
from store.base.sealing import sealer
from store.base.tables import Base, id_column, now_column, site_column
from store.intake.gateway_tables import ReceivedObject


class PollSource(Base):
    """An archive that is asked: by which filters, how often, and from which day on (of the study).

    `cursor_day` is the last day up to which everything was fetched; a round begins `overlap_days` before it.
    """

    __tablename__ = "poll_sources"
    __table_args__ = (Index("ix_poll_sources_site", "site_id"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    name: Mapped[str]
    address: Mapped[str]
    secret: Mapped[str | None]
    filters: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    seconds: Mapped[float] = mapped_column(Float, server_default=text("60"), default=60.0)
    overlap_days: Mapped[int] = mapped_column(Integer, server_default=text("2"), default=2)
    cursor_day: Mapped[date] = mapped_column(Date)
    due_at: Mapped[datetime] = now_column()
    done_at: Mapped[datetime | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = now_column()
    removed_at: Mapped[datetime | None]


class PolledStudy(Base):
    """How many instances a study had when all of them had been fetched or refused.

    A study stands here by a keyed hash: it outlives the study's erasure, so that the next round does not
    bring it back.
    """

    __tablename__ = "polled_studies"
    source_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("poll_sources.id", ondelete="CASCADE"), primary_key=True
    )
    study_uid: Mapped[str] = mapped_column(String(64), primary_key=True)  # of `mark_of`
    study_date: Mapped[date | None] = mapped_column(Date)
    n_instances: Mapped[int]


class InvalidPoll(ServiceError):
    """An archive to ask is described wrongly."""

    code, status = "invalid_poll", 422
    title = "That does not describe an archive to ask."
    advice = "The address of its DICOMweb service, https://..., and filters such as ModalitiesInStudy=DX."


#: What may not be said by a filter, since the cursor does.
_OWN = {"StudyDate", "limit", "offset", "includefield"}


def add(
    session: Session,
    site_id: uuid.UUID,
    name: str,
    address: str,
    *,
    since: date,
    filters: Sequence[str] = (),
    authorization: str = "",
    seconds: float = 60.0,
    overlap_days: int = 2,
    by: uuid.UUID | None = None,
) -> PollSource:
    """Ask an archive for studies of a day and later from now on.

    Raises
    ------
    InvalidPoll
    """
    if not address.startswith(("https://", "http://")):
        raise InvalidPoll("the address begins with https://")
    for each in filters:
        if not re.fullmatch(r"[A-Za-z0-9]+=.+", each) or each.partition("=")[0] in _OWN:
            raise InvalidPoll(f"not a filter: {each}")
    if seconds < 1 or overlap_days < 0:
        raise InvalidPoll("at least a second, and no days less than none")
    source = PollSource(
        site_id=site_id,
        name=name,
        address=address.rstrip("/"),
        secret=sealer(b"poll sources").encrypt(authorization.encode()).decode() if authorization else None,
        filters=list(filters),
        seconds=seconds,
        overlap_days=overlap_days,
        cursor_day=since,
    )
    session.add(source)
    session.flush()
    write_audit(session, site_id, by, "poll_source_added", source.id, address=source.address)
    return source


def authorization_of(source: PollSource) -> str:
    """Return the header by which the archive knows us; empty where it asks for none."""
    return "" if source.secret is None else sealer(b"poll sources").decrypt(source.secret.encode()).decode()


def list_sources(session: Session, site_id: uuid.UUID | None = None) -> list[PollSource]:
    """Return the archives that are asked, of one site or all."""
    query = select(PollSource).where(PollSource.removed_at.is_(None))
    if site_id is not None:
        query = query.where(PollSource.site_id == site_id)
    return list(session.scalars(query.order_by(PollSource.created_at, PollSource.id)))


def remove(session: Session, site_id: uuid.UUID, name: str, *, by: uuid.UUID | None = None) -> None:
    """Ask an archive no more. Raises `NotFound`."""
    found = [each for each in list_sources(session, site_id) if name in {each.name, str(each.id)}]
    if not found:
        raise NotFound
    found[0].removed_at, found[0].secret = func.now(), None
    session.execute(delete(PolledStudy).where(PolledStudy.source_id == found[0].id))
    write_audit(session, site_id, by, "poll_source_removed", found[0].id)


def claim_due(session: Session, *, but_not: Collection[uuid.UUID] = ()) -> PollSource | None:
    """Return an archive whose time has come, put off until its next turn; None where there is none.

    Parameters
    ----------
    but_not
        Archives whose last round goes on.
    """
    query = select(PollSource).where(
        PollSource.removed_at.is_(None),
        PollSource.due_at <= func.clock_timestamp(),
        PollSource.id.not_in(but_not),
    )
    source = session.scalar(query.order_by(PollSource.due_at).limit(1).with_for_update(skip_locked=True))
    if source is not None:
        source.due_at = func.clock_timestamp() + timedelta(seconds=source.seconds)
        session.flush()
    return source


def today(session: Session) -> date:
    """Return the day (UTC) of the database's clock, one more: an archive's day may have begun already."""
    return session.scalars(select(cast(func.timezone("UTC", func.now()), Date) + 1)).one()


def mark_of(source_id: uuid.UUID, study_uid: str) -> str:
    """Return what stands for a study among those that were fetched: 64 hexadecimal digits."""
    secret = get_settings().require("secret_key").secret_key.encode()
    said = b"polled study 1" + source_id.bytes + study_uid.encode()
    return hmac.new(secret, said, hashlib.sha256).hexdigest()


def fetched(session: Session, source: PollSource) -> dict[str, int]:
    """Return `mark_of` a study -> how many instances it had when all of them had been fetched."""
    query = select(PolledStudy.study_uid, PolledStudy.n_instances).where(PolledStudy.source_id == source.id)
    return {uid: n for uid, n in session.execute(query)}


def record_fetched(
    session: Session, source_id: uuid.UUID, study_uid: str, study_date: date | None, n_instances: int
) -> None:
    """Record that all present instances of a study were fetched or refused."""
    row = insert(PolledStudy).values(
        source_id=source_id,
        study_uid=mark_of(source_id, study_uid),
        study_date=study_date,
        n_instances=n_instances,
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["source_id", "study_uid"], set_={"n_instances": n_instances}
        )
    )


def known_objects(session: Session, site_id: uuid.UUID, sop_uids: Sequence[str]) -> set[str]:
    """Return which of these instances the site has received, by whatever way."""
    query = select(ReceivedObject.sop_uid).where(
        ReceivedObject.site_id == site_id, ReceivedObject.sop_uid.in_(sop_uids)
    )
    return set(session.scalars(query))


def record_poll(session: Session, source_id: uuid.UUID, *, to: date | None, error: str = "") -> None:
    """Record a round's outcome; with `to`, that everything up to a day was fetched.

    Studies that lie before what the next rounds ask for are forgotten.
    """
    source = session.get(PollSource, source_id, with_for_update=True)
    if source is None or source.removed_at is not None:
        return
    source.error = error or None
    if to is not None:
        source.cursor_day, source.done_at = max(source.cursor_day, to), func.clock_timestamp()
        oldest = source.cursor_day - timedelta(days=source.overlap_days + 1)
        session.execute(
            delete(PolledStudy).where(PolledStudy.source_id == source_id, PolledStudy.study_date < oldest)
        )
