"""Notices of positive and amended studies and of finished batches: where they go, what became of each.

What they say holds ids and links only: no names, no accession, no file names.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import secrets
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts.sites import lock_site
from store.base.errors import NotFound, ServiceError
from store.base.paging import Keyset, Page, moment
from store.base.sealing import sealer
from store.base.session import session_scope
from store.base.tables import Batch, Notice, NoticeTarget, Work, WorkKind, WorkState
from store.queue import backoff, work
from vocabulary.states import Triage

MAX_TARGETS = 20
KEEP = timedelta(days=30)


class Channel(StrEnum):
    """By what a notice goes."""

    WEBHOOK = "webhook"
    EMAIL = "email"


class Event(StrEnum):
    """What a notice is about."""

    POSITIVE_STUDY = "study.positive"
    AMENDED_STUDY = "study.amended"
    FINISHED_BATCH = "batch.finished"
    STOPPED_DESTINATION = "destination.stopped"
    MONITORING_ALARM = "monitoring.alarm"
    TEST = "test"


#: What one can ask for; a test is asked for by its button.
EVENTS = (
    Event.POSITIVE_STUDY,
    Event.AMENDED_STUDY,
    Event.FINISHED_BATCH,
    Event.STOPPED_DESTINATION,
    Event.MONITORING_ALARM,
)


class NoticeState(StrEnum):
    """What became of a notice."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


class TooManyTargets(ServiceError):
    """The site has as many targets of notices as it may."""

    code, status = "too_many_targets", 409
    title = f"A site has at most {MAX_TARGETS} targets of notices."
    advice = "Remove one that is not used."


def sign(secret: str, notice_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature header of a webhook (Standard Webhooks 1.0: HMAC-SHA256 over id.timestamp.body).

    Parameters
    ----------
    secret
        As the receiver has it: ``whsec_`` and base64.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{notice_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


# targets


def add_target(
    session: Session,
    site_id: uuid.UUID,
    channel: Channel,
    address: str,
    events: Collection[Event],
) -> tuple[NoticeTarget, str]:
    """Add a target; return it and the secret that signs its webhooks, which cannot be shown again.

    Raises
    ------
    TooManyTargets
    """
    lock_site(session, site_id)  # two requests at once do not both find the last place free
    if len(list_targets(session, site_id)) >= MAX_TARGETS:
        raise TooManyTargets
    secret = (
        "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode() if channel is Channel.WEBHOOK else ""
    )
    target = NoticeTarget(
        site_id=site_id,
        channel=channel.value,
        address=address,
        events=sorted(events),
        secret=sealer(b"notice secrets").encrypt(secret.encode()).decode() if secret else None,
    )
    session.add(target)
    session.flush()
    return target, secret


def secret_of(target: NoticeTarget) -> str:
    """Return the secret that signs the target's webhooks."""
    return sealer(b"notice secrets").decrypt((target.secret or "").encode()).decode()


def list_targets(session: Session, site_id: uuid.UUID) -> list[NoticeTarget]:
    """Return the site's targets, the oldest first."""
    query = select(NoticeTarget).where(NoticeTarget.site_id == site_id, NoticeTarget.removed_at.is_(None))
    return list(session.scalars(query.order_by(NoticeTarget.created_at, NoticeTarget.id)))


def get_target(session: Session, site_id: uuid.UUID, target_id: uuid.UUID) -> NoticeTarget:
    """Return one target of the site. Raises `NotFound`."""
    target = session.scalar(
        select(NoticeTarget).where(
            NoticeTarget.id == target_id, NoticeTarget.site_id == site_id, NoticeTarget.removed_at.is_(None)
        )
    )
    if target is None:
        raise NotFound
    return target


def remove_target(session: Session, target: NoticeTarget) -> None:
    """Send nothing more to a target; its log stays, its secret does not."""
    target.removed_at = func.now()
    target.secret = None
    waiting = select(Notice).where(Notice.target_id == target.id, Notice.state == NoticeState.WAITING)
    for notice in session.scalars(waiting):
        work.cancel_units(session, notice.id)
        notice.state = NoticeState.FAILED.value
        notice.error = "the target was removed"


# a target that fails rests, and all that is for it waits


def back_off(session: Session, target: NoticeTarget, error: str, pause: float, most: float) -> None:
    """Record a failed attempt; the longest-waiting notice tries the target next."""
    units = _waiting_units(target).order_by(Notice.tried_at.asc().nulls_first(), Notice.created_at)
    backoff.back_off(session, target, units, error, pause, most)


def wake(session: Session, target: NoticeTarget) -> None:
    """Record that the target took a notice: notices not tried yet are due now."""
    backoff.wake(session, target, _waiting_units(target).where(Notice.attempts == 0))


def _waiting_units(target: NoticeTarget) -> Select[uuid.UUID]:
    return (
        select(Work.id)
        .join(Notice, Notice.id == Work.subject_id)
        .where(
            Notice.target_id == target.id,
            Notice.state == NoticeState.WAITING,
            Work.kind == WorkKind.NOTICE,
            Work.state == WorkState.DUE,
        )
    )


def count_waiting(session: Session, site_id: uuid.UUID) -> dict[uuid.UUID, int]:
    """Return target -> how many notices wait for it."""
    query = select(Notice.target_id, func.count()).where(
        Notice.site_id == site_id, Notice.state == NoticeState.WAITING
    )
    return {target_id: n for target_id, n in session.execute(query.group_by(Notice.target_id))}


# notices


def add(
    session: Session,
    target: NoticeTarget,
    event: Event,
    data: Mapping[str, Any],
    *,
    batch_id: uuid.UUID | None = None,
    study_id: uuid.UUID | None = None,
) -> Notice:
    """Queue one notice to one target; call `dispatch` after the commit."""
    notice = Notice(
        id=uuid.uuid4(),
        site_id=target.site_id,
        target_id=target.id,
        event=event.value,
        batch_id=batch_id,
        study_id=study_id,
        payload={"type": event.value, "timestamp": datetime.now(UTC).isoformat(), "data": dict(data)},
    )
    session.add(notice)
    session.flush()
    work.add_unit(session, WorkKind.NOTICE, site_id=target.site_id, subject_id=notice.id)
    return notice


def _interested(session: Session, batch: Batch, event: Event) -> list[NoticeTarget]:
    if batch.run_id is not None:  # research is no clinical news
        return []
    site_id = batch.site_id
    return [target for target in list_targets(session, site_id) if event in target.events]


def _link(path: str) -> str:
    return get_settings().public_url.rstrip("/") + path


def _study_notices(
    session: Session,
    event: Event,
    batch: Batch,
    study_ids: Collection[uuid.UUID],
    triage: Triage,
    **more: int,
) -> None:
    """Queue notices of studies; what a bundle on trial says is no news."""
    if not batch.promoted or not study_ids:
        return
    for target, study_id in itertools.product(_interested(session, batch, event), study_ids):
        data = {
            "study_id": str(study_id),
            "batch_id": str(batch.id),
            "triage": triage.value,
            "bundle": batch.bundle,
            **more,
            "page": _link(f"/studies/{study_id}"),
        }
        add(session, target, event, data, batch_id=batch.id, study_id=study_id)


def positive_studies(session: Session, batch: Batch, study_ids: Collection[uuid.UUID]) -> None:
    """Queue the notices that studies are positive now; part of the transaction that finds them so."""
    _study_notices(session, Event.POSITIVE_STUDY, batch, study_ids, Triage.POSITIVE)


def amended_study(
    session: Session, batch: Batch, study_id: uuid.UUID, triage: Triage, signed_version: int
) -> None:
    """Queue the notices that a signed report no longer holds; part of the transaction that finds it so."""
    _study_notices(session, Event.AMENDED_STUDY, batch, [study_id], triage, signed_version=signed_version)


def finished_batch(session: Session, batch: Batch) -> None:
    """Queue the notices that a batch has ended; part of the transaction that ends it."""
    for target in _interested(session, batch, Event.FINISHED_BATCH):
        data = {
            "batch_id": str(batch.id),
            "status": batch.status,
            "counts": {
                n: getattr(batch, f"n_{n}") for n in ("total", "done", "rejected", "failed", "cancelled")
            },
            "triage": {triage.value: getattr(batch, f"t_{triage.value}") for triage in Triage}
            if batch.promoted
            else {},
            "bundle": batch.bundle,
            "page": _link(f"/batches/{batch.id}"),
        }
        add(session, target, Event.FINISHED_BATCH, data, batch_id=batch.id)


def destination_stopped(session: Session, site_id: uuid.UUID, name: str, why: str) -> None:
    """Queue the notices that nothing goes to an archive any more until a person has looked."""
    data = {"destination": name, "why": why, "page": _link("/admin/deliveries")}
    for target in list_targets(session, site_id):
        if Event.STOPPED_DESTINATION in target.events:
            add(session, target, Event.STOPPED_DESTINATION, data)


def monitoring_alarm(session: Session, site_id: uuid.UUID, bundle: str, signals: list[str]) -> None:
    """Queue the notices that what a bundle reads is no longer as it was; with the alarms' transaction."""
    data = {"bundle": bundle, "signals": signals, "page": _link("/admin/monitoring")}
    for target in list_targets(session, site_id):
        if Event.MONITORING_ALARM in target.events:
            add(session, target, Event.MONITORING_ALARM, data)


_BY_CREATION = Keyset((Notice.created_at, Notice.id), (moment, uuid.UUID), descending=True)


def list_notices(
    session: Session, site_id: uuid.UUID, *, cursor: str | None = None, limit: int = 50
) -> Page[tuple[Notice, NoticeTarget, datetime | None]]:
    """Return the log, the newest first: notice, target, when it is tried again. Raises `InvalidCursor`."""
    query = (
        select(Notice, NoticeTarget, Work.due_at)
        .join(NoticeTarget, NoticeTarget.id == Notice.target_id)
        .outerjoin(Work, (Work.subject_id == Notice.id) & (Notice.state == NoticeState.WAITING))
        .where(Notice.site_id == site_id)
    )
    rows: list[tuple[Notice, NoticeTarget, datetime | None]] = [
        (notice, target, due_at)
        for notice, target, due_at in session.execute(_BY_CREATION.after(query, cursor).limit(limit + 1))
    ]
    return _BY_CREATION.page(rows, limit, lambda row: row[0])


def fail_abandoned() -> None:
    """Fail what waits although its work has failed: tries that lost their worker, something away for days."""
    with session_scope() as session:
        session.execute(
            update(Notice)
            .where(Notice.state == NoticeState.WAITING, work.is_abandoned(WorkKind.NOTICE, Notice.id))
            .values(state=NoticeState.FAILED.value, error="it was tried in vain")
            .execution_options(synchronize_session=False)
        )


def delete_old(session: Session) -> None:
    """Delete what was delivered or given up long ago."""
    old = select(Notice.id).where(Notice.state != NoticeState.WAITING, Notice.created_at < func.now() - KEEP)
    ids = list(session.scalars(old.limit(1000)))
    session.execute(delete(Work).where(Work.subject_id.in_(ids)))
    session.execute(delete(Notice).where(Notice.id.in_(ids)))
