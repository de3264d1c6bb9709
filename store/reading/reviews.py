"""Readers' answers to studies: recording, withdrawing and signing them, and their agreement with the AI."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Row, Select, case, func, select, update
from sqlalchemy.orm import Session

from store.base.cells import cell
from store.base.errors import NotFound, ServiceError
from store.base.session import get_engine
from store.base.tables import Batch, Bundle, Image, Priority, StudyFinding, User, Work, WorkKind, WorkState
from store.bundles.words import label_meaning
from store.queue import work
from store.reading import studies
from store.reading.review_tables import Review, ReviewWithdrawal, counts
from store.reading.study_view import StudyReading
from store.reading.worklist import WAITS_AGAIN, Rank
from store.reading.worklist_tables import WorklistRow
from vocabulary.states import Answer, Triage
from vocabulary.times import instant


class StudyChanged(ServiceError):
    """The finding is newer than the one on the reader's screen."""

    code, status = "study_changed", 409
    title = "The study changed while it was being read: more of its images have arrived."
    advice = "Look at the study again, then answer."


class NothingToSign(ServiceError):
    """The AI read nothing of this study, so there is no report that could carry a signature."""

    code, status = "nothing_to_sign", 409
    title = "This study has no report that could be signed: the AI read none of its images."
    advice = "Record your answer without signing, and report the study in your own system."


class TooLate(ServiceError):
    """The time for withdrawing the answer has passed."""

    code, status = "too_late_to_take_back", 409
    title = "This answer can no longer be taken back."
    advice = "Open the study and record another answer: the newest one counts."


#: How long a reader may take an answer back; afterwards another answer corrects it.
TAKE_BACK_WITHIN = timedelta(minutes=10)


class PlaceOutside(ServiceError):
    """A place that does not lie on an image of the study."""

    code, status = "place_outside", 422
    title = "The place does not lie on an image of this study."
    advice = "Give the image and its pixels: left, top, width and height, whole numbers from 0."


@dataclass(frozen=True)
class Place:
    """A box on an image in pixels of the original; a point when it has no width and no height."""

    image_id: uuid.UUID
    x: int
    y: int
    width: int = 0
    height: int = 0


class Agreement(StrEnum):
    """Whether a reader's answer agrees with the AI."""

    AGREE = "agree"
    DISAGREE = "disagree"
    OPEN = "open"  # one of the two gave no clear answer


def agreement(answer: str, triage: str | None) -> Agreement:
    """Compare an answer with the AI's triage: only a clear one on both sides can agree."""
    clear = {(Answer.PRESENT, Triage.POSITIVE), (Answer.ABSENT, Triage.NEGATIVE)}
    opposed = {(Answer.PRESENT, Triage.NEGATIVE), (Answer.ABSENT, Triage.POSITIVE)}
    pair = (answer, triage)
    return Agreement.AGREE if pair in clear else Agreement.DISAGREE if pair in opposed else Agreement.OPEN


def _check_place(found: StudyReading, place: Place) -> None:
    image = next((row.image for row in found.images if row.image.id == place.image_id), None)
    if image is None or image.width is None or image.height is None:
        raise PlaceOutside
    if min(place.x, place.y, place.width, place.height) < 0:
        raise PlaceOutside
    if place.x + place.width > image.width or place.y + place.height > image.height:
        raise PlaceOutside


def record(
    session: Session,
    found: StudyReading,
    user_id: uuid.UUID,
    answer: Answer,
    *,
    comment: str = "",
    place: Place | None = None,
    seen_version: int | None = None,
    sign: bool = False,
) -> Review:
    """Add a reader's answer; with `sign`, queue the signed report too (call `dispatch` after the commit).

    Raises
    ------
    StudyChanged
        The finding's version is no longer `seen_version`, and stands on something else.
    NothingToSign, PlaceOutside
    """
    if place is not None:
        _check_place(found, place)
    studies.lock_studies(session, [found.study.id])
    said = studies.latest_finding(session, found.study.id, found.bundle.name)
    if seen_version is not None and said is not None and seen_version != said.version:
        seen = select(StudyFinding.basis).where(
            StudyFinding.study_id == found.study.id,
            StudyFinding.bundle == found.bundle.name,
            StudyFinding.version == seen_version,
        )
        if session.scalar(seen) != said.basis:
            raise StudyChanged
    if sign and said is None:
        raise NothingToSign
    reader = session.get_one(User, user_id)
    review = Review(
        id=uuid.uuid4(),
        site_id=found.study.site_id,
        study_id=found.study.id,
        batch_id=found.batch.id,
        user_id=user_id,
        reader=reader.name or reader.email,
        account=reader.email,
        bundle=found.bundle.name,
        basis=said.basis if said else "",
        version=said.version if said else None,
        triage=said.triage if said else None,
        answer=answer.value,
        comment=comment,
    )
    if place is not None:
        review.image_id = place.image_id
        review.x, review.y, review.width, review.height = place.x, place.y, place.width, place.height
    session.add(review)
    session.flush()
    waits = WorklistRow.rank < int(Rank.REVIEWED)
    session.execute(
        update(WorklistRow)
        .where(
            WorklistRow.study_id == review.study_id,
            WorklistRow.bundle == review.bundle,
            WorklistRow.basis == review.basis,
        )
        .values(
            before_rank=case((waits, WorklistRow.rank), else_=WorklistRow.before_rank),
            before_since=case((waits, WorklistRow.since), else_=WorklistRow.before_since),
            rank=int(Rank.REVIEWED),
            since=func.clock_timestamp(),
            reviewed_at=func.clock_timestamp(),
            answer=review.answer,
            signed_at=None,
            reread=False,
        )
        .execution_options(synchronize_session=False)
    )
    if sign:
        work.add_unit(
            session,
            WorkKind.SIGN,
            site_id=review.site_id,
            subject_id=review.id,
            priority=Priority.URGENT,
        )
    return review


def find(session: Session, site_id: uuid.UUID, review_id: uuid.UUID) -> Review | None:
    """Return an answer of the site, if there is one."""
    return session.scalar(select(Review).where(Review.id == review_id, Review.site_id == site_id))


def can_be_taken_back(session: Session, review: Review, user_id: uuid.UUID) -> bool:
    """Tell whether a person may still withdraw an answer: their last one, recent, and not signed."""
    later = select(Review.id).where(
        Review.study_id == review.study_id,
        Review.bundle == review.bundle,
        Review.created_at > review.created_at,
    )
    signed = select(Work.id).where(Work.subject_id == review.id)
    fresh = select(func.clock_timestamp() - review.created_at < TAKE_BACK_WITHIN)
    return (
        review.user_id == user_id
        and session.get(ReviewWithdrawal, review.id) is None
        and session.scalar(later.limit(1)) is None
        and session.scalar(signed.limit(1)) is None
        and bool(session.scalar(fresh))
    )


def take_back(session: Session, site_id: uuid.UUID, review_id: uuid.UUID, user_id: uuid.UUID) -> Review:
    """Take an answer back: the study waits again where it stood, or as its answer before says.

    Raises
    ------
    NotFound
        The site has no such answer.
    TooLate
        It is not the person's last one, is signed or being signed, or is older than `TAKE_BACK_WITHIN`.
    """
    review = find(session, site_id, review_id)
    if review is None:
        raise NotFound
    studies.lock_studies(session, [review.study_id])
    if not can_be_taken_back(session, review, user_id):
        raise TooLate
    session.add(ReviewWithdrawal(review_id=review.id))
    session.flush()
    of_row = (
        WorklistRow.study_id == review.study_id,
        WorklistRow.bundle == review.bundle,
        WorklistRow.basis == review.basis,
    )
    before = session.scalar(
        select(Review)
        .where(
            Review.study_id == review.study_id,
            Review.bundle == review.bundle,
            Review.basis == review.basis,
            counts(),
        )
        .order_by(Review.created_at.desc())
        .limit(1)
    )
    changed = update(WorklistRow).where(*of_row).execution_options(synchronize_session=False)
    if before is not None:
        session.execute(changed.values(answer=before.answer, reviewed_at=before.created_at))
    else:
        session.execute(changed.where(WorklistRow.before_rank.is_not(None)).values(WAITS_AGAIN))
    return review


@dataclass(frozen=True)
class ReviewEntry:
    """A review as the history shows it.

    Attributes
    ----------
    signing
        ``"waits"`` until the signed report is made, ``"signed"``, ``"failed"``, or None when none was asked.
    """

    review: Review
    agreement: Agreement
    signing: str | None
    signed_at: datetime | None
    withdrawn: bool = False


def history(session: Session, study_id: uuid.UUID, bundle: str) -> list[ReviewEntry]:
    """Return what readers said of a study as this bundle read it, the newest first."""
    query = (
        select(Review, StudyFinding.signed_at, Work.state, ~counts())
        .outerjoin(StudyFinding, StudyFinding.review_id == Review.id)
        .outerjoin(Work, Work.subject_id == Review.id)
        .where(Review.study_id == study_id, Review.bundle == bundle)
        .order_by(Review.created_at.desc())
        .limit(100)
    )
    found = []
    for review, signed_at, state, withdrawn in session.execute(query):
        signing = None
        if signed_at is not None:
            signing = "signed"
        elif state is not None:
            over = state in {WorkState.DONE, WorkState.FAILED, WorkState.CANCELLED}
            signing = "failed" if over else "waits"
        stands = agreement(review.answer, review.triage)
        found.append(ReviewEntry(review, stands, signing, signed_at, withdrawn))
    return found


@dataclass(frozen=True)
class Tally:
    """How readers' last answers stand to one bundle, over the studies that people chose to review."""

    table: dict[tuple[str, str], int]  # (answer, triage or "") -> studies
    agree: int
    disagree: int

    @property
    def n(self) -> int:
        """Return how many studies were reviewed."""
        return sum(self.table.values())

    @property
    def compared(self) -> int:
        """Return how many of them have a clear answer on both sides."""
        return self.agree + self.disagree


def _last_answers(site_id: uuid.UUID, bundle: str) -> Select[uuid.UUID]:
    """Select the last answer of each study that this bundle read."""
    place = func.row_number().over(partition_by=Review.study_id, order_by=Review.created_at.desc())
    ranked = (
        select(Review.id, place.label("place"))
        .where(Review.site_id == site_id, Review.bundle == bundle, counts())
        .subquery()
    )
    return select(ranked.c.id).where(ranked.c.place == 1)


def tally(session: Session, site_id: uuid.UUID, bundle: str) -> Tally:
    """Count the last answer of each reviewed study against what the bundle had said."""
    last = _last_answers(site_id, bundle)
    counted = (
        select(Review.answer, func.coalesce(Review.triage, ""), func.count())
        .where(Review.id.in_(last))
        .group_by(Review.answer, Review.triage)
    )
    table = {(answer, triage): int(n) for answer, triage, n in session.execute(counted)}
    by_kind = dict.fromkeys(Agreement, 0)
    for (answer, triage), n in table.items():
        by_kind[agreement(answer, triage)] += n
    return Tally(table, by_kind[Agreement.AGREE], by_kind[Agreement.DISAGREE])


#: Answers whose images are read at a time.
PAGE = 200
TRAINING_COLUMNS = (
    "path", "label", "labelled", "region", "patient", "study", "image_id", "sha256", "ai_triage",
    "ai_probability", "answer", "x", "y", "width", "height", "reviewed_at", "original",
)  # fmt: skip


def disagreements(site_id: uuid.UUID, bundle: Bundle) -> Iterator[bytes]:
    """Yield a CSV of the images of studies whose reader contradicted the bundle: a list to train from.

    `label` is the bundle's word or ``normal``. `labelled` says of what: a present finding labels the image on
    which the reader marked it, and the others of its study only with the study's label. `path` names the
    file that `original` gives. It holds no file name and nobody's name.
    """
    yield _line(TRAINING_COLUMNS)
    meaning = label_meaning(bundle)
    opposed = ((Review.answer == Answer.PRESENT.value) & (Review.triage == Triage.NEGATIVE.value)) | (
        (Review.answer == Answer.ABSENT.value) & (Review.triage == Triage.POSITIVE.value)
    )
    with Session(get_engine()) as session:
        answers = select(Review.id).where(Review.id.in_(_last_answers(site_id, bundle.name)), opposed)
        chosen = session.scalars(answers.order_by(Review.study_id)).all()
    for start in range(0, len(chosen), PAGE):  # a transaction a page: whoever reads may stall
        with Session(get_engine()) as session:
            rows = _opposed_images(session, chosen[start : start + PAGE], bundle.name)
        seen: tuple[uuid.UUID, str] | None = None  # a study that came twice has its bytes twice
        for review, image in rows:
            if seen != (review.study_id, image.sha256):
                yield _line(_training_cells(review, image, meaning))
            seen = review.study_id, image.sha256


def _opposed_images(
    session: Session, reviews: Sequence[uuid.UUID], bundle: str
) -> Sequence[Row[Review, Image]]:
    query = (
        select(Review, Image)
        .join(Image, Image.study_id == Review.study_id)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Review.id.in_(reviews),
            Image.finding_id.is_not(None),
            Batch.bundle == bundle,
            Batch.run_id.is_(None),
        )
        .order_by(Review.study_id, Image.sha256, Image.seq)
    )
    return session.execute(query).all()


def _training_cells(review: Review, image: Image, meaning: str) -> tuple[str, ...]:
    marked = review.image_id == image.id
    absent = review.answer == Answer.ABSENT
    place = (review.x, review.y, review.width, review.height) if marked else (None,) * 4
    suffix = {"image/png": "png", "image/jpeg": "jpg", "application/dicom": "dcm"}
    return (
        f"{image.id}.{suffix.get(image.media_type or '', 'bin')}",
        "normal" if absent else meaning,
        "image" if absent or marked else "study",
        image.region or "",
        image.patient_hash,
        str(review.study_id),
        str(image.id),
        image.sha256,
        image.triage or "",
        "" if image.probability is None else f"{image.probability:.6f}",
        review.answer,
        *("" if value is None else str(value) for value in place),
        instant(review.created_at),
        f"/api/v1/images/{image.id}/original",
    )


def _line(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([cell(c) for c in cells])
    return text.getvalue().encode()
