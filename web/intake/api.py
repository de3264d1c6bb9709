"""The JSON API under /api/v1: what a hospital's program does, and what the pages' scripts ask."""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections.abc import Mapping

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base import tables
from store.base.cells import cell
from store.base.errors import BatchNotDraft, WrongState
from store.base.session import session_scope, statement_scope
from store.intake import batches, quotas
from store.queue import pace
from vocabulary.states import BatchStatus
from web.auth.identity import audit, check_csrf, checks_csrf, identity, needs
from web.base.binding import (
    BYTES,
    ETAG,
    IF_NONE_MATCH,
    LOCATION,
    PACE,
    Content,
    Reply,
    operation,
    read_body,
    send,
)
from web.base.config import current_settings
from web.base.errors import InvalidRequest
from web.base.pacing import is_watched
from web.contract.base import API, Paged, next_link
from web.contract.batches import (
    Batch,
    Batches,
    Cancellation,
    FileAnswers,
    NewBatch,
    NewPriority,
    Retry,
    Submission,
    batch_etag,
)
from web.contract.images import ImageQuery, Images
from web.intake.actions import act, change_priority, make_batch, shown_batch, shown_images
from web.intake.uploads import FilePart, Intake, multipart_parts, unknown_field

api = Blueprint("batches_api", __name__, url_prefix=API)

_FORM = Content(
    "multipart/form-data",
    {
        "type": "object",
        "properties": {
            "files": {
                "type": "array",
                "items": BYTES,
                "description": "Images and ZIPs; the file name is the path relative to the upload.",
            },
            "manifest": {**BYTES, "description": "CSV: path,accession,study,view,laterality,priority."},
        },
    },
)


def _batch_answer(session: Session, batch: tables.Batch, status: int = 200) -> Response:
    left = pace.batch_seconds_left(session, batch)
    response = send(shown_batch(batch, batches.reasons(session, batch.id), left), status)
    response.set_etag(batch_etag(batch))
    return response


# batches


@api.post("/batches")
@operation(
    "Batches",
    "createBatch",
    "Create a draft",
    {201: Reply("The draft.", Batch, {**ETAG, **LOCATION})},
    headers={"Idempotency-Key": "The same key again gives the same batch."},
    body=NewBatch,
)
@needs(Permission.SUBMIT)
def create_batch() -> Response:
    """Make a draft. The same Idempotency-Key again answers the same batch."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise InvalidRequest("Idempotency-Key must be 1 to 200 visible ASCII characters")
    body = read_body(NewBatch)
    with session_scope() as session:
        batch, created = make_batch(session, body, idempotency_key=key)
        response = _batch_answer(session, batch, 201)
    response.headers["Location"] = f"{API}/batches/{batch.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return response


@api.get("/batches")
@operation(
    "Batches",
    "listBatches",
    "List batches, the newest first",
    {200: Reply("A page.", Batches)},
    query=Paged,
)
@needs(Permission.READ)
def list_batches(query: Paged) -> Batches:
    """List the site's batches, the newest first."""
    with session_scope() as session:
        page = batches.list_batches(session, identity().site_id, cursor=query.cursor, limit=query.limit or 50)
        items = [shown_batch(batch, batches.reasons(session, batch.id)) for batch in page.items]
    return Batches(items=items, next=next_link(f"{API}/batches", page.next_cursor, query))


@api.get("/batches/<uuid:batch_id>")
@is_watched(1)
@operation(
    "Batches",
    "getBatch",
    "See how far a batch is; cheap to ask often with If-None-Match",
    {200: Reply("The batch.", Batch, {**ETAG, **PACE}), 304: Reply("Nothing changed.", headers=PACE)},
    headers=IF_NONE_MATCH,
)
@needs(Permission.READ)
def get_batch(batch_id: uuid.UUID) -> Response:
    """Answer one batch, or 304 when nothing changed: one row's read."""
    with statement_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        if request.if_none_match.contains_weak(batch_etag(batch)):
            response = Response(status=304)
            response.set_etag(batch_etag(batch))
            return response
        return _batch_answer(session, batch)


@api.post("/batches/<uuid:batch_id>/files")
@operation(
    "Batches",
    "addFiles",
    "Send files, ZIPs and a manifest to a draft; the same file again changes nothing",
    {200: Reply("What became of each file.", FileAnswers)},
    body=_FORM,
)
@needs(Permission.SUBMIT)
@checks_csrf
def add_files(batch_id: uuid.UUID) -> Response:
    """Take files, ZIPs and a manifest into a draft; answer what became of each file."""
    check_csrf(request.headers.get("X-CSRF-Token", ""))
    settings = current_settings()
    with session_scope() as session:
        if batches.get_batch(session, identity().site_id, batch_id).status != BatchStatus.DRAFT:
            raise BatchNotDraft  # before the bytes are sent; `add_files` looks again
        quotas.require_room(session, identity().site_id, request.content_length or 0)
    parts = multipart_parts()
    with Intake(identity().site_id, batch_id, settings) as intake:
        for part in parts:
            if not isinstance(part, FilePart):
                raise unknown_field(part.name)
            intake.take_part(part)
    response = Response(intake.answers.stream(), content_type="application/json")
    response.call_on_close(intake.answers.close)
    return response


_TAKEN = {"submit": Submission, "cancel": Cancellation, "retry": Retry}
_ACTED: Mapping[int, Reply] = {202: Reply("The batch.", Batch, ETAG)}


@api.post("/batches/<uuid:batch_id>/<any(submit,cancel,pause,resume,retry):action>")
@operation("Batches", "submitBatch", "Have the files of a draft read", _ACTED, when="submit", body=Submission)
@operation(
    "Batches",
    "cancelBatch",
    "Cancel what has not ended; what is done stays, files that were not opened yet are deleted",
    _ACTED,
    when="cancel",
    body=Cancellation,
)
@operation(
    "Batches",
    "retryBatch",
    "Read failed and cancelled images again: all whose bytes are still there, or those in images. What was"
    " deleted has the reason upload_deleted; where it is all, or among images, the answer is uploads_deleted",
    _ACTED,
    when="retry",
    body=Retry,
)
@operation(
    "Batches",
    "{}Batch",
    {"pause": "Take up no more of this batch for now", "resume": "Go on with a paused batch"},
    _ACTED,
)
@needs(Permission.SUBMIT)
def act_on_batch(batch_id: uuid.UUID, action: str) -> Response:
    """Submit, cancel, pause, resume or retry a batch."""
    body = read_body(_TAKEN[action]) if action in _TAKEN else None
    batch = act(batch_id, action, **(body.model_dump(exclude_unset=True) if body else {}))
    with session_scope() as session:
        return _batch_answer(session, batch, 202)


@api.post("/batches/<uuid:batch_id>/priority")
@operation(
    "Batches",
    "setPriority",
    "Let a batch that has not ended go before others, or after them",
    _ACTED,
    body=NewPriority,
)
@needs(Permission.SUBMIT)
def set_priority(batch_id: uuid.UUID) -> Response:
    """Let a batch that has not ended go before others, or after them."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # before the body is looked at
    change_priority(batch_id, read_body(NewPriority))
    with session_scope() as session:
        return _batch_answer(session, batches.get_batch(session, identity().site_id, batch_id), 202)


@api.get("/batches/<uuid:batch_id>/images")
@operation(
    "Images",
    "listImages",
    "List the images of a batch in the order of arrival",
    {200: Reply("A page.", Images)},
    query=ImageQuery,
)
@needs(Permission.READ)
def list_images(batch_id: uuid.UUID, query: ImageQuery) -> Images:
    """List a batch's images in the order of their arrival."""
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        items, cursor = shown_images(session, batch, query, limit=query.limit or 100)
        audit(session, "batch_viewed", batch.id)
    return Images(items=items, next=next_link(f"{API}/batches/{batch_id}/images", cursor, query))


@api.get("/batches/<uuid:batch_id>/unmatched.csv")
@operation(
    "Batches",
    "unmatchedCsv",
    "Download the manifest's lines that met no file, and the files that no line speaks of",
    {200: Reply("A line each: what, path.", ("text/csv",))},
)
@needs(Permission.READ)
def unmatched_csv(batch_id: uuid.UUID) -> Response:
    """Answer what of a submitted batch's manifest met nothing."""
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        if batch.submitted_at is None:
            raise WrongState
        unmatched = batches.unmatched_of(session, batch_id) if batch.manifest_rows else None
        audit(session, "unmatched_downloaded", batch_id)
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(("what", "path"))
    if unmatched is not None:
        lines.writerows(("line without a file", cell(path)) for path in unmatched.rows)
        lines.writerows(("file without a line", cell(path)) for path in unmatched.files)
    response = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="unmatched-{str(batch_id)[:8]}.csv"'
    return response


# images


# bundles, and the description of all this
