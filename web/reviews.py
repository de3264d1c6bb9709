"""Readers' answers: recording and signing them, how they stand to a bundle, and a list to train from."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.bundles import bundles
from store.queue import dispatch
from store.reading import reviews, study_view
from store.reading.review_tables import Review
from store.reading.reviews import Place, ReviewEntry, Tally
from vocabulary.states import Answer
from web.api import audit
from web.auth import confirm_identity, identity, needs
from web.errors import InvalidRequest
from web.representations import API, moment
from web.request_args import read_body, read_query

area = Blueprint("reviews", __name__)

MAX_COMMENT = 2000
_PLACE = ("x", "y", "width", "height")
_MEMBERS = frozenset({"answer", "comment", "version", "image_id", "sign", "password", *_PLACE})


def review_document(said: ReviewEntry) -> dict[str, Any]:
    """Return a reader's answer and how it stands to what the AI had said."""
    review = said.review
    place = None
    if review.image_id is not None:
        place = {"image_id": str(review.image_id), **{name: getattr(review, name) for name in _PLACE}}
    return {
        "id": str(review.id),
        "study_id": str(review.study_id),
        "bundle": review.bundle,
        "version": review.version,
        "ai_triage": review.triage,
        "answer": review.answer,
        "agreement": said.agreement.value,
        "comment": review.comment,
        "place": place,
        "reader": review.reader,
        "account": review.account,
        "created_at": moment(review.created_at),
        "signing": said.signing,
        "signed_at": moment(said.signed_at),
    }


def _number(name: str, value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise InvalidRequest(f"{name} must be a whole number from 0")


def _place(body: Mapping[str, Any]) -> Place | None:
    if body.get("image_id") in (None, ""):
        if any(body.get(name) not in (None, "") for name in _PLACE):
            raise InvalidRequest("a place needs the image that it lies on")
        return None
    try:
        image_id = uuid.UUID(str(body["image_id"]))
    except ValueError:
        raise InvalidRequest("image_id must be an id") from None
    x, y = (_number(name, body.get(name)) for name in ("x", "y"))
    width, height = (_number(name, body.get(name) or 0) for name in ("width", "height"))
    return Place(image_id, x, y, width, height)


def record_review(session: Session, study_id: uuid.UUID, body: Mapping[str, Any]) -> Review:
    """Check an answer and keep it; call `check_signature` before."""
    found = study_view.get_study(
        session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
    )
    try:
        answer = Answer(body.get("answer"))
    except ValueError:
        raise InvalidRequest(f"answer must be one of {', '.join(Answer)}") from None
    comment = body.get("comment") or ""
    if not isinstance(comment, str) or len(comment) > MAX_COMMENT:
        raise InvalidRequest(f"comment must be a text of at most {MAX_COMMENT} characters")
    version = body.get("version")
    review = reviews.record(
        session,
        found,
        identity().user_id,
        answer,
        comment=comment.replace("\r\n", "\n").strip(),
        place=_place(body),
        seen_version=None if version in (None, "") else _number("version", version),
        sign=bool(body.get("sign")),
    )
    audit(session, "study_reviewed", study_id)
    return review


def check_signature(body: Mapping[str, Any]) -> None:
    """Let only the person who signed in sign a report. Raises `ConfirmationNeeded`, `ConfirmationFailed`."""
    if body.get("sign"):
        confirm_identity(str(body.get("password") or ""))


def _last(session: Session, review: Review) -> ReviewEntry:
    said = reviews.history(session, review.study_id, review.bundle)
    return next(line for line in said if line.review.id == review.id)


@area.post(f"{API}/studies/<uuid:study_id>/reviews")
@needs(Permission.REVIEW)
def create_review(study_id: uuid.UUID) -> Response:
    """Record a reader's answer; with `sign`, have the signed report made too."""
    with session_scope() as session:  # an id of another site is not there, whatever was sent
        study_view.get_study(
            session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
        )
    body = read_body()
    if unknown := set(body) - _MEMBERS:
        raise InvalidRequest(f"unknown member {min(unknown)[:40]!r}")
    if not isinstance(body.get("sign", False), bool):
        raise InvalidRequest("sign must be a boolean")
    check_signature(body)
    with session_scope() as session:
        document = review_document(_last(session, record_review(session, study_id, body)))
    dispatch.dispatch()
    response = jsonify(document)
    response.status_code = 201
    return response


@area.get(f"{API}/studies/<uuid:study_id>/reviews")
@needs(Permission.READ)
def list_reviews(study_id: uuid.UUID) -> Response:
    """List what readers said of a study, the newest first."""
    read_query()
    with session_scope() as session:
        found = study_view.get_study(
            session, identity().site_id, study_id, trials=identity().may(Permission.RESEARCH)
        )
        said = reviews.history(session, study_id, found.bundle.name)
        return jsonify(items=[review_document(line) for line in said], next=None)


# how readers' answers stand to a bundle


def tally_document(name: str, tally: Tally) -> dict[str, Any]:
    """Return the counts, and how often the two agreed where both gave a clear answer."""
    return {
        "bundle": name,
        "reviewed": tally.n,
        "compared": tally.compared,
        "agree": tally.agree,
        "disagree": tally.disagree,
        "agreement": tally.agree / tally.compared if tally.compared else None,
        "counts": [
            {"answer": answer, "ai_triage": triage or None, "studies": n}
            for (answer, triage), n in sorted(tally.table.items())
        ],
        "notice": "Over studies that people chose to review: neither sensitivity nor specificity.",
    }


@area.get(f"{API}/bundles/<name>/agreement")
@needs(Permission.READ)
def get_agreement(name: str) -> Response:
    """Count readers' answers against what the bundle had said."""
    read_query()
    with session_scope() as session:
        bundles.installed(session, name)
        return jsonify(tally_document(name, reviews.tally(session, identity().site_id, name)))


@area.get(f"{API}/bundles/<name>/disagreements.csv")
@needs(Permission.RESEARCH)
def get_disagreements(name: str) -> Response:
    """Stream the images of studies whose reader contradicted the bundle: a list to train from."""
    read_query()
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        audit(session, "disagreements_downloaded", name)
    response = Response(
        reviews.disagreements(identity().site_id, bundle), content_type="text/csv; charset=utf-8"
    )
    response.headers["Content-Disposition"] = f'attachment; filename="disagreements-{bundle.name}.csv"'
    return response
