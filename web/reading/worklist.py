"""The worklist, as a page and as JSON: which studies wait for a reader, what is done with several at once.

All filters and the order are in the address; a person keeps some of those addresses under names.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from settings import get_settings
from store.accounts.accounts import Permission
from store.base.errors import NotFound, UploadsDeleted, WrongState
from store.base.session import session_scope
from store.bundles import bundles
from store.bundles.words import label_meaning
from store.intake import batches as intake
from store.queue import dispatch
from store.reading import reviews, study_view, worklist
from store.reading.worklist import Mark, Rank
from store.reading.worklist_tables import WorklistView
from store.results import exports
from store.results.downloads import ExportRequest, Format
from store.results.results import Selection
from vocabulary.states import Answer, Triage
from vocabulary.words import GLYPHS, TONES, TRIAGE_WORDS, Tone, answer_words
from web.auth.identity import audit, identity, needs
from web.base.binding import Reply, operation, parse_form, read_body, read_query
from web.base.errors import InvalidRequest
from web.base.forms import form_on
from web.base.pacing import PAGE, is_watched
from web.base.request_args import without_empty_fields
from web.base.sending import send_stream
from web.contract.base import API, next_link
from web.contract.worklist import (
    MAX_CHOSEN,
    STATUSES,
    ChangedStudies,
    ChosenStudies,
    NewView,
    RetriedImages,
    View,
    Views,
    Worklist,
    WorklistFilters,
    WorklistQuery,
    WorklistRow,
)

area = Blueprint("worklist", __name__)

MARKS = {"read": Mark.READ, "dismiss": Mark.DISMISSED}
SORT_WORDS = {
    "class": "order of reading",
    "-class": "order of reading, last first",
    "name": "study, A to Z",
    "-name": "study, Z to A",
    "-probability": "probability, highest first",
    "probability": "probability, lowest first",
    "region": "region",
    "-region": "region, Z to A",
    "arrived": "arrived, oldest first",
    "-arrived": "arrived, newest first",
    "-reader": "reader, latest first",
    "reader": "reader, earliest first",
}

PAGE_SIZE = 50
#: A tile for each class: its words, glyph and tone; the triages bring theirs along.
TILES = {
    Rank.AMENDED: ("Amended after signing", "↻", Tone.ALARM),
    Rank.URGENT: ("Urgent", "●", Tone.ALARM),
    **{Rank(n): (TRIAGE_WORDS[t], GLYPHS[t], TONES[t]) for n, t in enumerate(Triage, Rank.POSITIVE)},
}
TILES[Rank.NOT_READ] = ("Not read", *TILES[Rank.NOT_READ][1:])  # for whatever reason


@area.get(f"{API}/worklist")
@operation(
    "Worklist",
    "listStudies",
    "List studies in the order in which they are to be read",
    {200: Reply("A page.", Worklist)},
    query=WorklistQuery,
)
@needs(Permission.WORK)
def list_studies(query: WorklistQuery) -> Worklist:
    """List the studies in the order in which they are to be read."""
    with session_scope() as db:
        audit(db, "worklist_viewed", "worklist")
        page = worklist.list_studies(
            db,
            identity().site_id,
            query.filters(identity().time_zone),
            cursor=query.cursor,
            limit=query.limit or PAGE_SIZE,
        )
        items = [WorklistRow.of(item) for item in page.items]
    return Worklist(items=items, next=next_link(f"{API}/worklist", page.next_cursor, query))


def _counted(n: int) -> str:
    return f"{worklist.MAX_COUNTED:,}+" if n > worklist.MAX_COUNTED else f"{n:,}"


@area.get("/worklist")
@is_watched(PAGE)
@needs(Permission.WORK)
def show_worklist() -> str:
    """Show the list, what narrows it, and how many wait in each class."""
    without_empty_fields()
    args = read_query(WorklistFilters)
    with session_scope() as db:
        site_id = identity().site_id
        audit(db, "worklist_viewed", "worklist")
        page = worklist.list_studies(
            db, site_id, args.filters(identity().time_zone), cursor=args.cursor, limit=PAGE_SIZE
        )
        waiting = worklist.counts(db, site_id)
        batches = worklist.choices(db, site_id)
        known = bundles.list_bundles(db)
        kept = worklist.views(db, identity().user_id)
        done = last_action(db)
    filters = args.kept()
    return render_template(
        "reading/worklist.html",
        rows=[WorklistRow.of(item) for item in page.items],
        next=page.next_cursor,
        first=not args.cursor,
        filters=filters,
        cursor={"cursor": args.cursor} if args.cursor else {},
        narrowed=set(filters) - {"class", "reviewed", "sort"},
        sorts=SORT_WORDS,
        views=kept,
        here=urlencode(filters),
        done=done,
        tiles=[(rank.word, tile, _counted(waiting[rank])) for rank, tile in TILES.items()],
        reviewed=_counted(waiting[Rank.REVIEWED]),
        batches=batches,
        bundles=[bundle.name for bundle in known],
        regions=sorted({region for bundle in known for region in bundle.manifest.get("regions", [])}),
        statuses=STATUSES,
        most_walked=worklist.MAX_WALKED,
        wait_hours=get_settings().worklist_wait_hours,
    )


# what is done with several studies, and taken back


def last_action(db: Session) -> Done | None:
    """Return what the person did last, once: what it was, and how it is taken back."""
    said = worklist.pop_action(db, identity())
    if said is None:
        return None
    if review_id := said.get("review"):
        review = reviews.find(db, identity().site_id, uuid.UUID(review_id))
        if review is None or not reviews.can_be_taken_back(db, review, identity().user_id):
            return None
        try:
            found = study_view.get_study(
                db, identity().site_id, review.study_id, trials=identity().may(Permission.RESEARCH)
            )
        except NotFound:  # erased meanwhile
            return None
        words = answer_words(Answer(review.answer), label_meaning(found.bundle))
        return Done(f"Recorded: {words}, for {study_view.title(found)}.", review_id=review.id)
    return Done(str(said.get("words", "")), studies=[str(id_) for id_ in said.get("studies", ())])


@dataclass(frozen=True)
class Done:
    """What was done, in words, and what an undo is about."""

    words: str
    review_id: uuid.UUID | None = None
    studies: Sequence[str] = ()


def _chosen() -> list[uuid.UUID]:
    """Return the studies that were ticked. Raises `InvalidRequest`."""
    try:
        chosen = [uuid.UUID(text) for text in request.form.getlist("study")]
    except ValueError:
        raise InvalidRequest("study must be a study's id") from None
    if len(chosen) > MAX_CHOSEN:
        raise InvalidRequest(f"no more than {MAX_CHOSEN} studies at once")
    return chosen


def _back(words: str, studies: Sequence[uuid.UUID] = ()) -> Response:
    without_empty_fields()
    with session_scope() as db:
        done = {"words": words, "studies": [str(id_) for id_ in studies]}
        worklist.record_action(db, identity(), done)
    args = read_query(WorklistFilters)
    return redirect(url_for("worklist.show_worklist", **args.kept(), cursor=args.cursor), 303)


def _set_aside(chosen: Sequence[uuid.UUID], action: str) -> list[uuid.UUID]:
    with session_scope() as db:
        left = worklist.set_aside(db, identity().site_id, chosen, MARKS[action])
        for study_id in left:
            audit(db, "study_marked_read" if action == "read" else "study_dismissed", study_id)
    return left


def _put_back(chosen: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    with session_scope() as db:
        back = worklist.put_back(db, identity().site_id, chosen)
        for study_id in back:
            audit(db, "study_put_back", study_id)
    return back


def _retry(chosen: Sequence[uuid.UUID]) -> int:
    n = 0
    with session_scope() as db:
        found = intake.ended_of_studies(db, identity().site_id, chosen)
    for batch_id, images in found.items():
        try:
            with session_scope() as db:
                intake.retry(db, batch_id, identity().site_id, images)
                audit(db, "batch_retried", batch_id)
        except (WrongState, UploadsDeleted):
            continue
        n += len(images)
    dispatch.dispatch()
    return n


@area.post(f"{API}/worklist/<any(read,dismiss):action>")
@operation(
    "Worklist",
    "{}Studies",
    {
        "read": "Mark several studies as read, without an answer",
        "dismiss": "Dismiss several studies: nobody is to read them",
    },
    {200: Reply("Those that waited.", ChangedStudies)},
    body=ChosenStudies,
)
@needs(Permission.REVIEW)
def set_studies_aside(action: str) -> ChangedStudies:
    """Take several studies off the list without an answer."""
    return ChangedStudies(studies=_set_aside(read_body(ChosenStudies).studies, action))


@area.post(f"{API}/worklist/put-back")
@operation(
    "Worklist",
    "putBackStudies",
    "Let studies that were marked as read or dismissed wait again where they stood",
    {200: Reply("Those that were.", ChangedStudies)},
    body=ChosenStudies,
)
@needs(Permission.REVIEW)
def put_studies_back() -> ChangedStudies:
    """Let studies that were set aside wait again."""
    return ChangedStudies(studies=_put_back(read_body(ChosenStudies).studies))


@area.post(f"{API}/worklist/retry")
@operation(
    "Worklist",
    "retryStudies",
    "Read the failed and cancelled images of several studies again",
    {202: Reply("How many.", RetriedImages)},
    body=ChosenStudies,
)
@needs(Permission.SUBMIT)
def retry_studies() -> RetriedImages:
    """Queue the failed and cancelled images of several studies again."""
    return RetriedImages(images=_retry(read_body(ChosenStudies).studies))


def _several(n: int) -> str:
    return f"{n} {'study' if n == 1 else 'studies'}"


@area.post("/worklist/<any(read,dismiss):action>")
@needs(Permission.REVIEW)
@form_on("worklist.show_worklist")
def set_aside(action: str) -> Response:
    """Take the chosen studies off the list without an answer."""
    left = _set_aside(_chosen(), action)
    return _back(f"{_several(len(left))} {MARKS[action].value}." if left else "No study was chosen.", left)


@area.post("/worklist/undo")
@needs(Permission.REVIEW)
@form_on("worklist.show_worklist")
def put_back() -> Response:
    """Let studies that were set aside wait again."""
    back = _put_back(_chosen())
    return _back(f"{_several(len(back))} back on the list.")


@area.post("/worklist/retry")
@needs(Permission.SUBMIT)
@form_on("worklist.show_worklist")
def retry() -> Response:
    """Queue the failed and cancelled images of the chosen studies again."""
    n = _retry(_chosen())
    return _back(
        f"{n} {'image is' if n == 1 else 'images are'} read again. The list shows what was, until then."
        if n
        else "Nothing could be retried."
    )


@area.post("/worklist/download")
@needs(Permission.READ)
@form_on("worklist.show_worklist")
def download() -> Response:
    """Send a ZIP of the chosen studies, or have it prepared when it is large."""
    chosen = _chosen()
    if not chosen:
        return _back("No study was chosen.")
    trials = identity().may(Permission.RESEARCH)
    wanted = ExportRequest(Selection(identity().site_id, studies=tuple(chosen), trials=trials), Format.ZIP)
    with session_scope() as db:
        small = exports.is_small(db, wanted)
        if small:
            audit(db, "results_downloaded", None)
        else:
            audit(db, "export_created", exports.create(db, wanted, identity().user_id).id)
    if small:
        return send_stream(wanted)
    dispatch.dispatch()
    return redirect(url_for("downloads.page"), 303)


@area.post("/reviews/<uuid:review_id>/take-back")
@needs(Permission.REVIEW)
@form_on("worklist.show_worklist")
def take_back(review_id: uuid.UUID) -> Response:
    """Take the answer back that one has just given, and show its study again."""
    without_empty_fields()
    with session_scope() as db:
        review = reviews.take_back(db, identity().site_id, review_id, identity().user_id)
        audit(db, "review_taken_back", review.study_id)
    args = read_query(WorklistFilters)
    return redirect(url_for("studies.show_study", study_id=review.study_id, **args.kept()), 303)


# views that a person keeps


@area.get(f"{API}/worklist/views")
@operation("Worklist", "listViews", "List the views that one keeps", {200: Reply("All.", Views)})
@needs(Permission.WORK)
def list_views() -> Views:
    """List the views of whoever asks."""
    with session_scope() as db:
        return Views(items=[View.of(view) for view in worklist.views(db, identity().user_id)])


@area.post(f"{API}/worklist/views")
@operation(
    "Worklist", "keepView", "Keep what narrows the list under a name", {201: Reply("It.", View)}, body=NewView
)
@needs(Permission.WORK)
def keep_named_view() -> View:
    """Keep what narrows and orders the list under a name."""
    said = read_body(NewView)
    with session_scope() as db:
        return View.of(_keep_view(db, said))


@area.delete(f"{API}/worklist/views/<uuid:kept_view_id>")
@operation("Worklist", "deleteView", "Delete a view", {204: Reply("Deleted.")})
@needs(Permission.WORK)
def delete_view(kept_view_id: uuid.UUID) -> None:
    """Delete one of one's views."""
    with session_scope() as db:
        worklist.forget_view(db, identity().user_id, kept_view_id)


def _keep_view(db: Session, said: NewView) -> WorklistView:
    name = " ".join(said.name.split())
    return worklist.keep_view(db, identity().user_id, name, urlencode(said.filters.kept()))


@area.post("/worklist/views")
@needs(Permission.WORK)
@form_on("worklist.show_worklist")
def keep_view() -> Response:
    """Keep the address under a name."""
    without_empty_fields()
    args = read_query(WorklistFilters)
    said = parse_form(NewView, {"name": request.form.get("name", ""), "filters": args})
    with session_scope() as db:
        kept = _keep_view(db, said)
    return _back(f"Kept as “{kept.name}”.")


@area.post("/worklist/views/<uuid:view_id>/delete")
@needs(Permission.WORK)
@form_on("worklist.show_worklist")
def forget_view(view_id: uuid.UUID) -> Response:
    """Delete a view."""
    with session_scope() as db:
        worklist.forget_view(db, identity().user_id, view_id)
    return _back("The view is deleted.")
