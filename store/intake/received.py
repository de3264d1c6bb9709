"""Keeps what arrives by DICOM, once, and submits each study when no more of it is expected.

The order is: bytes synced, row committed, then the answer. An object is known again by site, SOP Instance UID
and hash, so that whatever a sender repeats is kept once.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from pipeline.dicom.elements import (
    MANUFACTURER_TAG,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    UID,
    Bytes,
    HeaderUnreadable,
    file_head,
    read_header,
)
from settings import get_settings
from store.base import event_counts
from store.base.blobs import get_blobs
from store.base.errors import BatchEmpty, BatchNotDraft, NotFound, ServiceError
from store.base.sealed_blobs import put_sealed
from store.base.session import is_unavailable, session_scope
from store.base.tables import Batch, Image, Priority
from store.intake import batches
from store.intake.gateway_tables import GatewaySite, MadeObject, ReceivedObject, ReceivedStudy
from store.intake.urgent_rules import UrgentRule
from vocabulary.dicom import MANUFACTURER, TAKEN_CLASSES
from vocabulary.states import BatchStatus, ImageStatus

log = logging.getLogger("fractureai.received")

#: Events that are counted.
OBJECTS_REPEATED, OBJECTS_RETURNED = "dicom_objects_repeated", "dicom_objects_made_here"
#: Tries to file an object whose study is completed by somebody else at the same time.
_TRIES = 5


class Refusal(StrEnum):
    """Why an object is refused for good; the value is the sentence for the log."""

    CLASS = "its SOP class is not taken"
    MISMATCH = "its data set is not what the command announced"
    UNREADABLE = "it names no study, or is no data set"
    TOO_LARGE = "it is larger than one file may be"

    @property
    def status(self) -> int:
        """The status of the C-STORE response, and the FailureReason of STOW-RS (PS3.4, B.2.3; PS3.7, C)."""
        return _STATUS[self]


_STATUS = {
    Refusal.CLASS: 0x0122,
    Refusal.MISMATCH: 0xA900,
    Refusal.UNREADABLE: 0xC000,
    Refusal.TOO_LARGE: 0xC001,
}


class ObjectRefused(Exception):
    """The object is not taken, and would not be if it were sent again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class Kept(StrEnum):
    """What became of an object that is acknowledged."""

    NEW = "new"
    REPEATED = "repeated"
    MADE_HERE = "made_here"


@dataclass(frozen=True)
class Source:
    """Who sends: for which site, under which name, and whether all of it is urgent."""

    site_id: uuid.UUID
    name: str
    urgent: bool = False


@dataclass(frozen=True)
class Arrival:
    """An object that may be acknowledged, and the study under which it was filed."""

    kept: Kept
    study: uuid.UUID | None = None


def keep(
    source: Source,
    dataset: Bytes,
    syntax: str,
    *,
    sop_class: str | None = None,
    sop_uid: str | None = None,
    study_uid: str | None = None,
) -> Arrival:
    """Keep one object's bytes and file it under its study; once this returns it may be acknowledged.

    Parameters
    ----------
    dataset
        As it came, without file meta information.
    sop_class, sop_uid, study_uid
        What was announced of it.

    Raises
    ------
    ObjectRefused
    NotFound
        The site takes nothing by DICOM.
    BlobFull, QuotaExceeded, BlobUnavailable, UnknownBundle, SQLAlchemyError
        It could not be kept now.
    """
    with session_scope() as session:
        site = session.get(GatewaySite, source.site_id)
    if site is None:
        raise NotFound
    if len(dataset) > get_settings().max_file_bytes:
        raise ObjectRefused(Refusal.TOO_LARGE)
    rules = [UrgentRule.parse(rule) for rule in site.urgent_rules]
    wanted = {SOP_CLASS, SOP_INSTANCE, STUDY_UID, MANUFACTURER_TAG, *(rule.tag for rule in rules)}
    try:
        header = read_header(dataset, syntax, wanted)
    except HeaderUnreadable:
        raise ObjectRefused(Refusal.UNREADABLE) from None
    found_class, found_uid = header.get(SOP_CLASS, ""), header.get(SOP_INSTANCE, "")
    found_study = header.get(STUDY_UID, "")
    if not UID.fullmatch(found_uid) or not UID.fullmatch(found_study):
        raise ObjectRefused(Refusal.UNREADABLE)
    announced = ((sop_class, found_class), (sop_uid, found_uid), (study_uid, found_study))
    if any(said not in {None, found} for said, found in announced):
        raise ObjectRefused(Refusal.MISMATCH)
    with session_scope() as session:
        if _is_own_object(session, source.site_id, found_uid, header.get(MANUFACTURER_TAG, "")):
            event_counts.count_event(session, OBJECTS_RETURNED)
            return Arrival(Kept.MADE_HERE)
    if found_class not in TAKEN_CLASSES:
        raise ObjectRefused(Refusal.CLASS)
    urgent = source.urgent or any(rule.applies(header) for rule in rules)
    item = _Item(
        source, site, found_study, found_uid, file_head(found_class, found_uid, syntax), dataset, urgent
    )
    for left in reversed(range(_TRIES)):
        try:
            return _file(item)
        except BatchNotDraft:  # completed, or submitted by a person, while the bytes were written
            if not left:
                raise
    raise AssertionError


def _is_own_object(session: Session, site_id: uuid.UUID, sop_uid: str, manufacturer: str) -> bool:
    if manufacturer.upper() == MANUFACTURER.upper():
        return True
    return session.get(MadeObject, (site_id, sop_uid)) is not None


def register_own_object(session: Session, site_id: uuid.UUID, sop_uid: str, sop_class: str) -> None:
    """Register an object as our own before it is sent."""
    row = insert(MadeObject).values(site_id=site_id, sop_uid=sop_uid, sop_class=sop_class)
    session.execute(row.on_conflict_do_nothing())


def made_here(session: Session, site_id: uuid.UUID, sop_uids: Collection[str]) -> set[str]:
    """Return which of these SOP Instance UIDs belong to objects that we made for the site."""
    query = select(MadeObject.sop_uid).where(MadeObject.site_id == site_id, MadeObject.sop_uid.in_(sop_uids))
    return set(session.scalars(query))


class _Joined:
    """The head of a file and its data set as one stream, without a copy of the latter."""

    def __init__(self, head: bytes, dataset: Bytes) -> None:
        self._parts = [memoryview(head), memoryview(dataset)]

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        while self._parts:
            part = self._parts[0]
            piece = bytes(part if n < 0 else part[:n])
            if piece:
                self._parts[0] = part[len(piece) :]
                return piece
            self._parts.pop(0)
        return b""


@dataclass(frozen=True)
class _Item:
    source: Source
    site: GatewaySite
    study_uid: str
    sop_uid: str
    head: bytes
    dataset: Bytes
    urgent: bool

    @property
    def sha256(self) -> str:
        """Of the file."""
        digest = hashlib.sha256(self.head)
        digest.update(self.dataset)
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self.head) + len(self.dataset)


class _CameMeanwhile(Exception):
    """Another association sent the same object at the same time, and was first."""


def _file(item: _Item) -> Arrival:
    sha256 = item.sha256
    with session_scope() as session:
        if _is_known(session, item, sha256):
            event_counts.count_event(session, OBJECTS_REPEATED)
            return Arrival(Kept.REPEATED)
        study = _open_study(session, item)
        batch_id = study.batch_id
        assert batch_id is not None
    key = batches.new_incoming_key(batch_id)
    put_sealed(key, item.source.site_id, _Joined(item.head, item.dataset))

    def discard() -> None:
        with suppress(ServiceError):  # the sweep deletes what cannot be deleted now
            get_blobs().delete(key)

    try:
        with session_scope(on_rollback=discard) as session:
            _touch(session, session.get_one(ReceivedStudy, study.id, with_for_update=True), item)
            new = batches.NewFile(f"{item.sop_uid}.dcm", sha256, item.size, key)
            answer = batches.add_files(session, batch_id, item.source.site_id, [new])[0]
            if answer.status != "accepted" or answer.image_id is None:
                raise _CameMeanwhile
            _note_object(session, item, sha256, answer.image_id)
    except _CameMeanwhile:
        with session_scope() as session:
            event_counts.count_event(session, OBJECTS_REPEATED)
        return Arrival(Kept.REPEATED, study.id)
    return Arrival(Kept.NEW, study.id)


def _is_known(session: Session, item: _Item, sha256: str) -> bool:
    """Tell whether the object was acknowledged before; one whose image was cancelled is taken again."""
    row = session.get(ReceivedObject, (item.source.site_id, item.sop_uid, sha256))
    if row is None:
        return False
    status = session.scalar(select(Image.status).where(Image.id == row.image_id))
    return status != ImageStatus.CANCELLED


def _note_object(session: Session, item: _Item, sha256: str, image_id: uuid.UUID) -> None:
    values = {
        "site_id": item.source.site_id,
        "sop_uid": item.sop_uid,
        "sha256": sha256,
        "image_id": image_id,
    }
    row = insert(ReceivedObject).values(values)
    known = session.scalar(
        row.on_conflict_do_update(
            index_elements=["site_id", "sop_uid", "sha256"],
            set_={"image_id": image_id, "received_at": func.clock_timestamp()},
            where=select(Image.status)
            .where(Image.id == ReceivedObject.image_id)
            .correlate(ReceivedObject)
            .scalar_subquery()
            == ImageStatus.CANCELLED.value,
        ).returning(ReceivedObject.image_id)
    )
    if known is None:
        raise _CameMeanwhile


def _open_study(session: Session, item: _Item) -> ReceivedStudy:
    """Return the study's row, locked, with a draft that still takes files."""
    site_id = item.source.site_id
    for _ in range(_TRIES):
        row = insert(ReceivedStudy).values(
            id=uuid.uuid4(), site_id=site_id, study_uid=item.study_uid, source=item.source.name
        )
        session.execute(
            row.on_conflict_do_nothing(
                index_elements=["site_id", "study_uid"], index_where=ReceivedStudy.completed_at.is_(None)
            )
        )
        study = session.scalar(
            select(ReceivedStudy)
            .where(
                ReceivedStudy.site_id == site_id,
                ReceivedStudy.study_uid == item.study_uid,
                ReceivedStudy.completed_at.is_(None),
            )
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if study is None:
            continue  # completed between the two statements
        if study.batch_id is None:
            batch, _ = batches.create_batch(
                session, site_id=site_id, user_id=None, label=f"DICOM from {item.source.name}"
            )
            study.batch_id = batch.id
        elif session.get_one(Batch, study.batch_id).status != BatchStatus.DRAFT:
            study.completed_at = func.clock_timestamp()  # somebody submitted or cancelled it
            session.flush()
            continue
        _touch(session, study, item)
        return study
    raise BatchNotDraft


def _touch(session: Session, study: ReceivedStudy, item: _Item) -> None:
    """Postpone the study's completion: an object of it has just arrived."""
    now = func.clock_timestamp()
    study.due_at = func.least(
        now + timedelta(seconds=item.site.quiet_seconds),
        ReceivedStudy.first_at + timedelta(seconds=item.site.longest_seconds),
    )
    if item.urgent and study.batch_id is not None:
        session.get_one(Batch, study.batch_id).priority = Priority.URGENT.rank
    session.flush()


def sending_ended(site_id: uuid.UUID, study_ids: Collection[uuid.UUID]) -> None:
    """Mark these studies' association as closed; objects of other senders postpone completion again."""
    if not study_ids:
        return
    with session_scope() as session:
        site = session.get(GatewaySite, site_id)
        if site is None:
            return
        soon = func.clock_timestamp() + timedelta(seconds=site.release_seconds)
        session.execute(
            update(ReceivedStudy)
            .where(
                ReceivedStudy.site_id == site_id,
                ReceivedStudy.id.in_(study_ids),
                ReceivedStudy.completed_at.is_(None),
            )
            .values(due_at=func.least(ReceivedStudy.due_at, soon))
            .execution_options(synchronize_session=False)
        )


def complete_due(limit: int = 50) -> int:
    """Submit the studies of which no more is expected; return how many. Dispatch after that.

    Called by `reconcile`: it needs no gateway, and one study that cannot be submitted holds no other back.
    """
    with session_scope() as session:
        due = session.scalars(
            select(ReceivedStudy.id)
            .where(ReceivedStudy.completed_at.is_(None), ReceivedStudy.due_at <= func.clock_timestamp())
            .order_by(ReceivedStudy.due_at)
            .limit(limit)
        ).all()
    n = 0
    for study_id in due:
        try:
            with session_scope() as session:
                n += _complete(session, study_id)
        except SQLAlchemyError as error:
            if is_unavailable(error):
                raise
            log.exception("study %s could not be submitted; trying again", study_id)
    return n


def _complete(session: Session, study_id: uuid.UUID) -> bool:
    study = session.scalar(
        select(ReceivedStudy)
        .where(
            ReceivedStudy.id == study_id,
            ReceivedStudy.completed_at.is_(None),
            ReceivedStudy.due_at <= func.clock_timestamp(),
        )
        .with_for_update(skip_locked=True)
    )
    if study is None or study.batch_id is None:
        return False
    study.completed_at = func.clock_timestamp()
    session.flush()
    try:
        batch = batches.submit(session, study.batch_id, study.site_id)
    except BatchEmpty:  # announced, and its bytes never came
        batches.cancel(session, study.batch_id, study.site_id)
        return False
    study.n_objects = batch.n_total
    return True
