"""One study: its images side by side, its finding, its report; and one image with what was said before."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from store.accounts.accounts import Permission
from store.base.errors import NotFound, ServiceError
from store.base.session import session_scope
from store.bundles import bundles
from store.bundles.words import label_meaning
from store.queue import dispatch
from store.reading import reviews, study_view, worklist
from store.reading.review_tables import Review
from store.reading.reviews import ReviewEntry
from store.reading.study_view import StudyReading
from vocabulary.states import Answer, Triage
from vocabulary.words import GLYPHS, answer_words, headline, with_article
from web.auth.identity import audit, confirmation, identity, needs
from web.auth.kept_forms import shows_again
from web.base.binding import (
    ETAG,
    IF_NONE_MATCH,
    Reply,
    operation,
    parse_form,
    parse_query,
    read_query,
)
from web.base.errors import ConfirmationFailed, ConfirmationNeeded, SessionWasOver, TooManyAttempts
from web.base.forms import form_on
from web.base.request_args import without_empty_fields
from web.base.sending import send_blob
from web.contract.base import API
from web.contract.images import Image
from web.contract.studies import MAX_COMMENT, NewReview, ReportQuery, Study
from web.contract.worklist import WorklistFilters
from web.intake.actions import shown_batch
from web.reading.images import visible_image
from web.reading.reviews import check_signature, record_review
from web.reading.viewer import viewer_choice
from web.reading.worklist import last_action

area = Blueprint("studies", __name__)


def _may_see_trials() -> bool:
    return identity().may(Permission.RESEARCH)


def _get(session: Any, study_id: uuid.UUID) -> StudyReading:
    return study_view.get_study(session, identity().site_id, study_id, trials=_may_see_trials())


@area.get(f"{API}/studies/<uuid:study_id>")
@operation(
    "Worklist", "getStudy", "See a study with its finding and its images", {200: Reply("The study.", Study)}
)
@needs(Permission.READ)
def get_study(study_id: uuid.UUID) -> Study:
    """Answer one study with its finding and its images."""
    with session_scope() as session:
        found = _get(session, study_id)
        audit(session, "study_viewed", study_id)
    return Study.of(found)


@area.get(f"{API}/studies/<uuid:study_id>/report")
@operation(
    "Worklist",
    "studyReport",
    "The study's report",
    {200: Reply("The PDF.", ("application/pdf",), ETAG), 304: Reply("Not changed.")},
    query=ReportQuery,
    headers=IF_NONE_MATCH,
)
@needs(Permission.READ)
def get_report(study_id: uuid.UUID, query: ReportQuery) -> Response:
    """Answer the newest version of the study's PDF, or the version args for, of an earlier bundle too."""
    with session_scope() as session:
        found = _get(session, study_id)
        wanted, bundle = query.version, query.bundle or found.bundle.name
        report = next((r for r in found.reports if r.bundle == bundle and wanted in (None, r.version)), None)
        if report is None:
            raise NotFound
        audit(session, "report_viewed", study_id)
        name = found.study.accession or PurePosixPath(study_view.title(found)).stem
    sha256 = report.report_sha256
    return send_blob(study_id, "report", report.report_key, "application/pdf", sha256, name=name)


def marks(history: list[ReviewEntry]) -> dict[str, list[Review]]:
    """Return the places that readers marked, by the image that they lie on."""
    found: dict[str, list[Review]] = {}
    for said in history:
        if said.review.image_id is not None and not said.withdrawn:
            found.setdefault(str(said.review.image_id), []).append(said.review)
    return found


def _first(study: Study) -> str:
    """Return the image that the viewer shows first: the one that decides, else the first with a picture."""
    return str(study.deciding_image or next((i.id for i in study.images if i.links["display"]), ""))


def strip_words(image: Image) -> str:
    """Say what an image is, in the strip below the picture."""
    sign = f"{GLYPHS[Triage(image.triage)]} " if image.triage else ""
    return f"{sign}{image.number or 1} {image.view}".strip()


@area.get("/studies/<uuid:study_id>")
@needs(Permission.READ)
def show_study(study_id: uuid.UUID) -> str:
    """Show a study; the query is the worklist's from which one came, to which one goes back."""
    without_empty_fields()
    return _study_page(study_id, read_query(WorklistFilters))


def _study_page(
    study_id: uuid.UUID,
    args: WorklistFilters,
    typed: Mapping[str, str] | None = None,
    trouble: ServiceError | None = None,
) -> str:
    """Return a study's page; `typed` is what an answer that met `trouble` said, and stands there again."""
    filters = args.filters(identity().time_zone)
    with session_scope() as session:
        found = _get(session, study_id)
        next_id = None
        if identity().may(Permission.WORK):
            worklist.record_opened(session, identity().site_id, study_id, identity().user_id)
            next_id = worklist.next_after(session, identity().site_id, filters, study_id)
        audit(session, "study_viewed", study_id)
        chosen = viewer_choice(session)
        said_by_readers = reviews.history(session, study_id, found.bundle.name)
        done = last_action(session)
    document = Study.of(found)
    meaning = label_meaning(found.bundle)
    said = found.finding
    read = any(row.image.probability is not None for row in found.images)
    return render_template(
        "reading/study.html",
        study=document,
        title=study_view.title(found),
        batch=shown_batch(found.batch),
        headline=headline(Triage(said.triage), meaning, partly_read=read) if said else "Not read by AI",
        reports=found.reports,
        numbers={str(row.image.id): row.image.number for row in found.images},
        read_again=found.row is not None and found.row.reread,
        meaning=meaning,
        first_image=_first(document),
        strip_words=strip_words,
        chosen=chosen,
        filters=args.kept() | ({"cursor": args.cursor} if args.cursor else {}),
        next_id=next_id,
        done=done,
        history=said_by_readers,
        answers=[(answer, answer_words(answer, meaning)) for answer in Answer],
        answer_words=lambda answer: answer_words(Answer(answer), meaning),
        marks=marks(said_by_readers),
        max_comment=MAX_COMMENT,
        confirmation=confirmation() if identity().may(Permission.REVIEW) else "",
        typed=typed or {},
        trouble=trouble,
    )


@area.post("/studies/<uuid:study_id>/reviews")
@needs(Permission.REVIEW)
@form_on("studies.show_study")
def send_review(study_id: uuid.UUID) -> BaseResponse:
    """Record what the form says; then show the study again, or the next one of the list."""
    with session_scope() as session:
        _get(session, study_id)
    args = read_query(WorklistFilters)
    filters = args.kept() | ({"cursor": args.cursor} if args.cursor else {})
    said = parse_form(NewReview, {name: value for name, value in request.form.items() if value})
    try:
        check_signature(said)
    except (ConfirmationNeeded, ConfirmationFailed, TooManyAttempts) as trouble:
        return Response(_study_page(study_id, args, request.form, trouble), trouble.status)
    with session_scope() as session:
        next_id = None
        if request.form.get("then") == "next" and identity().may(Permission.WORK):
            next_id = worklist.next_after(
                session, identity().site_id, args.filters(identity().time_zone), study_id
            )
        review = record_review(session, study_id, said)
        worklist.record_action(session, identity(), {"review": str(review.id)})
    dispatch.dispatch()
    if next_id is None and request.form.get("then") == "next":
        return redirect(url_for("worklist.show_worklist", **filters), 303)
    here = url_for("studies.show_study", study_id=next_id or study_id, **filters)
    return redirect(here, 303)


@shows_again("studies.send_review")
def show_review_again(fields: Mapping[str, str], query: Mapping[str, str], study_id: uuid.UUID) -> str:
    """Return a study's page with an answer that was sent after its session had run out."""
    return _study_page(study_id, parse_query(WorklistFilters, query), fields, SessionWasOver())


@area.get("/images/<uuid:image_id>")
@needs(Permission.READ)
def show_image(image_id: uuid.UUID) -> str:
    """Show an image: picture, attention map, what the model says and how sure it is, what was said before."""
    with session_scope() as session:
        row, batch = visible_image(session, image_id)
        bundle = bundles.get_bundle(session, batch.bundle)
        earlier = study_view.earlier_results(session, row.image, trials=_may_see_trials())
        trials = study_view.trial_findings(session, row.image, bundle.name) if _may_see_trials() else []
        audit(session, "image_viewed", image_id)
        chosen = viewer_choice(session)
    document = Image.of(row, bundle)
    meaning = label_meaning(bundle)
    return render_template(
        "reading/image.html",
        image=document,
        batch=shown_batch(batch),
        row=row.image,
        headline=headline(document.triage, meaning) if document.triage else "",
        meaning=meaning,
        strip_words=strip_words,
        chosen=chosen,
        thing=with_article(meaning),
        ranked=sorted(document.region_probabilities.items(), key=lambda item: -item[1]),
        n_images=row.study_finding.n_images if row.study_finding else 1,
        earlier=earlier,
        trials=trials,
    )
