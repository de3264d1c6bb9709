"""One study: its images side by side, its finding, its report; and one image with what was said before."""

from __future__ import annotations

import re
import uuid
from typing import Any

from flask import Blueprint, Response, jsonify, render_template

from store import bundles, reading, reviews, worklist
from store.accounts import Permission
from store.errors import NotFound
from store.reading import StudyReading
from store.review_tables import Review
from store.reviews import Said
from store.session import session_scope
from store.tables import Answer, Reason, Triage
from store.words import answer_words, headline, label_meaning, noun, with_article
from web.api import audit, send_blob, shown_batch, visible_image
from web.asked import read_query, without_empty_fields
from web.auth import identity, needs
from web.representations import API, image_document, moment, reason_document
from web.reviews import MAX_COMMENT
from web.worklist import QUERY, filters_of, kept

area = Blueprint("studies", __name__)

#: What a browser can draw: there the viewer shows the original's own pixels on request.
DRAWN = frozenset({"image/png", "image/jpeg"})


def _may_see_trials() -> bool:
    return identity().may(Permission.RESEARCH)


def _get(session: Any, study_id: uuid.UUID) -> StudyReading:
    return reading.get_study(session, identity().site_id, study_id, trials=_may_see_trials())


def study_document(found: StudyReading) -> dict[str, Any]:
    """Return a study with its finding and its images, as the bundle of its newest batch made them."""
    here = f"{API}/studies/{found.study.id}"
    said = found.finding
    report = found.reports[0] if found.reports else None
    return {
        "id": str(found.study.id),
        "batch_id": str(found.batch.id),
        "bundle": found.bundle.name,
        "accession": found.study.accession,
        "study_uid": found.study.study_uid,
        "study_date": found.study.study_date,
        "triage": said.triage if said else None,
        "reasons": [reason_document(Reason(code)) for code in said.reasons] if said else [],
        "version": said.version if said else None,
        "created_at": moment(said.created_at) if said else None,
        "images": [image_document(row, found.bundle) for row in found.images],
        "links": {
            "self": here,
            "page": f"/studies/{found.study.id}",
            "report": f"{here}/report" if report else None,
        },
    }


@area.get(f"{API}/studies/<uuid:study_id>")
@needs(Permission.READ)
def get_study(study_id: uuid.UUID) -> Response:
    """Answer one study with its finding and its images."""
    read_query()
    with session_scope() as session:
        found = _get(session, study_id)
        audit(session, "study_viewed", study_id)
    return jsonify(study_document(found))


@area.get(f"{API}/studies/<uuid:study_id>/report")
@needs(Permission.READ)
def get_report(study_id: uuid.UUID) -> Response:
    """Answer the newest version of the study's PDF, or the version asked for."""
    asked = read_query(version=_version)
    with session_scope() as session:
        found = _get(session, study_id)
        wanted = asked["version"]
        report = next((r for r in found.reports if wanted in (None, r.version)), None)
        if report is None:
            raise NotFound
        audit(session, "report_viewed", study_id)
    return send_blob(study_id, "report", report.report_key, "application/pdf", report.report_sha256)


def marks(history: list[Said]) -> dict[str, list[Review]]:
    """Return the places that readers marked, by the image that they lie on."""
    found: dict[str, list[Review]] = {}
    for said in history:
        if said.review.image_id is not None:
            found.setdefault(str(said.review.image_id), []).append(said.review)
    return found


def _version(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text):
        raise ValueError("must be a number")
    return int(text)


def _title(found: StudyReading) -> str:
    return found.study.accession or (found.images[0].image.path if found.images else str(found.study.id))


@area.get("/studies/<uuid:study_id>")
@needs(Permission.READ)
def show_study(study_id: uuid.UUID) -> str:
    """Show a study; the query is the worklist's from which one came, to which one goes back."""
    without_empty_fields()
    asked = read_query(**QUERY)
    wish = filters_of(asked)
    with session_scope() as session:
        found = _get(session, study_id)
        next_id = None
        if identity().may(Permission.WORK):
            worklist.note_opened(session, identity().site_id, study_id, identity().user_id)
            next_id = worklist.next_after(session, identity().site_id, wish, study_id)
        audit(session, "study_viewed", study_id)
        said_by_readers = reviews.history(session, study_id, found.bundle.name)
    document = study_document(found)
    meaning = label_meaning(found.bundle)
    said = found.finding
    read = any(row.image.probability is not None for row in found.images)
    return render_template(
        "study.html",
        study=document,
        title=_title(found),
        batch=shown_batch(found.batch),
        headline=headline(Triage(said.triage), meaning, partly_read=read) if said else "Not read by AI",
        noun=noun(meaning),
        reports=found.reports,
        drawn={str(row.image.id): row.image.media_type in DRAWN for row in found.images},
        filters=kept(asked),
        next_id=next_id,
        history=said_by_readers,
        answers=[(answer, answer_words(answer, meaning)) for answer in Answer],
        answer_words=lambda answer: answer_words(Answer(answer), meaning),
        marks=marks(said_by_readers),
        max_comment=MAX_COMMENT,
    )


@area.get("/images/<uuid:image_id>")
@needs(Permission.READ)
def show_image(image_id: uuid.UUID) -> str:
    """Show an image: picture, attention map, what the model says and how sure it is, what was said before."""
    with session_scope() as session:
        row, batch = visible_image(session, image_id)
        bundle = bundles.get_bundle(session, batch.bundle)
        earlier = reading.earlier_results(session, row.image, trials=_may_see_trials())
        trials = reading.trial_findings(session, row.image, bundle.name) if _may_see_trials() else []
        audit(session, "image_viewed", image_id)
    document = image_document(row, bundle)
    meaning = label_meaning(bundle)
    return render_template(
        "image.html",
        image=document,
        batch=shown_batch(batch),
        row=row.image,
        headline=headline(Triage(document["triage"]), meaning) if document["triage"] else "",
        noun=noun(meaning),
        thing=with_article(meaning),
        ranked=sorted(document["region_probabilities"].items(), key=lambda item: -item[1]),
        n_images=row.study_finding.n_images if row.study_finding else 1,
        drawn=row.image.media_type in DRAWN,
        earlier=earlier,
        trials=trials,
    )
