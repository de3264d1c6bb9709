"""Which images belong together, and the versions of what is said of a study."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Select, and_, delete, exists, literal, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.attributes import set_committed_value

from store.base.bulk import among, insert_rows, parameter, write_changed
from store.base.tables import Batch, Image, Study, StudyFinding
from store.outgoing import deliveries, notices
from store.queue import counters
from store.reading import worklist
from store.reading.review_tables import Review
from store.reading.worklist_tables import WorklistRow
from vocabulary.reasons import Reason
from vocabulary.states import TERMINAL_IMAGE_STATUSES, ImageStatus, Stage, Triage

#: MURA's layout: region/patientN/studyM_label. The label never becomes part of the key.
_MURA = re.compile(r"(?:^|/)((?:XR_[A-Z]+/)?patient\d+/study\d+)(?:_(?:positive|negative))?/[^/]+$")


def study_key(image: Image) -> str:
    """Return what an image names as its study.

    The StudyInstanceUID, else the manifest's study or accession, else MURA's path, else the image itself.
    All but the first hold within one batch only: two requesters may both have a "study 1". Images that name
    one study and disagree in patient or accession number get studies of their own: see `assign`.
    """
    if image.study_uid:
        return f"uid:{image.study_uid}"
    if image.manifest_study or image.accession:
        return f"manifest:{image.batch_id}:{image.manifest_study or image.accession}"
    if match := _MURA.search(image.path):
        return f"path:{image.batch_id}:{match.group(1)}"
    return f"image:{image.id}"


def _own_key(image: Image) -> str:
    """Return the key of the study of those images alone that name this patient and this accession number."""
    return f"{study_key(image)}|{image.patient_hash}|{image.accession}"


def _agrees(study: Study, image: Image) -> bool:
    """Tell whether an image may belong to a study: no patient's image joins another's.

    An accession number that is not stated contradicts none, unless several came with the study.
    """
    if study.patient_hash != image.patient_hash:
        return False
    unstated = "" in (study.accession, image.accession) and not study.uid_shared
    return study.accession == image.accession or unstated


def lock_studies(session: Session, study_ids: Iterable[uuid.UUID]) -> None:
    """Lock the studies' rows, always in the same order; images may still be put under them."""
    session.execute(
        select(Study.id)
        .where(among(Study.id, set(study_ids)))
        .order_by(Study.id)
        .with_for_update(key_share=True)
    )


def _found(session: Session, site_id: uuid.UUID, keys: Collection[str]) -> dict[str, Study]:
    """Return the studies with these keys, locked in the order of their ids."""
    rows = session.scalars(
        select(Study)
        .where(Study.site_id == site_id, among(Study.key, keys))
        .order_by(Study.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return {study.key: study for study in rows}


_FACTS_OF_STUDY = ("study_uid", "accession", "study_date", "patient_hash")
_ADD = (
    insert_rows(Study, ("id", "site_id", "key", *_FACTS_OF_STUDY, "uid_shared"))
    .on_conflict_do_nothing(index_elements=["site_id", "key"])
    .returning(Study)
)


def _add(session: Session, images: Mapping[str, Image], *, uid_shared: bool) -> dict[str, Study]:
    """Make studies with these keys, each with the facts of its image; return those that were not there."""
    if not images:
        return {}
    rows = [
        {
            "id": uuid.uuid4(),
            "site_id": image.site_id,
            "key": key,
            "uid_shared": uid_shared,
            **{name: getattr(image, name) for name in _FACTS_OF_STUDY},
        }
        for key, image in sorted(images.items())
    ]
    made = session.scalars(select(Study).from_statement(_ADD), parameter(rows))
    return {study.key: study for study in made}


def assign(session: Session, images: Sequence[Image]) -> None:
    """Assign each image to its study, created if missing, and number it; lock the studies.

    What the images are given is written with the next flush.

    The first images that name a study make it. Those that name it and disagree in patient or accession number
    get a study of their own, and both are marked: neither can be told to be the right one.
    """
    if not images:
        return
    with session.no_autoflush:  # what is asked here is of other rows
        _assign(session, images)


def _assign(session: Session, images: Sequence[Image]) -> None:
    site_id = images[0].site_id
    before = {image.study_id for image in images if image.study_id is not None}
    keys = {key for image in images for key in (study_key(image), _own_key(image))}
    known = _found(session, site_id, keys)
    new: dict[str, Image] = {}
    for image in images:
        if study_key(image) not in known and _own_key(image) not in known:
            new.setdefault(study_key(image), image)
    made = _add(session, new, uid_shared=False)
    known |= made
    if len(made) < len(new):  # another chunk was faster
        known |= _found(session, site_id, new.keys() - made.keys())
    apart: dict[str, Image] = {}
    chosen: dict[uuid.UUID, str] = {}
    for image in images:
        key, own = study_key(image), _own_key(image)
        if own in known or key not in known:
            chosen[image.id] = own
        elif _agrees(known[key], image):
            chosen[image.id] = key
            known[key].accession = known[key].accession or image.accession
        else:
            chosen[image.id] = own
            apart.setdefault(own, image)
            _mark_shared(session, known[key])
    if apart:
        made |= _add(session, apart, uid_shared=True)
        known |= _found(session, site_id, apart)
    for image in images:
        image.study_id = known[chosen[image.id]].id
    _number(session, images, {study.id for study in made.values()})
    left = before - {image.study_id for image in images}
    if left:
        write_changed(session, images)
        _delete_empty(session, left)


def _mark_shared(session: Session, study: Study) -> None:
    """Mark a study whose identifier another patient's or another accession number's images carry."""
    if study.uid_shared:
        return
    study.uid_shared = True
    flag = [Reason.STUDY_IDENTITY_CONFLICT.value]
    session.execute(
        update(WorklistRow)
        .where(WorklistRow.study_id == study.id, ~WorklistRow.flags.contains(flag))
        .values(flags=WorklistRow.flags.op("||")(literal(flag, JSONB)))
        .execution_options(synchronize_session=False)
    )


def _delete_empty(session: Session, study_ids: Collection[uuid.UUID]) -> None:
    """Drop what images have left that failed before their header was read and are prepared again."""
    if not study_ids:
        return
    empty = [among(Study.id, study_ids), ~exists().where(Image.study_id == Study.id)]
    kept = or_(exists().where(StudyFinding.study_id == Study.id), exists().where(Review.study_id == Study.id))
    session.execute(
        delete(WorklistRow)
        .where(WorklistRow.study_id.in_(select(Study.id).where(*empty)))
        .execution_options(synchronize_session=False)
    )
    session.execute(delete(Study).where(*empty, ~kept).execution_options(synchronize_session=False))


class Numbered(Protocol):
    """What tells the number of an image: its row, or these columns of it."""

    @property
    def id(self) -> uuid.UUID: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def number(self) -> int | None: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102


def numbers(images: Iterable[Numbered]) -> dict[uuid.UUID, int]:
    """Return the number of each image in its study, by which page, API, report and mark all name it.

    A number is given once and never changes; the same bytes have the same number in every batch. Images that
    have none yet get the next ones in the order of their paths.
    """
    given = list(images)
    by_content = {image.sha256: image.number for image in given if image.number is not None}
    highest = max(by_content.values(), default=0)
    for image in sorted(given, key=lambda i: (i.path, i.seq)):
        if image.sha256 not in by_content:
            highest += 1
            by_content[image.sha256] = highest
    return {image.id: by_content[image.sha256] for image in given}


def _number(session: Session, images: Sequence[Image], fresh: Collection[uuid.UUID]) -> None:
    """Set the numbers of images whose studies are locked; those that are `fresh` have no others."""
    of_study: defaultdict[uuid.UUID | None, list[Numbered]] = defaultdict(list)
    for image in images:
        of_study[image.study_id].append(image)
    if known := of_study.keys() - fresh:
        columns = (Image.study_id, Image.id, Image.seq, Image.sha256, Image.number, Image.path)
        mine = {image.id for image in images}
        for other in session.execute(select(*columns).where(among(Image.study_id, known))):
            if other.id not in mine:
                of_study[other.study_id].append(cast(Numbered, other))
    given = {id_: n for members in of_study.values() for id_, n in numbers(members).items()}
    for image in images:
        if image.number is None:
            image.number = given[image.id]
    unnumbered = {m.id for members in of_study.values() for m in members if m.number is None}
    if unnumbered:
        for image in session.scalars(select(Image).where(among(Image.id, unnumbered))):
            image.number = given[image.id]


def assign_unread(session: Session, batch: Batch) -> None:
    """Assign a study to images that ended before their header was read; it is never negative."""
    query = select(Image).where(
        Image.batch_id == batch.id,
        Image.status.in_([ImageStatus.REJECTED, ImageStatus.FAILED]),
        Image.study_id.is_(None),
    )
    images = list(session.scalars(query.order_by(Image.seq)))
    for start in range(0, len(images), 1000):
        part = images[start : start + 1000]
        assign(session, part)
        write_changed(session, part)
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
            among(Image.study_id, {image.study_id for image in images}),
            among(Image.sha256, {image.sha256 for image in images}),
            ~among(Image.id, {image.id for image in images}),  # what another chunk kept came first
            Image.status != ImageStatus.REJECTED,
            counters.has_passed(Stage.PREPARE),
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
    write_changed(session, images)  # each is another's twin
    other = aliased(Image)
    twin = exists().where(
        other.site_id == Image.site_id, other.sop_uid == Image.sop_uid, other.sha256 != Image.sha256
    )
    flagged = session.execute(
        update(Image)
        .where(
            Image.site_id == images[0].site_id,
            among(Image.sop_uid, uids),
            ~Image.flags.contains(flag),
            twin,
        )
        .values(flags=Image.flags.op("||")(literal(flag, JSONB)))
        .returning(Image.id, Image.flags)
        .execution_options(synchronize_session=False)
    )
    flags = {id_: now for id_, now in flagged}
    for image in images:
        if image.id in flags:
            set_committed_value(image, "flags", flags[image.id])


@dataclass(frozen=True)
class StudyState:
    """The images that a study's finding stands on, and a hash of what they say.

    `images` holds one row per content, the newest batch's, in the order of their numbers.
    """

    images: list[Image]
    basis: str


def study_states(
    session: Session, study_ids: Collection[uuid.UUID], bundle: str
) -> dict[uuid.UUID, StudyState]:
    """Read the images of studies that `bundle` read, of whatever batch; copies are left out.

    Images that are still on their way in another batch are left out as well: they make a new version.
    """
    query = _standing_on(select(Image), study_ids, bundle)
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {id_: StudyState(images, _basis(images)) for id_, images in _newest(rows, study_ids).items()}


def bases(session: Session, study_ids: Collection[uuid.UUID], bundle: str) -> dict[uuid.UUID, str]:
    """Return the `basis` of each study's state, of which nothing else is read."""
    rows = cast(Iterable[Image], session.execute(_standing_on(_BASIS, study_ids, bundle)))
    return {id_: _basis(images) for id_, images in _newest(rows, study_ids).items()}


_BASIS = select(
    *(Image.id, Image.study_id, Image.seq, Image.sha256, Image.number, Image.path, Image.finding_id),
    *(Image.status, Image.reason, Image.triage, Image.probability, Image.flags, Image.overlay_sha256),
)
Query = TypeVar("Query", bound=Select[Any])


def _standing_on(query: Query, study_ids: Collection[uuid.UUID], bundle: str) -> Query:
    return (
        query.join(Batch, Batch.id == Image.batch_id)
        .where(
            among(Image.study_id, study_ids),
            Batch.bundle == bundle,
            or_(Image.reason.is_(None), Image.reason != Reason.DUPLICATE_IN_STUDY),
            counters.has_passed(Stage.EXPLAIN),
        )
        .order_by(Image.seq.desc())
    )


def _newest(rows: Iterable[Image], study_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[Image]]:
    """Return one row per content of each study, in the order of their numbers; the latest rows come first."""
    newest: dict[uuid.UUID, dict[str, Image]] = {study_id: {} for study_id in study_ids}
    for image in rows:
        if image.study_id is None:
            continue
        mine = newest[image.study_id]
        kept = mine.setdefault(image.sha256, image)
        if kept.finding_id is None and image.finding_id is not None:
            mine[image.sha256] = image  # a later copy that was cancelled does not undo a reading
    found = {}
    for study_id, mine in newest.items():
        place = numbers(mine.values())
        found[study_id] = sorted(mine.values(), key=lambda image: place[image.id])
    return found


def study_state(session: Session, study_id: uuid.UUID, bundle: str) -> StudyState:
    """Return `study_states` of one study."""
    return study_states(session, [study_id], bundle)[study_id]


def _basis(images: Iterable[Image]) -> str:
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
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def ready(session: Session, study_ids: Collection[uuid.UUID], batch_id: uuid.UUID) -> set[uuid.UUID]:
    """Return those studies of which every image that this batch holds was explained or has ended."""
    waiting = session.scalars(
        select(Image.study_id)
        .where(
            among(Image.study_id, study_ids),
            Image.batch_id == batch_id,
            counters.has_yet_to_pass(Stage.EXPLAIN),
            Image.status.not_in([s.value for s in TERMINAL_IMAGE_STATUSES]),
        )
        .distinct()
    )
    return set(study_ids) - set(waiting)


def latest_findings(
    session: Session, study_ids: Collection[uuid.UUID], bundle: str
) -> dict[uuid.UUID, StudyFinding]:
    """Return the newest finding by this bundle of each study that has one."""
    rows = session.scalars(
        select(StudyFinding)
        .where(among(StudyFinding.study_id, study_ids), StudyFinding.bundle == bundle)
        .order_by(StudyFinding.version)
    )
    return {row.study_id: row for row in rows}  # the last one stays


def latest_finding(session: Session, study_id: uuid.UUID, bundle: str) -> StudyFinding | None:
    """Return the study's newest finding by this bundle."""
    return latest_findings(session, [study_id], bundle).get(study_id)


def last_signed(session: Session, study_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, StudyFinding]:
    """Return the version that was signed last of each study that has one, whatever bundle had read it."""
    rows = session.scalars(
        select(StudyFinding)
        .where(among(StudyFinding.study_id, study_ids), StudyFinding.signed_at.is_not(None))
        .order_by(StudyFinding.signed_at)
    )
    return {row.study_id: row for row in rows}  # the last one stays


def is_amended(signed: StudyFinding, finding: StudyFinding) -> bool:
    """Tell whether `finding` stands on something else than what was signed: it is to be read again."""
    return (signed.bundle, signed.basis) != (finding.bundle, finding.basis)


def contradicts(signed: StudyFinding | None, finding: StudyFinding | NewFinding | None) -> bool:
    """Tell whether `finding` says something else than what was signed, or of other images.

    A study that another bundle reads alike, or whose images were sent again, is amended and yet no news.
    """
    if signed is None or finding is None:
        return False

    def said(version: StudyFinding | NewFinding) -> tuple[str, list[str], int]:
        return version.triage, list(version.reasons), version.n_images

    return said(signed) != said(finding)


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


@dataclass(frozen=True)
class NewFinding:
    """A version of what is said of a study, and what it stands on."""

    study_id: uuid.UUID
    basis: str
    triage: Triage
    reasons: tuple[Reason, ...]
    n_images: int
    version: int
    report: Report | None
    signature: Signature | None = None


def save_findings(session: Session, batch: Batch, new: Sequence[NewFinding]) -> set[uuid.UUID]:
    """Add versions of studies' findings, but not of studies that changed meanwhile or have theirs already.

    Returns
    -------
    set of UUID
        The studies that got theirs; the other reports' bytes may be deleted.
    """
    ids = [finding.study_id for finding in new]
    lock_studies(session, ids)
    now, latest = bases(session, ids, batch.bundle), latest_findings(session, ids, batch.bundle)
    signed = last_signed(session, ids)
    saved, rows = [], []
    for finding in new:
        before = latest.get(finding.study_id)
        if now[finding.study_id] != finding.basis:
            continue
        if finding.version != (before.version + 1 if before else 1):
            continue
        rows.append(
            {
                "id": uuid.uuid4(),
                "site_id": batch.site_id,
                "study_id": finding.study_id,
                "batch_id": batch.id,
                "bundle": batch.bundle,
                "version": finding.version,
                "basis": finding.basis,
                "triage": finding.triage.value,
                "reasons": [reason.value for reason in finding.reasons],
                "n_images": finding.n_images,
                "report_key": finding.report.key if finding.report else None,
                "report_sha256": finding.report.sha256 if finding.report else None,
                "report_size": finding.report.size if finding.report else None,
                "review_id": finding.signature.review_id if finding.signature else None,
                "signed_by": finding.signature.reader if finding.signature else None,
                "signed_at": finding.signature.signed_at if finding.signature else None,
            }
        )
        saved.append(finding)
    if rows:
        session.connection().execute(insert_rows(StudyFinding, tuple(rows[0])), parameter(rows))
        deliveries.queue(session, batch, (StudyFinding(**row) for row in rows))
    worklist.refresh(session, batch, [finding.study_id for finding in saved])
    positive = []
    for finding in saved:
        before = latest.get(finding.study_id)
        if finding.triage is Triage.POSITIVE and (before is None or before.triage != Triage.POSITIVE):
            positive.append(finding.study_id)
        report = signed.get(finding.study_id)
        known = contradicts(report, before) and before is not None and before.triage == finding.triage
        if report and finding.signature is None and contradicts(report, finding) and not known:
            notices.amended_study(session, batch, finding.study_id, finding.triage, report.version)
    notices.positive_studies(session, batch, positive)
    return {finding.study_id for finding in saved}


def needs_finding(session: Session, batch: Batch) -> list[uuid.UUID]:
    """Return the studies of an ended batch whose finding may be missing or out of date, in one pass over it.

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
    )
    return [study_id for study_id in session.scalars(query) if study_id is not None]
