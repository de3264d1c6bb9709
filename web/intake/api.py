"""The JSON API under /api/v1: what a hospital's program does, and what the pages' scripts ask."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, current_app, g, jsonify, render_template, request
from sqlalchemy.orm import Session

from settings import Settings
from store.accounts import accounts
from store.accounts.accounts import Permission
from store.base import tables
from store.base.blobs import get_blobs
from store.base.errors import BatchNotDraft, FindingsWithheld, NotFound, WrongState
from store.base.session import session_scope
from store.base.tables import Site
from store.bundles import bundles
from store.intake import batches, quotas, uploads
from store.intake.batches import ImageRow
from store.queue import dispatch
from store.reading import full_depth
from store.results.downloads import ExportRequest, Format, stream
from store.results.results import Selection
from store.results.safe_names import cell
from vocabulary.states import BatchStatus
from web.auth.identity import check_csrf, checks_csrf, identify, identity, is_public, needs
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
from web.base.errors import InvalidRequest, UnsupportedMediaType
from web.base.pacing import is_watched
from web.contract.base import API, Paged, next_link, picked
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
from web.contract.bundles import Bundle, Bundles
from web.contract.exports import TableQuery
from web.contract.images import Image, ImageFilters, ImageQuery, Images
from web.intake.uploads import FilePart, Intake, read_form, unknown_field
from web.openapi import document

api = Blueprint("api", __name__, url_prefix=API)

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
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/tiff": "tif",
    "image/webp": "webp",
    "application/dicom": "dcm",
    "application/pdf": "pdf",
}
#: What a browser may show in its window; everything else is saved to disk.
_SHOWN = frozenset({"image/jpeg", "image/png", "application/pdf"})


def make_batch(
    session: Session, said: NewBatch, *, idempotency_key: str | None = None
) -> tuple[tables.Batch, bool]:
    """Make the batch of the one who asks, or find the one that the key made before."""
    who = identity()
    wish = json.dumps([said.label, said.bundle or None, said.priority, said.report, said.heatmap])
    batch, created = batches.create_batch(
        session,
        site_id=who.site_id,
        user_id=who.user_id,
        label=said.label,
        bundle=said.bundle or None,
        priority=said.priority,
        with_report=said.report,
        with_heatmap=said.heatmap,
        idempotency_key=idempotency_key,
        request_hash=hashlib.sha256(wish.encode()).hexdigest(),
    )
    if created:
        audit(session, "batch_created", batch.id)
    return batch, created


def audit(session: Session, action: str, object_id: object) -> None:
    """Note what the one who asks did; seeing the same again soon is not noted."""
    if action.endswith("_viewed"):
        return accounts.write_view(session, identity(), action, object_id)
    accounts.write_audit(session, identity().site_id, identity().user_id, action, object_id)


def sees_findings(batch: tables.Batch) -> bool:
    """Tell whether the one who asks may see what the batch's bundle says.

    What a bundle said that the site had not promoted is for those who compare bundles.
    """
    return batch.promoted or identity().may(Permission.RESEARCH)


def shown_batch(batch: tables.Batch, reasons: Mapping[str, int] = MappingProxyType({})) -> Batch:
    """Return a batch as the one who asks may see it."""
    return Batch.of(batch, reasons, findings=sees_findings(batch))


def shown_images(
    session: Session, batch: tables.Batch, args: ImageFilters, *, limit: int
) -> tuple[list[Image], str | None]:
    """Return a page of a batch's images as the one who asks may see them, and the cursor of the next page.

    Raises
    ------
    FindingsWithheld
        Images are chosen by what the asker may not see.
    """
    seen = sees_findings(batch)
    if not seen and (args.triage or args.region):
        raise FindingsWithheld
    chosen = picked(args, *ImageFilters.model_fields)
    page = batches.list_images(session, batch.site_id, batch.id, **chosen, limit=limit)
    bundle = bundles.get_bundle(session, batch.bundle)
    audit(session, "batch_viewed", batch.id)
    return [Image.of(row, bundle, findings=seen) for row in page.items], page.next_cursor


def _batch_answer(session: Session, batch: tables.Batch, status: int = 200) -> Response:
    response = send(shown_batch(batch, batches.reasons(session, batch.id)), status)
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
    said = read_body(NewBatch)
    with session_scope() as session:
        batch, created = make_batch(session, said, idempotency_key=key)
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
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        if request.if_none_match.contains_weak(batch_etag(batch)):
            response = Response(status=304)
            response.set_etag(batch_etag(batch))
            return response
        return _batch_answer(session, batch)


def multipart_parts() -> Iterator[Any]:
    """Yield the parts of the request's form as they arrive. Raises `UnsupportedMediaType`."""
    settings: Settings = current_app.extensions["settings"]
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise UnsupportedMediaType
    request.max_content_length = settings.max_request_bytes
    return read_form(request.stream, boundary, settings.max_archive_members)


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
    settings: Settings = current_app.extensions["settings"]
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
    return Response(intake.answers.stream(), content_type="application/json")


#: What can be done with a batch, by the last part of the address.
ACTIONS: Mapping[str, Callable[[Session, uuid.UUID, uuid.UUID], tables.Batch]] = {
    "submit": batches.submit,
    "cancel": batches.cancel,
    "pause": batches.pause,
    "resume": batches.resume,
    "retry": batches.retry,
}


def act(batch_id: uuid.UUID, action: str, **how: Any) -> tables.Batch:
    """Do one of `ACTIONS`, and have what became due published."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # a run's batch is not steered here
        batch = ACTIONS[action](session, batch_id, identity().site_id, **how)
        audit(session, f"batch_{action}", batch.id)
    if action == "cancel":
        uploads.discard_cancelled(identity().site_id, batch_id)
        with session_scope() as session:
            batch = batches.get_batch(session, identity().site_id, batch_id)
    dispatch.dispatch()
    return batch


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
    said = read_body(_TAKEN[action]) if action in _TAKEN else None
    batch = act(batch_id, action, **(said.model_dump(exclude_unset=True) if said else {}))
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


def change_priority(batch_id: uuid.UUID, said: NewPriority) -> None:
    """Set a batch's priority. Raises `NotFound`, `WrongState`."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # a run's batch is not steered here
        batch = batches.set_priority(session, batch_id, identity().site_id, said.priority)
        audit(session, "batch_priority", batch.id)


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
    return Images(items=items, next=next_link(f"{API}/batches/{batch_id}/images", cursor, query))


def send_stream(wish: ExportRequest) -> Response:
    """Answer a file while it is made."""
    response = Response(stream(wish), content_type=wish.format.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{wish.file_name}"'
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that buffers would hold the first byte back
    return response


def _download(batch_id: uuid.UUID, kind: Format, *, bom: bool) -> Response:
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        if not sees_findings(batch):
            raise FindingsWithheld
        audit(session, f"results_{kind}_downloaded", batch.id)
    return send_stream(
        ExportRequest(Selection(identity().site_id, batch_id, trials=not batch.promoted), kind, bom=bom)
    )


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


@api.get("/batches/<uuid:batch_id>/results.csv")
@operation(
    "Batches",
    "resultsCsv",
    "Download one line an uploaded file",
    {200: Reply("The lines, streamed.", ("text/csv",))},
    query=TableQuery,
)
@needs(Permission.READ)
def results_csv(batch_id: uuid.UUID, query: TableQuery) -> Response:
    """Stream one line an uploaded file."""
    return _download(batch_id, Format.CSV, bom=query.bom)


@api.get("/batches/<uuid:batch_id>/results.zip")
@operation(
    "Batches",
    "resultsZip",
    "Download results.csv, errors.csv, heat maps, reports and manifest.json",
    {200: Reply("The archive, streamed.", ("application/zip",))},
    query=TableQuery,
)
@needs(Permission.READ)
def results_zip(batch_id: uuid.UUID, query: TableQuery) -> Response:
    """Stream the CSV, the heat maps, the reports and the manifest."""
    return _download(batch_id, Format.ZIP, bom=query.bom)


# images


def visible_image(session: Session, image_id: uuid.UUID) -> tuple[ImageRow, tables.Batch]:
    """Return an image of the site, and its batch, if the one who asks may see what its bundle says.

    Raises `NotFound`.
    """
    row = batches.get_image(session, identity().site_id, image_id)
    batch = batches.get_batch(session, identity().site_id, row.image.batch_id)
    if not sees_findings(batch):
        raise NotFound
    return row, batch


@api.get("/images/<uuid:image_id>")
@operation("Images", "getImage", "See an image with its finding", {200: Reply("The image.", Image)})
@needs(Permission.READ)
def get_image(image_id: uuid.UUID) -> Image:
    """Answer one image with its finding."""
    with session_scope() as session:
        row, batch = visible_image(session, image_id)
        audit(session, "image_viewed", image_id)
        return Image.of(row, bundles.get_bundle(session, batch.bundle))


def send_blob(
    object_id: uuid.UUID,
    kind: str,
    key: str | None,
    media_type: str,
    sha256: str | None,
    *,
    name: str = "",
) -> Response:
    """Answer stored bytes: an ETag, a name, and nothing that a browser would run. Raises `NotFound`.

    Parameters
    ----------
    name
        What the owner calls the object, for the copy that they keep; the stored bytes do not hold it.
    """
    if key is None:
        raise NotFound
    shown = media_type in _SHOWN
    extension = _EXTENSIONS.get(media_type, "bin")
    disposition = f'{"inline" if shown else "attachment"}; filename="{object_id}-{kind}.{extension}"'
    if name:
        stem = re.sub(r"[^\w.-]+", " ", name).strip(" .")[:80]
        disposition += f"; filename*=UTF-8''{quote(f'{stem} {kind}.{extension}', safe='')}"
    headers = {"Content-Disposition": disposition}
    if media_type == "application/pdf":  # a browser's own viewer is an object with inline style
        headers["Content-Security-Policy"] = (
            "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
        )
    if sha256 and request.if_none_match.contains_weak(sha256):
        response = Response(status=304, headers=headers)
    else:
        response = Response(get_blobs().stream(key), headers=headers, content_type=media_type)
        response.content_length = get_blobs().size(key)
    if sha256:
        response.set_etag(sha256)
    return response


def _bytes(*media_types: str) -> dict[str, Any]:
    found = Reply("The bytes.", media_types, ETAG)
    return {"answers": {200: found, 304: Reply("Not changed.")}, "headers": IF_NONE_MATCH}


@api.get("/images/<uuid:image_id>/<any(original,display,overlay,heat,report):kind>")
@operation(
    "Images",
    "imageOriginal",
    "Download the pseudonymised original",
    when="original",
    **_bytes("image/jpeg", "image/png", "application/dicom", "application/octet-stream"),
)
@operation("Images", "imageDisplay", "The picture to look at", when="display", **_bytes("image/jpeg"))
@operation("Images", "imageOverlay", "The attention map over it", when="overlay", **_bytes("image/jpeg"))
@operation(
    "Images",
    "imageHeat",
    "The attention map alone, transparent where the model did not look",
    when="heat",
    **_bytes("image/png"),
)
@operation("Images", "imageReport", "The report of its study", when="report", **_bytes("application/pdf"))
@needs(Permission.READ)
def get_bytes(image_id: uuid.UUID, kind: str) -> Response:
    """Answer the pseudonymised original, a picture to look at, the heat map over it or alone, or the PDF."""
    with session_scope() as session:
        row, _ = visible_image(session, image_id)
        # the pictures of a page belong to the page that was noted; a program has no page
        if kind in {"original", "report"} or identity().csrf_token is None:
            audit(session, f"{kind}_viewed", image_id)
    image, found = row.image, row.study_finding
    if kind == "original":
        media_type = image.media_type if image.media_type in _EXTENSIONS else "application/octet-stream"
        return send_blob(image_id, kind, image.original_key, media_type, image.original_sha256)
    if kind == "display":
        return send_blob(image_id, kind, image.display_key, "image/jpeg", image.display_sha256)
    if kind == "overlay":
        return send_blob(image_id, kind, image.overlay_key, "image/jpeg", image.overlay_sha256)
    if kind == "heat":
        return send_blob(image_id, kind, image.heat_key, "image/png", image.heat_sha256)
    if found is None:
        raise NotFound
    name = image.accession or PurePosixPath(image.path).stem
    return send_blob(image_id, kind, found.report_key, "application/pdf", found.report_sha256, name=name)


@api.get("/images/<uuid:image_id>/pixels")
@operation(
    "Images",
    "imagePixels",
    "The picture at full depth and size, as a PNG of 8 or 16 bits",
    {
        200: Reply(
            "The bytes; a text chunk tells windows, pixel size and orientation.", ("image/png",), ETAG
        ),
        202: Reply("A worker is making it: ask again in a second."),
        304: Reply("Not changed."),
    },
    headers=IF_NONE_MATCH,
)
@needs(Permission.READ)
def get_pixels(image_id: uuid.UUID) -> Response:
    """Answer an image with every grey value of its original; the first who asks has it made."""
    with session_scope() as session:
        visible_image(session, image_id)
        answer, image = full_depth.ask(session, image_id)
        if identity().csrf_token is None and answer is full_depth.Answer.READY:
            audit(session, "pixels_viewed", image_id)
    if answer is full_depth.Answer.MAKING:
        dispatch.dispatch()
        return Response(status=202, headers={"Retry-After": "1"})
    return send_blob(image_id, "pixels", image.pixels_key, "image/png", image.pixels_sha256)


# bundles, and the description of all this


@api.get("/bundles")
@operation("Bundles", "listBundles", "List the model bundles", {200: Reply("All of them.", Bundles)})
@needs(Permission.READ)
def list_bundles() -> Bundles:
    """List the model bundles of this server; one of them is the site's default."""
    with session_scope() as session:
        default = session.get_one(Site, identity().site_id).default_bundle
        items = [Bundle.of(b, default=b.name == default) for b in bundles.list_bundles(session)]
    return Bundles(items=items)


@api.get("/openapi.json")
@operation(
    "This description", "openapi", "This document", {200: Reply("OpenAPI 3.1.", ("application/json",))}
)
@is_public
def openapi() -> Response:
    """Answer the description of this API (OpenAPI 3.1)."""
    return jsonify(document())


@api.get("/docs")
@operation("This description", "docs", "This document as a page", {200: Reply("HTML.", ("text/html",))})
@is_public
def docs() -> str:
    """Show the description of this API as a page."""
    g.identity = identify()
    return render_template("docs.html", api=document())
