"""The pages that people use: batches, upload, images, bundles. They work without scripts."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from flask import Blueprint, current_app, g, redirect, render_template, request, url_for
from markupsafe import escape
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.errors import BatchEmpty
from store.base.session import session_scope
from store.base.tables import Site
from store.bundles import bundles
from store.bundles.words import label_meaning, thresholds
from store.intake import batches, quotas, summary, uploads
from store.queue import pace
from vocabulary.states import (
    TERMINAL_BATCH_STATUSES,
    BatchStatus,
)
from web.auth.identity import check_csrf, checks_csrf, identity, is_personal, needs, note_view
from web.base.binding import parse_form, read_query
from web.base.config import current_settings
from web.base.forms import form_on
from web.base.pacing import PAGE, is_watched
from web.base.request_args import without_empty_fields
from web.base.together import Together
from web.contract.base import Cursored
from web.contract.batches import Batch, NewBatch, NewPriority, Retry, batch_etag
from web.contract.images import ImageFilters
from web.intake.actions import (
    ACTIONS,
    act,
    change_priority,
    make_batch,
    shown_batch,
    shown_images,
)
from web.intake.uploads import FILE_FIELDS, Field, FilePart, Intake, multipart_parts, unknown_field

pages = Blueprint("batches", __name__)

PAGE_SIZE = 50


@pages.get("/")
@is_personal
def home() -> Response:
    """Go to the list of batches."""
    return redirect(url_for("batches.list_batches"))


@pages.get("/batches")
@needs(Permission.READ)
def list_batches() -> str:
    """Show the site's batches, the newest first."""
    args = read_query(Cursored)
    with session_scope() as session:
        page = batches.list_batches(session, identity().site_id, cursor=args.cursor, limit=PAGE_SIZE)
        shown = [shown_batch(batch) for batch in page.items]
    return render_template("intake/batches.html", batches=shown, next=page.next_cursor, first=not args.cursor)


def _choices() -> dict[str, Any]:
    with session_scope() as session:
        names = [bundle.name for bundle in bundles.list_bundles(session)]
        default = session.get_one(Site, identity().site_id).default_bundle
    return {"bundles": names, "default_bundle": default}


@pages.get("/batches/new")
@needs(Permission.SUBMIT)
def new_batch() -> str:
    """Show the form for a new batch."""
    with session_scope() as session:
        drafts = [shown_batch(batch) for batch in uploads.list_drafts(session, identity().site_id)]
    return render_template("intake/new_batch.html", drafts=drafts, **_choices())


def _asked_for(fields: dict[str, str]) -> NewBatch:
    ticked = {name: name in fields for name in ("report", "heatmap")}
    return parse_form(NewBatch, {name: value for name, value in fields.items() if value} | ticked)


def _take_form(
    parts: Iterator[Field | FilePart], batch_id: uuid.UUID | None
) -> tuple[uuid.UUID, dict[str, str]]:
    """Take a form's fields, then its files into the batch, which is made when the first file comes.

    Raises
    ------
    CsrfFailed
        The form's token is wrong, or does not come before the files.
    BatchEmpty
        There was no file.
    """
    settings = current_settings()
    fields: dict[str, str] = {}
    g.typed_fields = MultiDict()
    intake: Intake | None = None
    with ExitStack() as opened:
        for part in parts:
            if isinstance(part, Field):
                if part.name in FILE_FIELDS:
                    raise unknown_field(part.name)
                fields[part.name] = part.value
                g.typed_fields.add(part.name, part.value)
                continue
            if intake is None:
                check_csrf(fields.get("csrf", ""))
                with session_scope() as session:
                    quotas.require_room(session, identity().site_id, request.content_length or 0)
                if batch_id is None:
                    with session_scope() as session:
                        batch_id = make_batch(session, _asked_for(fields))[0].id
                intake = Intake(identity().site_id, batch_id, settings)
                opened.callback(intake.answers.close)  # after the last flush
                opened.enter_context(intake)
            intake.take_part(part)
    if intake is None or batch_id is None:
        raise BatchEmpty
    return batch_id, fields


def _after_upload(batch_id: uuid.UUID, fields: dict[str, str]) -> Response:
    if "start" in fields:
        act(batch_id, "submit")
    return redirect(url_for("batches.show_batch", batch_id=batch_id), 303)


@pages.post("/batches")
@needs(Permission.SUBMIT)
@checks_csrf
@form_on("batches.new_batch")
def create_batch() -> Response:
    """Make a batch out of one form: its options, then its files."""
    return _after_upload(*_take_form(multipart_parts(), None))


@pages.post("/batches/<uuid:batch_id>/files")
@needs(Permission.SUBMIT)
@checks_csrf
@form_on("batches.show_batch")
def add_files(batch_id: uuid.UUID) -> Response:
    """Add files to a draft."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)
    return _after_upload(*_take_form(multipart_parts(), batch_id))


def _actions(batch: Batch, *, retry: bool) -> list[str]:
    """Return what can be done with a batch in its state; `retry`: there is something to be read again."""
    status = batch.status
    if batch.cancelled_at and status not in TERMINAL_BATCH_STATUSES:
        return []
    if status == BatchStatus.DRAFT:
        return ["submit", "cancel"] if batch.counts.total else ["cancel"]
    if status in {BatchStatus.QUEUED, BatchStatus.RUNNING}:
        return ["pause", "cancel"]
    if status == BatchStatus.PAUSED:
        return ["resume", "cancel"]
    return ["retry"] if retry else []


@pages.get("/batches/<uuid:batch_id>")
@is_watched(PAGE)
@needs(Permission.READ)
def show_batch(batch_id: uuid.UUID) -> Response:
    """Show how far a batch is, and its images; people who open it at the same time share one rendering."""
    without_empty_fields()
    args = read_query(ImageFilters)
    known = identity()
    by_browser = known.csrf_token is not None
    page = _batch_pages.answer(
        (request.full_path, known.site_id, known.permissions, known.time_zone, by_browser),
        lambda: _batch_page(batch_id, args),
    )
    note_view("batch_viewed", batch_id)
    return current_app.make_response(
        page.replace(_Anybody.email, escape(known.email)).replace(_Anybody.token, known.csrf_token or "")
    )


class _Anybody:
    """What stands in a shared page where the address and the token of the one who asks belong."""

    email, token = (f"{secrets.token_hex(16)}" for _ in range(2))


_batch_pages: Together[str] = Together()


def _batch_page(batch_id: uuid.UUID, args: ImageFilters) -> str:
    """Render a batch's page for anybody who may see what the one who asks may."""
    known = identity()
    anybody = replace(known, email=_Anybody.email, csrf_token=known.csrf_token and _Anybody.token)
    with session_scope() as session:
        batch = batches.get_batch(session, known.site_id, batch_id)
        bundle = bundles.get_bundle(session, batch.bundle)
        left = pace.batch_seconds_left(session, batch)
        document = shown_batch(batch, batches.reasons(session, batch_id), left)
        retry = batches.can_retry(session, batch)
        images, cursor = shown_images(session, batch, args, limit=PAGE_SIZE)
        ended = BatchStatus(batch.status) in TERMINAL_BATCH_STATUSES
        told = ended and not document.findings_withheld and not args.kept() and not args.cursor
        summed = summary.summary(session, batch, thresholds(bundle)) if told else None
    counts = document.counts
    return render_template(
        "intake/batch.html",
        current_user=anybody,
        batch=document,
        etag=batch_etag(batch),
        n_bytes=batch.n_bytes,
        actions=[name for name in _actions(document, retry=retry) if name in ACTIONS],
        ended=counts.done + counts.rejected + counts.failed + counts.cancelled,
        images=images,
        filters=args.kept(),
        first=not args.cursor,
        next=cursor,
        regions=sorted(bundle.manifest.get("regions", [])),
        meaning=label_meaning(bundle),
        summed=summed,
    )


@pages.post("/batches/<uuid:batch_id>/<any(submit,cancel,pause,resume,retry):action>")
@needs(Permission.SUBMIT)
@form_on("batches.show_batch", images="image")
def act_on_batch(batch_id: uuid.UUID, action: str) -> Response:
    """Do what a button says: for the whole batch, or to retry for the images that were ticked."""
    chosen = request.form.getlist("image") if action == "retry" else []
    if chosen:
        act(batch_id, action, images=parse_form(Retry, {"images": chosen}).images)
    else:
        act(batch_id, action)
    return redirect(url_for("batches.show_batch", batch_id=batch_id), 303)


@pages.post("/batches/<uuid:batch_id>/priority")
@needs(Permission.SUBMIT)
@form_on("batches.show_batch")
def set_priority(batch_id: uuid.UUID) -> Response:
    """Change how soon a batch is read."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # before the form is looked at
    change_priority(batch_id, parse_form(NewPriority, request.form))
    return redirect(url_for("batches.show_batch", batch_id=batch_id), 303)


# how things look
