"""Which images belong together, and the versions of what is said of a study."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, literal, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session, aliased

from store import notices, worklist
from store.tables import (
    TERMINAL_IMAGE_STATUSES,
    Batch,
    Image,
    ImageStatus,
    Reason,
    Study,
    StudyFinding,
    Triage,
)

#: MURA's layout: region/patientN/studyM_label. The label never becomes part of the key.
_MURA = re.compile(r"(?:^|/)((?:XR_[A-Z]+/)?patient\d+/study\d+)(?:_(?:positive|negative))?/[^/]+$")


def study_key(image: Image) -> str:
    """Return what tells the image's study from the others of its site.

    The StudyInstanceUID, else the manifest's study or accession, else MURA's path, else the image itself.
    All but the first hold within one batch only: two requesters may both have a "study 1".
    """
    if image.study_uid:
        return f"uid:{image.study_uid}"
    if image.manifest_study or image.accession:
        return f"manifest:{image.batch_id}:{image.manifest_study or image.accession}"
    if match := _MURA.search(image.path):
        return f"path:{image.batch_id}:{match.group(1)}"
    return f"image:{image.id}"


def lock_studies(session: Session, study_ids: Iterable[uuid.UUID]) -> None:
    """Lock the studies' rows, always in the same order."""
    session.execute(select(Study.id).where(Study.id.in_(set(study_ids))).order_by(Study.id).with_for_update())


def assign(session: Session, images: Sequence[Image]) -> None:
    """Give each image its study's row, made when it is not there yet, and lock those rows."""
    keys = {image.id: study_key(image) for image in images}
    facts: dict[str, Image] = {}
    for image in images:
        facts.setdefault(keys[image.id], image)
    if not facts:
        return
    site_id = images[0].site_id
    session.execute(
        insert(Study)
        .values(
            [
                {
                    "id": uuid.uuid4(),
                    "site_id": site_id,
                    "key": key,
                    "study_uid": image.study_uid,
                    "accession": image.accession,
                    "study_date": image.study_date,
                    "patient_hash": image.patient_hash,
                }
                for key, image in sorted(facts.items())
            ]
        )
        .on_conflict_do_nothing(index_elements=["site_id", "key"])
    )
    found = select(Study.key, Study.id).where(Study.site_id == site_id, Study.key.in_(facts))
    ids = {key: id_ for key, id_ in session.execute(found)}
    lock_studies(session, ids.values())
    for image in images:
        image.study_id = ids[keys[image.id]]


def assign_rejected(session: Session, batch: Batch) -> None:
    """Give the images that the web refused their study too: such a study is never negative."""
    query = select(Image).where(
        Image.batch_id == batch.id, Image.status == ImageStatus.REJECTED, Image.study_id.is_(None)
    )
    images = list(session.scalars(query))
    for start in range(0, len(images), 1000):
        assign(session, images[start : start + 1000])
    session.flush()


def first_copies(session: Session, images: Sequence[Image]) -> dict[uuid.UUID, uuid.UUID]:
    """Return, for each image whose bytes its study has already in this batch, the first copy's id.

    The studies must be locked (see `assign`), so that two chunks cannot both be first.
    """
    taken: dict[tuple[uuid.UUID | None, str], uuid.UUID] = {}
    known = session.execute(
        select(Image.study_id, Image.sha256, Image.id)
        .where(
            Image.batch_id == images[0].batch_id,
            Image.study_id.in_({image.study_id for image in images}),
            Image.sha256.in_({image.sha256 for image in images}),
            Image.id.not_in({image.id for image in images}),  # what another chunk kept came first
            Image.status != ImageStatus.REJECTED,
            Image.stage > 0,
        )
        .order_by(Image.seq)
    )
    for study_id, sha256, id_ in known:
        taken.setdefault((study_id, sha256), id_)
    copies = {}
    for image in sorted(images, key=lambda i: i.seq):
        first = taken.setdefault((image.study_id, image.sha256), image.id)
        if first != image.id:
            copies[image.id] = first
    return copies


def flag_corrections(session: Session, images: Sequence[Image]) -> None:
    """Flag images whose SOP Instance UID another image of the site has with other bytes; both are kept."""
    uids = {image.sop_uid for image in images if image.sop_uid}
    if not uids:
        return
    flag = [Reason.SOP_UID_CORRECTION.value]
    other = aliased(Image)
    twin = exists().where(
        other.site_id == Image.site_id, other.sop_uid == Image.sop_uid, other.sha256 != Image.sha256
    )
    session.execute(
        update(Image)
        .where(
            Image.site_id == images[0].site_id,
            Image.sop_uid.in_(uids),
            ~Image.flags.contains(flag),
            twin,
        )
        .values(flags=Image.flags.op("||")(literal(flag, JSONB)))
        .execution_options(synchronize_session=False)
    )
    for image in images:
        session.refresh(image, ["flags"])


@dataclass(frozen=True)
class StudyState:
    """The images that a study's finding stands on, and a hash of what they say.

    `images` holds one row per content, the newest batch's, in the order of their paths.
    """

    images: list[Image]
    basis: str


def study_state(session: Session, study_id: uuid.UUID, bundle: str) -> StudyState:
    """Read the images of a study that `bundle` read, of whatever batch; copies are left out.

    Images that are still on their way in another batch are left out as well: they make a new version.
    """
    rows = session.scalars(
        select(Image)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.study_id == study_id,
            Batch.bundle == bundle,
            or_(Image.reason.is_(None), Image.reason != Reason.DUPLICATE_IN_STUDY),
            Image.stage >= 4,
        )
        .order_by(Image.seq.desc())
        .execution_options(populate_existing=True)
    )
    newest: dict[str, Image] = {}
    for image in rows:
        kept = newest.setdefault(image.sha256, image)
        if kept.finding_id is None and image.finding_id is not None:
            newest[image.sha256] = image  # a later copy that was cancelled does not undo a reading
    images = sorted(newest.values(), key=lambda i: (i.path, i.seq))
    said: list[Any] = [
        [
            str(i.id),
            "read" if i.finding_id else i.status,
            i.reason,
            i.triage,
            i.probability,
            sorted(i.flags),
            i.overlay_sha256,
        ]
        for i in images
    ]
    return StudyState(images, hashlib.sha256(json.dumps(said).encode()).hexdigest())


def is_ready(session: Session, study_id: uuid.UUID, batch_id: uuid.UUID) -> bool:
    """Tell whether every image of the study that this batch holds was explained or has ended."""
    waiting = select(Image.id).where(
        Image.study_id == study_id,
        Image.batch_id == batch_id,
        Image.stage < 4,
        Image.status.not_in([s.value for s in TERMINAL_IMAGE_STATUSES]),
    )
    return session.scalar(waiting.limit(1)) is None


def latest_finding(session: Session, study_id: uuid.UUID, bundle: str) -> StudyFinding | None:
    """Return the study's newest finding by this bundle."""
    return session.scalar(
        select(StudyFinding)
        .where(StudyFinding.study_id == study_id, StudyFinding.bundle == bundle)
        .order_by(StudyFinding.version.desc())
        .limit(1)
    )


@dataclass(frozen=True)
class Report:
    """Where a rendered report lies."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Signature:
    """Whose answer a version's report carries."""

    review_id: uuid.UUID
    reader: str
    signed_at: datetime


def save_finding(
    session: Session,
    *,
    study_id: uuid.UUID,
    batch: Batch,
    basis: str,
    triage: Triage,
    reasons: Sequence[Reason],
    n_images: int,
    version: int,
    report: Report | None,
    signature: Signature | None = None,
) -> bool:
    """Add a version of the study's finding, unless the study changed meanwhile or it is there already.

    Returns
    -------
    bool
        False when nothing was added: the report's bytes may be deleted.
    """
    lock_studies(session, [study_id])
    if study_state(session, study_id, batch.bundle).basis != basis:
        return False
    latest = latest_finding(session, study_id, batch.bundle)
    if version != (latest.version + 1 if latest else 1):
        return False
    session.add(
        StudyFinding(
            site_id=batch.site_id,
            study_id=study_id,
            batch_id=batch.id,
            bundle=batch.bundle,
            version=version,
            basis=basis,
            triage=triage.value,
            reasons=[reason.value for reason in reasons],
            n_images=n_images,
            report_key=report.key if report else None,
            report_sha256=report.sha256 if report else None,
            report_size=report.size if report else None,
            review_id=signature.review_id if signature else None,
            signed_by=signature.reader if signature else None,
            signed_at=signature.signed_at if signature else None,
        )
    )
    session.flush()
    worklist.refresh(session, batch, [study_id])
    if triage is Triage.POSITIVE and (latest is None or latest.triage != Triage.POSITIVE):
        notices.positive_study(session, batch, study_id)
    return True


def needs_finding(session: Session, batch: Batch, after: uuid.UUID | None, limit: int) -> list[uuid.UUID]:
    """Return studies of an ended batch whose finding may be missing or out of date.

    Those whose only image was read when the chunk ended are left out: they cannot be.
    """
    mine = aliased(Image)
    several = exists().where(mine.study_id == Image.study_id, mine.id != Image.id)
    has = exists().where(and_(StudyFinding.study_id == Image.study_id, StudyFinding.bundle == batch.bundle))
    query = (
        select(Image.study_id)
        .where(
            Image.batch_id == batch.id,
            Image.study_id.is_not(None),
            or_(several, and_(~has, Image.finding_id.is_not(None))),
        )
        .distinct()
        .order_by(Image.study_id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Image.study_id > after)
    return [study_id for study_id in session.scalars(query) if study_id is not None]
