"""Taking results away: streamed at once when small, prepared in the background when large; page and API."""

from __future__ import annotations

import re
import uuid

from flask import Blueprint, redirect, render_template, request, url_for
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
from store.results.results import COLUMNS, RESULT_COLUMNS, Selection
from web.auth.identity import audit, identity, needs
from web.base.binding import ETAG, LOCATION, Reply, operation, parse_form, read_body, read_query, send
from web.base.errors import InvalidQuery, InvalidRequest
from web.base.forms import form_on
from web.base.pacing import PAGE, is_watched
from web.base.sending import send_stream
from web.contract.base import API, Query
from web.contract.exports import Export, Exports, NewExport, ResultsQuery, TableQuery
from web.intake.actions import sees_findings

downloads = Blueprint("downloads", __name__)

#: Batches that the form offers; another one is named by its address.
CHOICES = 100
_TAG = "Taking results away"
MOVING = frozenset({ExportState.WAITING, ExportState.PREPARING})


class _OfBatch(Query):
    """The batch for which somebody came."""

    batch: uuid.UUID | None = None


def _trials() -> bool:
    return identity().may(Permission.RESEARCH)


def _export_request(said: NewExport | ResultsQuery) -> ExportRequest:
    selection = Selection(
        identity().site_id,
        said.batch,
        status=said.status and said.status.value,
        triage=said.triage and said.triage.value,
        region=(said.region or "").lower() or None,
        since=said.since,
        until=said.until,
        studies=tuple(dict.fromkeys(getattr(said, "studies", None) or ())),
        trials=_trials(),
        zone=identity().time_zone,
    )
    columns = tuple(dict.fromkeys(said.columns or RESULT_COLUMNS))
    parts = tuple(dict.fromkeys(said.parts or DEFAULT_PARTS))
    try:
        return ExportRequest(selection, said.format, columns, parts, bool(said.bom))
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


def _download(batch_id: uuid.UUID, kind: Format, *, bom: bool) -> Response:
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        if not sees_findings(batch):
            raise FindingsWithheld
        audit(session, f"results_{kind}_downloaded", batch.id)
    return send_stream(
        ExportRequest(Selection(identity().site_id, batch_id, trials=not batch.promoted), kind, bom=bom)
    )


# API


@downloads.get(f"{API}/batches/<uuid:batch_id>/results.csv")
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


@downloads.get(f"{API}/batches/<uuid:batch_id>/results.zip")
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


@downloads.get(f"{API}/results")
@operation(
    _TAG,
    "results",
    "Download a small table or ZIP of a batch, a filter or some days at once",
    {200: Reply("The file, streamed.", tuple(kind.media_type for kind in Format))},
    query=ResultsQuery,
)
@needs(Permission.READ)
def results(query: ResultsQuery) -> Response:
    """Stream a table or a ZIP of what the query selects, if it is small."""
    return _send_now(_export_request(query))


@downloads.post(f"{API}/exports")
@operation(
    _TAG,
    "createExport",
    "Have a file prepared in the background",
    {202: Reply("The file to be.", Export, LOCATION)},
    body=NewExport,
)
@needs(Permission.READ)
def create_export() -> Response:
    """Have a file prepared in the background."""
    row = _create(_export_request(read_body(NewExport)))
    return send(Export.of(row), 202, Location=f"{API}/exports/{row.export.id}")


@downloads.get(f"{API}/exports")
@operation(_TAG, "listExports", "List prepared files, the newest first", {200: Reply("All.", Exports)})
@needs(Permission.READ)
def list_exports() -> Exports:
    """List the site's files, the newest first."""
    return Exports(items=_exports())


def _exports() -> list[Export]:
    with session_scope() as session:
        rows = exports.list_exports(session, identity().site_id, trials=_trials())
    return [Export.of(row) for row in rows]


@downloads.get(f"{API}/exports/<uuid:export_id>")
@operation(_TAG, "getExport", "See how far a file is", {200: Reply("The file.", Export)})
@needs(Permission.READ)
def get_export(export_id: uuid.UUID) -> Export:
    """Tell how far a file is."""
    with session_scope() as session:
        return Export.of(exports.get(session, identity().site_id, export_id, trials=_trials()))


@downloads.post(f"{API}/exports/<uuid:export_id>/cancel")
@operation(
    _TAG,
    "cancelExport",
    "End the preparation of a file, or delete it",
    {202: Reply("The file as it is now.", Export)},
)
@needs(Permission.READ)
def cancel_export(export_id: uuid.UUID) -> Export:
    """End the preparation of a file, or delete it."""
    return Export.of(_cancel(export_id))


def _cancel(export_id: uuid.UUID) -> ExportRow:
    with session_scope() as session:
        keys = exports.cancel(session, identity().site_id, export_id, trials=_trials())
        audit(session, "export_cancelled", export_id)
    for key in keys:
        get_blobs().delete(key)
    with session_scope() as session:
        return exports.get(session, identity().site_id, export_id, trials=_trials())


@downloads.get(f"{API}/exports/<uuid:export_id>/file")
@operation(
    _TAG,
    "exportFile",
    "Fetch a file that is ready; Range: bytes=N- goes on where a download broke off",
    {
        200: Reply("The file.", ("application/octet-stream",), ETAG),
        206: Reply("The rest of it.", ("application/octet-stream",), ETAG),
    },
)
@needs(Permission.READ)
def export_file(export_id: uuid.UUID) -> Response:
    """Answer the file; a download that broke off goes on where it stopped (Range)."""
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
    args = read_query(_OfBatch)
    rows = _exports()
    with session_scope() as session:
        recent = batches.list_batches(session, identity().site_id, limit=CHOICES).items
        chosen = args.batch and batches.get_batch(session, identity().site_id, args.batch)
    if chosen is not None and not sees_findings(chosen):
        raise FindingsWithheld
    offered = [batch for batch in recent if batch.submitted_at and sees_findings(batch)]
    if chosen is not None and chosen.id not in {batch.id for batch in offered}:
        offered.insert(0, chosen)
    return render_template(
        "results/downloads.html",
        exports=rows,
        moving=any(row.state in MOVING for row in rows),
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
@form_on("downloads.page")
def download() -> Response:
    """Send what the form asks for at once if it is small, else have it prepared."""
    several = {name: request.form.getlist(name) for name in ("columns", "parts")}
    fields = {name: value for name, value in ({**request.form} | several).items() if value}
    wanted = _export_request(parse_form(NewExport, fields))
    with session_scope() as session:
        exports.check_batch(session, wanted)
        small = exports.is_small(session, wanted)
    if small:
        return _send_now(wanted)
    _create(wanted)
    return redirect(url_for("downloads.page"), 303)


@downloads.post("/downloads/<uuid:export_id>/cancel")
@needs(Permission.READ)
@form_on("downloads.page")
def cancel(export_id: uuid.UUID) -> Response:
    """Do what the button says."""
    _cancel(export_id)
    return redirect(url_for("downloads.page"), 303)
