"""Readers' answers: recording and signing them, how they stand to a bundle, and a list to train from."""

from __future__ import annotations

import uuid

from flask import Blueprint
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.queue import dispatch
from store.reading import review_tables as tables
from store.reading import reviews, study_view
from store.reading.reviews import ReviewEntry
from web.auth.identity import audit, confirm_identity, identity, needs
from web.base.binding import Reply, operation, read_body
from web.contract.base import API
from web.contract.studies import NewReview, Review, Reviews

area = Blueprint("reviews", __name__)


def record_review(session: Session, study_id: uuid.UUID, said: NewReview) -> tables.Review:
    """Keep an answer; call `check_signature` before."""
    found = study_view.get_study(
        session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
    )
    review = reviews.record(
        session,
        found,
        identity().user_id,
        said.answer,
        comment=(said.comment or "").replace("\r\n", "\n").strip(),
        place=said.place(),
        seen_version=said.version,
        sign=said.sign,
    )
    audit(session, "study_reviewed", study_id)
    return review


def check_signature(said: NewReview) -> None:
    """Let only the person who signed in sign a report. Raises `ConfirmationNeeded`, `ConfirmationFailed`."""
    if said.sign:
        confirm_identity(said.password or "")


def _last(session: Session, review: tables.Review) -> ReviewEntry:
    said = reviews.history(session, review.study_id, review.bundle)
    return next(line for line in said if line.review.id == review.id)


@area.post(f"{API}/studies/<uuid:study_id>/reviews")
@operation(
    "Worklist",
    "createReview",
    "Record a reader's answer; sign it, and a signed version of the report is made",
    {201: Reply("The review.", Review)},
    body=NewReview,
)
@needs(Permission.REVIEW)
def create_review(study_id: uuid.UUID) -> Review:
    """Record a reader's answer; with `sign`, have the signed report made too."""
    with session_scope() as session:  # an id of another site is not there, whatever was sent
        study_view.get_study(
            session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
        )
    said = read_body(NewReview)
    check_signature(said)
    with session_scope() as session:
        document = Review.of(_last(session, record_review(session, study_id, said)))
    dispatch.dispatch()
    return document


@area.get(f"{API}/studies/<uuid:study_id>/reviews")
@operation("Worklist", "listReviews", "What readers said of it", {200: Reply("All of it.", Reviews)})
@needs(Permission.READ)
def list_reviews(study_id: uuid.UUID) -> Reviews:
    """List what readers said of a study, the newest first."""
    with session_scope() as session:
        found = study_view.get_study(
            session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
        )
        said = reviews.history(session, study_id, found.bundle.name)
        return Reviews(items=[Review.of(line) for line in said])


# how readers' answers stand to a bundle
