"""Taking results away: streamed at once when small, prepared in the background when large; page and API."""

from __future__ import annotations

import re
import uuid
from typing import Any

from flask import Blueprint, jsonify, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.errors import FindingsWithheld
from store.base.session import session_scope
from store.intake import batches
from store.queue import dispatch
from store.results import exports
from store.results.downloads import DEFAULT_PARTS, ExportRequest, Format, InvalidExportRequest, Part
from store.results.exports import ExportRow, ExportState
from store.results.results import COLUMNS, RESULT_COLUMNS
from web.api import audit, sees_findings, send_stream
from web.auth import identity, needs
from web.errors import InvalidQuery, InvalidRequest
from web.pacing import PAGE, is_watched
from web.representations import API, moment
from web.request_args import read_body, read_query

downloads = Blueprint("downloads", __name__)

#: Batches that the form offers; another one is named by its address.
CHOICES = 100
MOVING = frozenset({ExportState.WAITING, ExportState.PREPARING})
_LISTS = ("columns", "parts")
_FIELDS = ("format", "batch", "status", "triage", "region", "since", "until", *_LISTS)


def export_document(row: ExportRow) -> dict[str, Any]:
    """Return a file that is prepared, as JSON."""
    export, here = row.export, f"{API}/exports/{row.export.id}"
    return {
        "id": str(export.id),
        "state": row.state.value,
        "error_code": row.error_code,
        "name": export.name,
        "wish": export.wish,
        "done": export.n_done,
        "total": export.n_total,
        "missing": export.n_missing,
        "size": export.size,
        "sha256": export.sha256,
        "created_at": moment(export.created_at),
        "expires_at": moment(export.expires_at),
        "links": {
            "self": here,
            "cancel": f"{here}/cancel",
            "file": f"{here}/file" if row.state is ExportState.READY else None,
        },
    }


def _trials() -> bool:
    return identity().may(Permission.RESEARCH)


def _export_request(said: dict[str, Any]) -> ExportRequest:
    try:
        return ExportRequest.parse(identity().site_id, said, trials=_trials())
    except InvalidExportRequest as error:
        raise (InvalidQuery if request.method == "GET" else InvalidRequest)(str(error)) from None


def _create(wanted: ExportRequest) -> ExportRow:
    with session_scope() as session:
        export = exports.create(session, wanted, identity().user_id)
        audit(session, "export_created", export.id)
        row = exports.get(session, identity().site_id, export.id, trials=_trials())
    dispatch.dispatch()
    return row


def _send_now(wanted: ExportRequest) -> Response:
    with session_scope() as session:
        exports.require_small(session, wanted)
        audit(session, "results_downloaded", wanted.selection.batch_id)
    return send_stream(wanted)


# API


@downloads.get(f"{API}/results")
@needs(Permission.READ)
def results() -> Response:
    """Stream a table or a ZIP of what the query selects, if it is small."""
    said: dict[str, Any] = read_query(**dict.fromkeys(_FIELDS, str))
    for name in _LISTS:
        said[name] = said[name].split(",") if said[name] else None
    return _send_now(_export_request(said))


@downloads.post(f"{API}/exports")
@needs(Permission.READ)
def create_export() -> Response:
    """Have a file prepared in the background."""
    row = _create(_export_request(read_body()))
    response = jsonify(export_document(row))
    response.status_code = 202
    response.headers["Location"] = f"{API}/exports/{row.export.id}"
    return response


@downloads.get(f"{API}/exports")
@needs(Permission.READ)
def list_exports() -> Response:
    """List the site's files, the newest first."""
    read_query()
    with session_scope() as session:
        rows = exports.list_exports(session, identity().site_id, trials=_trials())
    return jsonify(items=[export_document(row) for row in rows], next=None)


@downloads.get(f"{API}/exports/<uuid:export_id>")
@needs(Permission.READ)
def get_export(export_id: uuid.UUID) -> Response:
    """Tell how far a file is."""
    read_query()
    with session_scope() as session:
        return jsonify(export_document(exports.get(session, identity().site_id, export_id, trials=_trials())))


@downloads.post(f"{API}/exports/<uuid:export_id>/cancel")
@needs(Permission.READ)
def cancel_export(export_id: uuid.UUID) -> Response:
    """End the preparation of a file, or delete it."""
    if read_body():
        raise InvalidRequest("this address takes no members")
    row = _cancel(export_id)
    response = jsonify(export_document(row))
    response.status_code = 202
    return response


def _cancel(export_id: uuid.UUID) -> ExportRow:
    with session_scope() as session:
        keys = exports.cancel(session, identity().site_id, export_id, trials=_trials())
        audit(session, "export_cancelled", export_id)
    for key in keys:
        get_blobs().delete(key)
    with session_scope() as session:
        return exports.get(session, identity().site_id, export_id, trials=_trials())


@downloads.get(f"{API}/exports/<uuid:export_id>/file")
@needs(Permission.READ)
def export_file(export_id: uuid.UUID) -> Response:
    """Answer the file; a download that broke off goes on where it stopped (Range)."""
    read_query()
    with session_scope() as session:
        export, key = exports.get_ready(session, identity().site_id, export_id, trials=_trials())
        audit(session, "export_downloaded", export_id)
    size, start = export.size or 0, 0
    byte_range = re.fullmatch(r"bytes=(\d{1,15})-", request.headers.get("Range", ""))
    known = request.headers.get("If-Range", "").strip('"')
    if byte_range and known in {"", export.sha256} and int(byte_range[1]) < size:
        start = int(byte_range[1])
    response = Response(get_blobs().stream(key, start=start), content_type=export.media_type)
    if byte_range and start:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    response.content_length = size - start
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Content-Disposition"] = f'attachment; filename="{export.name}"'
    response.set_etag(export.sha256 or "")
    return response


# page


@downloads.get("/downloads")
@is_watched(PAGE)
@needs(Permission.READ)
def page() -> str:
    """Show the files that are prepared or ready, and the form for another."""
    args = read_query(batch=str)
    with session_scope() as session:
        rows = [
            export_document(row)
            for row in exports.list_exports(session, identity().site_id, trials=_trials())
        ]
        recent = batches.list_batches(session, identity().site_id, limit=CHOICES).items
        chosen = None
        if args["batch"]:
            try:
                chosen = batches.get_batch(session, identity().site_id, uuid.UUID(args["batch"]))
            except ValueError:
                raise InvalidQuery("batch must be a batch's id") from None
    if chosen is not None and not sees_findings(chosen):
        raise FindingsWithheld
    offered = [batch for batch in recent if batch.submitted_at and sees_findings(batch)]
    if chosen is not None and chosen.id not in {batch.id for batch in offered}:
        offered.insert(0, chosen)
    return render_template(
        "downloads.html",
        exports=rows,
        moving=any(row["state"] in MOVING for row in rows),
        batches=offered,
        chosen=str(chosen.id) if chosen else "",
        formats=list(Format),
        zip_parts=list(Part),
        default_parts=DEFAULT_PARTS,
        columns=list(COLUMNS),
        default_columns=RESULT_COLUMNS,
    )


@downloads.post("/downloads")
@needs(Permission.READ)
def download() -> Response:
    """Send what the form asks for at once if it is small, else have it prepared."""
    said: dict[str, Any] = {name: request.form.get(name) for name in _FIELDS if name not in _LISTS}
    for name in _LISTS:
        said[name] = request.form.getlist(name) or None
    wanted = _export_request(said)
    with session_scope() as session:
        exports.check_batch(session, wanted)
        small = exports.is_small(session, wanted)
    if small:
        return _send_now(wanted)
    _create(wanted)
    return redirect(url_for("downloads.page"), 303)


@downloads.post("/downloads/<uuid:export_id>/cancel")
@needs(Permission.READ)
def cancel(export_id: uuid.UUID) -> Response:
    """Do what the button says."""
    _cancel(export_id)
    return redirect(url_for("downloads.page"), 303)
