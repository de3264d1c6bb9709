"""Deletes originals and results after a site's time, originals when the disk fills, studies on request.

Bytes go before the commit that forgets them: if that fails, the rows still name what is half gone, and the
next step does it again. Nothing of a batch that is being read is touched, and nothing under a legal hold.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, false, func, or_, select, text, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from settings import get_settings
from store.accounts.accounts import write_audit
from store.base.blobs import get_blobs
from store.base.errors import NotFound, ServiceError
from store.base.session import session_scope
from store.base.tables import (
    Batch,
    Finding,
    Image,
    ManifestLine,
    Notice,
    Site,
    Study,
    StudyFinding,
    Upload,
    Work,
    WorkKind,
    work_is_open,
)
from store.intake.gateway_tables import ReceivedObject, ReceivedStudy
from store.operations.fsck import COUNTERS
from store.reading import studies, worklist
from store.results import exports
from vocabulary.states import TERMINAL_BATCH_STATUSES, BatchStatus

#: How much one step deletes; reconcile does other things between two steps.
MAX_IMAGES, MAX_STUDIES = 200, 400
#: Batches that are looked at together, and how often a step does so when nothing of them may go.
PORTION, MAX_PORTIONS = 200, 20
#: A batch of which nothing may go is looked at again after this: somebody may have lifted a hold.
LOOK_AGAIN = timedelta(days=1)
_ENDED = [status.value for status in TERMINAL_BATCH_STATUSES]
_READS_BYTES = [kind.value for kind in (WorkKind.EXPORT, WorkKind.SIGN, WorkKind.PIXELS, WorkKind.EVALUATE)]


class StudyInUse(ServiceError):
    """Images of the study are being read."""

    code, status = "study_in_use", 409
    title = "Images of this study are in a batch that has not ended."
    advice = "Wait until the batch has ended, or cancel it; then erase the study."


class StudyOnHold(ServiceError):
    """Somebody put a legal hold on the study."""

    code, status = "study_on_hold", 409
    title = "The study is under a legal hold."
    advice = "Whoever answers for the hold has to lift it first."


@dataclass(frozen=True)
class StudyMatch:
    """A study that could be erased, and what that would take along."""

    study: Study
    images: int
    batches: int
    in_use: bool
    on_hold: bool
    signed: bool


def _on_hold(study_id: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    return exists().where(StudyFinding.study_id == study_id, StudyFinding.legal_hold)


def _signed(study_id: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    return exists().where(StudyFinding.study_id == study_id, StudyFinding.signed_at.is_not(None))


def _busy_sites() -> Select[uuid.UUID]:
    """Sites for which a worker reads stored bytes, or is about to."""
    return select(Work.site_id).where(Work.kind.in_(_READS_BYTES), work_is_open())


# originals


def _delete_originals(session: Session, images: Sequence[Image], why: str) -> int:
    """Delete the originals of locked images, and say so once a batch."""
    blobs = get_blobs()
    dropped: Counter[tuple[uuid.UUID, uuid.UUID]] = Counter()
    for image in images:
        if image.original_key:
            blobs.delete(image.original_key)
            dropped[image.site_id, image.batch_id] += 1
        for key in (image.pixels_key, image.envelope_key):
            if key:
                blobs.delete(key)
        image.original_key = image.original_sha256 = image.envelope_key = None
        image.pixels_key = image.pixels_sha256 = image.pixels_at = None
    for (site_id, batch_id), n in dropped.items():
        write_audit(session, site_id, None, "originals_deleted", batch_id, images=n, why=why)
    return len(images)


def _ended(*which: ColumnElement[bool]) -> Select[uuid.UUID, datetime | None]:
    """Select the hospital's ended batches from which something may go, the longest ended first."""
    return (
        select(Batch.id, Batch.finished_at)
        .where(
            Batch.run_id.is_(None),
            Batch.finished_at.is_not(None),
            Batch.status.in_(_ENDED),
            Batch.site_id.not_in(_busy_sites()),
            *which,
        )
        .order_by(Batch.finished_at, Batch.id)
        .limit(PORTION)
    )


def _older(days: int) -> ColumnElement[bool]:
    return Batch.finished_at < func.statement_timestamp() - timedelta(days=days)


def _with_original(session: Session, *which: ColumnElement[bool]) -> list[Image]:
    """Lock and return the next images whose originals go. Batch by batch: that is how they are indexed.

    A batch in which none is left is marked, and not looked at again before another round of it has ended.
    """
    may_hold = Batch.originals_gone.is_distinct_from(Batch.round)
    held = exists().where(Image.batch_id == Batch.id, Image.original_key.is_not(None))
    images: list[Image] = []
    after: tuple[datetime | None, uuid.UUID] | None = None
    for _ in range(MAX_PORTIONS):
        place = [tuple_(Batch.finished_at, Batch.id) > after] if after else []
        portion = session.execute(_ended(may_hold, *which, *place).with_for_update(skip_locked=True)).all()
        if not portion:
            break
        ids = [id_ for id_, _ in portion]
        gone = session.scalars(
            update(Batch)
            .where(Batch.id.in_(ids), ~held)
            .values(originals_gone=Batch.round)
            .returning(Batch.id)
            .execution_options(synchronize_session=False)
        ).all()
        for batch_id in (id_ for id_ in ids if id_ not in set(gone)):
            if len(images) >= MAX_IMAGES:
                return images
            images += session.scalars(
                select(Image)
                .where(Image.batch_id == batch_id, Image.original_key.is_not(None), ~_on_hold(Image.study_id))
                .order_by(Image.seq)
                .limit(MAX_IMAGES - len(images))
                .with_for_update(skip_locked=True)
            )
        after = (portion[-1][1], portion[-1][0])
    return images


def expire_originals(site_id: uuid.UUID, days: int) -> int:
    """Delete originals of batches that ended more than so many days ago; return how many."""
    with session_scope() as session:
        images = _with_original(session, Batch.site_id == site_id, _older(days))
        return _delete_originals(session, images, f"older than {days} days")


def relieve_disk() -> int:
    """Delete the oldest originals while the disk is fuller than the mark; return how many."""
    mark = get_settings().disk_watermark
    fullness = get_blobs().fullness() if mark else None
    if fullness is None or fullness <= mark:
        return 0
    with session_scope() as session:
        images = _with_original(session)
        get_blobs().freed(sum(image.size for image in images))
        return _delete_originals(session, images, f"the disk is {fullness:.0%} full")


# results


def _recount(session: Session, batch_ids: Sequence[uuid.UUID]) -> None:
    """Count batches anew after images of theirs were erased; those that hold nothing any more go."""
    names, counted = ", ".join(COUNTERS), ", ".join(COUNTERS.values())
    session.execute(
        text(
            f"UPDATE batches b SET ({names}) = (SELECT {counted} FROM images i WHERE i.batch_id = b.id),"  # noqa: S608
            " version = b.version + 1 WHERE b.id = ANY(:ids)"
        ),
        {"ids": list(batch_ids)},
    )
    session.execute(text("DELETE FROM batch_reasons WHERE batch_id = ANY(:ids)"), {"ids": list(batch_ids)})
    session.execute(
        text(
            "INSERT INTO batch_reasons (batch_id, reason, n) SELECT batch_id, reason, count(*) FROM images"
            " WHERE batch_id = ANY(:ids) AND reason IS NOT NULL GROUP BY batch_id, reason"
        ),
        {"ids": list(batch_ids)},
    )
    empty = (
        Batch.id.in_(batch_ids),
        Batch.run_id.is_(None),
        Batch.status != BatchStatus.DRAFT,  # its requester is still sending
        ~exists().where(Image.batch_id == Batch.id),
        ~exists().where(StudyFinding.batch_id == Batch.id),
    )
    session.execute(delete(Batch).where(*empty).execution_options(synchronize_session=False))


def erase(
    session: Session, site_id: uuid.UUID, study_ids: Sequence[uuid.UUID], loose: Sequence[uuid.UUID]
) -> int:
    """Delete studies, and images that belong to none: rows and bytes; return how many images went.

    A finding goes when no other image of the site has its bytes; worklist rows and reviews go along.
    """
    session.execute(text("SET LOCAL fractureai.erasing = 'on'"))
    studies.lock_studies(session, study_ids)
    mine = or_(Image.study_id.in_(study_ids), Image.id.in_(loose))
    images = session.scalars(select(Image).where(mine).order_by(Image.id).with_for_update()).all()
    keys = [image.incoming_key for image in images]
    keys += session.scalars(select(StudyFinding.report_key).where(StudyFinding.study_id.in_(study_ids)))
    # also what a worker wrote and, because of a cancel, never named; once each image had a folder of its own
    written = [key for image in images for key in (image.pictures, f"images/{site_id}/{image.id}/")]
    paths = [(image.batch_id, image.path) for image in images]
    lines = [(image.batch_id, image.manifest_path) for image in images if image.manifest_path is not None]
    hashes = {image.sha256 for image in images}
    told = list(session.scalars(select(Notice.id).where(Notice.study_id.in_(study_ids))))
    other = aliased(Image)
    shared = exists().where(other.site_id == Finding.site_id, other.sha256 == Finding.sha256)
    for statement in (
        delete(Work).where(Work.subject_id.in_(told)),
        delete(Notice).where(Notice.id.in_(told)),
        delete(StudyFinding).where(StudyFinding.study_id.in_(study_ids)),
        delete(Image).where(Image.id.in_([image.id for image in images])),
        delete(Finding).where(Finding.site_id == site_id, Finding.sha256.in_(hashes), ~shared),
        delete(ManifestLine).where(tuple_(ManifestLine.batch_id, ManifestLine.path).in_([*paths, *lines])),
        delete(Study).where(Study.id.in_(study_ids)),
    ):
        session.execute(statement.execution_options(synchronize_session=False))
    session.expunge_all()
    _recount(session, sorted({batch_id for batch_id, _ in paths}))
    blobs = get_blobs()
    for beginning in written:
        keys += blobs.keys(beginning)
    for key in filter(None, keys):
        blobs.delete(key)
    return len(paths)


def _next_portion(session: Session, site_id: uuid.UUID, days: int) -> list[uuid.UUID]:
    """Return old batches to look at: those never looked at, then those whose time has come again."""
    mine = (Batch.site_id == site_id, _older(days))
    for when in (Batch.kept_until.is_(None), Batch.kept_until < func.statement_timestamp()):
        query = _ended(*mine, when).order_by(None).order_by(Batch.kept_until, Batch.finished_at, Batch.id)
        if portion := [id_ for id_, _ in session.execute(query)]:
            return portion
    return []


def _going(
    session: Session, batch_ids: Sequence[uuid.UUID], days: int
) -> tuple[set[uuid.UUID], list[uuid.UUID]]:
    """Return the next studies of these batches that may go, and images of them that belong to no study."""
    mine, younger = aliased(Image), aliased(Batch)
    in_younger = exists().where(
        mine.study_id == Image.study_id,
        younger.id == mine.batch_id,
        or_(
            younger.finished_at.is_(None),
            younger.finished_at >= func.statement_timestamp() - timedelta(days=days),
        ),
    )
    here = Image.batch_id.in_(batch_ids)
    free = (~_on_hold(Image.study_id), ~_signed(Image.study_id), ~in_younger)
    # a study comes once for each of its images: to sort that out there would read every image of the batches
    going = select(Image.study_id).where(here, Image.study_id.is_not(None), *free).limit(4 * MAX_STUDIES)
    loose = select(Image.id).where(here, Image.study_id.is_(None)).limit(MAX_IMAGES)
    found = {study_id for study_id in session.scalars(going) if study_id is not None}
    return set(sorted(found)[:MAX_STUDIES]), list(session.scalars(loose))


def expire_results(site_id: uuid.UUID, days: int) -> int:
    """Erase what batches hold that ended more than so many days ago; return how many images went.

    A study with an image in a younger batch stays, and so does one whose report is signed. Batches that hold
    nothing else are marked, and not looked at again for `LOOK_AGAIN`.
    """
    for _ in range(MAX_PORTIONS):
        with session_scope() as session:  # each its own: a batch is locked last, or alone
            portion = _next_portion(session, site_id, days)
            if not portion:
                break
            study_ids, loose = _going(session, portion, days)
            trials = _trial_copies(session, site_id, study_ids)
            if not _in_use(session, trials):
                loose += [image.id for image in trials]
                study_ids |= _studies_of_strays(session, trials)
            if study_ids or loose:
                n = erase(session, site_id, sorted(study_ids), loose)
                why = f"older than {days} days"
                said = {"studies": len(study_ids), "images": n, "why": why}
                write_audit(session, site_id, None, "results_deleted", None, **said)
                return n
            _keep(session, portion)
    return 0


def _keep(session: Session, batch_ids: Sequence[uuid.UUID]) -> None:
    """Mark batches of which nothing may go, so that the next ones are looked at; those that are empty go."""
    free = select(Batch.id).where(Batch.id.in_(batch_ids)).with_for_update(skip_locked=True)
    ids = session.scalars(free).all()
    empty = delete(Batch).where(
        Batch.id.in_(ids), Batch.n_total == 0, ~exists().where(Image.batch_id == Batch.id)
    )
    kept = update(Batch).where(Batch.id.in_(ids))
    for statement in (empty, kept.values(kept_until=func.statement_timestamp() + LOOK_AGAIN)):
        session.execute(statement.execution_options(synchronize_session=False))


def step() -> int:
    """Do a little of what is to be deleted; return how much that was, 0 when nothing is left to do."""
    with session_scope() as session:
        rules = session.execute(select(Site.id, Site.keep_originals_days, Site.keep_results_days)).all()
    n = relieve_disk()
    for site_id, originals, results in rules:
        if originals is not None:
            n += expire_originals(site_id, originals)
        if results is not None:
            n += expire_results(site_id, results)
    return n


# on request


def find(session: Session, site_id: uuid.UUID, wanted: str) -> list[StudyMatch]:
    """Return the site's studies with this accession number, Study Instance UID, or id."""
    is_it = [Study.accession == wanted, Study.study_uid == wanted]
    with contextlib.suppress(ValueError):
        is_it.append(Study.id == uuid.UUID(wanted))
    return _matches(session, select(Study).where(Study.site_id == site_id, or_(*is_it)).limit(100))


def _matches(session: Session, query: Select[Study]) -> list[StudyMatch]:
    found = []
    for study in session.scalars(query):
        images, batches, in_use = session.execute(
            select(
                func.count(),
                func.count(Image.batch_id.distinct()),
                func.coalesce(func.bool_or(Batch.status.not_in(_ENDED)), False),
            )
            .join(Batch, Batch.id == Image.batch_id)
            .where(Image.study_id == study.id)
        ).one()
        kept = select(_on_hold(Study.id), _signed(Study.id)).where(Study.id == study.id)
        on_hold, signed = session.execute(kept).one()
        found.append(StudyMatch(study, images, batches, in_use, on_hold, signed))
    return found


@dataclass(frozen=True)
class _Identifiers:
    """Identifiers and hashes by which other copies of erased images are found."""

    accessions: frozenset[str]
    uids: frozenset[str]
    patients: frozenset[str]
    hashes: frozenset[str]
    originals: frozenset[str]


def _identifiers_of(session: Session, study_ids: Sequence[uuid.UUID], named: str) -> _Identifiers:
    known = session.execute(
        select(Study.accession, Study.study_uid, Study.patient_hash).where(Study.id.in_(study_ids))
    ).all()
    images = session.scalars(select(Image).where(Image.study_id.in_(study_ids))).all()
    uids = {uid for _, uid, _ in known} | {uid for i in images for uid in (i.study_uid, i.sop_uid)}
    return _Identifiers(
        accessions=frozenset({named, *(a for a, _, _ in known), *(i.accession for i in images)} - {""}),
        uids=frozenset({named, *uids} - {""}),
        patients=frozenset({*(p for _, _, p in known), *(i.patient_hash for i in images)} - {""}),
        hashes=frozenset(i.sha256 for i in images),
        originals=frozenset(i.original_key for i in images if i.original_key),
    )


def _strays(
    session: Session, site_id: uuid.UUID, words: _Identifiers, study_ids: Sequence[uuid.UUID]
) -> list[Image]:
    """Return what else is there of the same images: of no study (cancelled, refused, draft), or of a trial.

    An image whose header names another patient is left alone.
    """
    mine = or_(Image.study_id.is_(None), Image.study_id.not_in(study_ids))
    said = or_(
        Image.accession.in_(words.accessions),
        Image.study_uid.in_(words.uids),
        Image.sop_uid.in_(words.uids),
        # what came by DICOM is known by its UIDs before anybody has read it
        Image.id.in_(
            select(ReceivedObject.image_id).where(
                ReceivedObject.site_id == site_id, ReceivedObject.sop_uid.in_(words.uids)
            )
        ),
        Image.batch_id.in_(_received(site_id, words)),
    )
    other = aliased(Image)
    elsewhere = exists().where(  # the same bytes, read in a study that stays
        other.site_id == site_id,
        other.sha256 == Image.sha256,
        other.study_id.is_not(None),
        other.study_id.not_in(study_ids),
        other.source_key.is_(None),
    )
    same_bytes = Image.sha256.in_(words.hashes) & ~elsewhere
    trial = Image.source_key.is_not(None)
    stray = or_(
        Image.study_id.is_(None) & (said | same_bytes),
        trial & (said | same_bytes | Image.source_key.in_(words.originals)),
    )
    strangers = Image.patient_hash.not_in({"", *words.patients}) if words.patients else false()
    query = select(Image).where(Image.site_id == site_id, mine, stray, ~strangers)
    return list(session.scalars(query.order_by(Image.id)))


def _received(site_id: uuid.UUID, words: _Identifiers) -> Select[uuid.UUID | None]:
    """Return the batches in which these studies came by DICOM: each of them holds one study."""
    return select(ReceivedStudy.batch_id).where(
        ReceivedStudy.site_id == site_id, ReceivedStudy.study_uid.in_(words.uids)
    )


def _trial_copies(session: Session, site_id: uuid.UUID, study_ids: Collection[uuid.UUID]) -> list[Image]:
    """Return the rows in which a bundle on trial read images of these studies, found by their bytes."""
    source, copy = aliased(Image), aliased(Image)
    mine = (
        select(copy.id)
        .join(source, (source.site_id == copy.site_id) & (source.sha256 == copy.sha256))
        .where(
            source.study_id.in_(study_ids),
            copy.site_id == site_id,
            copy.source_key.is_not(None),
            (copy.source_key == source.original_key) | source.original_key.is_(None),
        )
    )
    return list(session.scalars(select(Image).where(Image.id.in_(mine)).order_by(Image.id)))


def count_strays(session: Session, site_id: uuid.UUID, wanted: str) -> int:
    """Return how many images of the site with this accession number or UID belong to no study."""
    words = _identifiers_of(session, [], wanted)
    return sum(image.study_id is None for image in _strays(session, site_id, words, []))


def _delete_unread(session: Session, site_id: uuid.UUID, words: _Identifiers) -> int:
    """Delete manifest lines of missing files and unfinished uploads of those; return how many lines."""
    here = exists().where(Image.batch_id == ManifestLine.batch_id, Image.path == ManifestLine.path)
    waiting = (
        select(ManifestLine)
        .join(Batch, Batch.id == ManifestLine.batch_id)
        .where(Batch.site_id == site_id, ManifestLine.accession.in_(words.accessions), ~here)
    )
    lines = session.scalars(waiting).all()
    named = tuple_(Upload.batch_id, Upload.path).in_([(line.batch_id, line.path) for line in lines])
    keys = []
    for upload in session.scalars(select(Upload).where(named)):
        keys += upload.pieces
        session.delete(upload)
    for line in lines:
        session.delete(line)
    session.flush()
    for key in keys:
        get_blobs().delete(key)
    return len(lines)


def erase_studies(
    site_id: uuid.UUID, study_ids: Sequence[uuid.UUID], *, by: uuid.UUID | None, named: str = ""
) -> int:
    """Erase studies on request, their signed reports and the prepared downloads that hold them included.

    What else is there of the same images goes along: of cancelled and refused files, of drafts, of trials.

    Parameters
    ----------
    named
        An accession number or UID whose images go, too, if they never became a study.

    Returns
    -------
    int
        How many images went.

    Raises
    ------
    NotFound, StudyInUse, StudyOnHold
        Nothing is erased.
    """
    with session_scope() as session:
        studies.lock_studies(session, study_ids)
        wanted = select(Study).where(Study.site_id == site_id, Study.id.in_(study_ids))
        matches = _matches(session, wanted)
        if len(matches) != len(set(study_ids)):
            raise NotFound
        if any(match.on_hold for match in matches):
            raise StudyOnHold
        if any(match.in_use for match in matches):
            raise StudyInUse
        words = _identifiers_of(session, study_ids, named)
        strays = _strays(session, site_id, words, study_ids)
        unread = _delete_unread(session, site_id, words)
        if not matches and not strays and not unread:
            raise NotFound
        if _in_use(session, strays):
            raise StudyInUse
        stray_ids = [image.id for image in strays]
        whole = set(study_ids) | _studies_of_strays(session, strays)
        held = session.scalars(select(Image.id).where(Image.study_id.in_(whole))).all()
        for key in exports.delete_holding(session, site_id, [*held, *stray_ids]):
            get_blobs().delete(key)
        came = {image.batch_id for image in strays}
        n = erase(session, site_id, sorted(whole), stray_ids)
        left = exists().where(Image.batch_id == ReceivedStudy.batch_id)
        theirs = ReceivedStudy.study_uid.in_(words.uids) | ReceivedStudy.batch_id.in_(came)
        gone = (ReceivedStudy.site_id == site_id, theirs, ~left)
        session.execute(delete(ReceivedStudy).where(*gone).execution_options(synchronize_session=False))
        worklist.delete_views_naming(session, site_id, words.accessions | words.uids)
        for match in matches:
            write_audit(session, site_id, by, "study_erased", match.study.id, images=match.images)
        if strays or unread:
            write_audit(session, site_id, by, "strays_erased", None, images=len(strays), lines=unread)
        return n


def _in_use(session: Session, strays: Sequence[Image]) -> bool:
    """Lock the batches of the images; tell whether a worker may have one of these in its hands."""
    locked = select(Batch.status).where(Batch.id.in_({image.batch_id for image in strays})).order_by(Batch.id)
    return bool(set(session.scalars(locked.with_for_update())) - {*_ENDED, BatchStatus.DRAFT.value})


def _studies_of_strays(session: Session, strays: Sequence[Image]) -> set[uuid.UUID]:
    """Return the studies that consist of trial images which are erased, and of nothing else."""
    ids = {image.study_id for image in strays if image.study_id}
    others = select(Image.study_id).where(
        Image.study_id.in_(ids), Image.id.not_in([image.id for image in strays])
    )
    return ids - set(session.scalars(others))
