"""Sending much over shaky lines: what is here already, and large files in pieces (tus 1.0).

https://tus.io/protocols/resumable-upload: core, creation, expiration, termination.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, cast

from flask import Blueprint, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.http import http_date
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.errors import OffsetConflict, QuotaExceeded
from store.base.sealed_blobs import put_sealed
from store.base.session import session_scope
from store.base.tables import Upload
from store.intake import quotas, uploads
from web.auth.identity import identity, is_public, needs
from web.base.binding import BYTES, LOCATION, TEXT, Content, Json, Reply, operation, read_body
from web.base.config import current_settings
from web.base.errors import InvalidRequest, UnsupportedMediaType
from web.contract.base import API
from web.contract.batches import AskedFiles, FileAnswers, KnownFile, KnownFiles
from web.intake.archives import printable
from web.intake.uploads import FilePart, Intake

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

resumable = Blueprint("resumable", __name__, url_prefix=API)

TUS_VERSION = "1.0.0"

_TAG = "Large files"
_TUS = {"Tus-Resumable": f"{TUS_VERSION}: this is the protocol of https://tus.io/protocols/resumable-upload."}
_OFFSET: Mapping[str, Json] = {"Upload-Offset": {"schema": TEXT}, "Upload-Expires": {"schema": TEXT}}
_OTHER_VERSION = {412: Reply("Tus-Resumable is missing or of another version; Tus-Version names ours.")}


@resumable.post("/batches/<uuid:batch_id>/known")
@operation(
    "Batches",
    "knownFiles",
    "Ask which files the draft has already, so that an upload goes on where it broke off",
    {200: Reply("Those of the files that this draft has.", KnownFiles)},
    body=AskedFiles,
)
@needs(Permission.SUBMIT)
def known(batch_id: uuid.UUID) -> KnownFiles:
    """Tell which files this draft has already, and refuse what goes beyond the site's quota.

    Of other batches, and of other sites, nothing is told.
    """
    body = read_body(AskedFiles)
    wanted = [(_path(file.filename), file.sha256) for file in body.files]
    with session_scope() as session:
        found = uploads.known_files(session, identity().site_id, batch_id, wanted)
        quotas.require_room(session, identity().site_id, body.bytes)
    return KnownFiles(files=[KnownFile.of(file) for file in found])


def _path(filename: str) -> str:
    return printable(filename.replace("\\", "/").removeprefix("./"))


# tus


class MethodOverride:
    """Takes a request for what ``X-HTTP-Method-Override`` names, as tus asks: some proxies pass only POST.

    Parameters
    ----------
    app
        What answers.
    """

    METHODS = frozenset({"PATCH", "DELETE", "HEAD"})

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        named = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE", "").upper()
        here = environ.get("PATH_INFO", "").startswith(f"{API}/uploads/")
        if here and environ["REQUEST_METHOD"] == "POST" and named in self.METHODS:
            environ["REQUEST_METHOD"] = named
        return self._app(environ, start_response)


def _answer(status: int, upload: Upload | None = None, **headers: str) -> Response:
    response = Response(status=status)
    response.headers["Tus-Resumable"] = TUS_VERSION
    response.headers["Cache-Control"] = "no-store"
    if upload is not None:
        response.headers["Upload-Offset"] = str(upload.offset)
        response.headers["Upload-Expires"] = http_date(upload.expires_at)
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def _speaks_tus() -> Response | None:
    """Return the refusal of a client that speaks another version."""
    if request.headers.get("Tus-Resumable") != TUS_VERSION:
        return _answer(412, Tus_Version=TUS_VERSION)
    return None


def _number(header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"\d{1,15}", text):
        raise InvalidRequest(f"{header} must be a number of bytes")
    return int(text)


def _metadata() -> dict[str, str]:
    """Read ``Upload-Metadata``: names, each with a value in Base64. Raises `InvalidRequest`."""
    found = {}
    for pair in request.headers.get("Upload-Metadata", "").split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            found[name] = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidRequest("Upload-Metadata must hold Base64 of UTF-8") from None
    return found


@resumable.route("/batches/<uuid:batch_id>/uploads", methods=["OPTIONS"], provide_automatic_options=False)
@is_public
def options(batch_id: uuid.UUID) -> Response:
    """Say what of tus this server speaks."""
    return _answer(
        204,
        Tus_Version=TUS_VERSION,
        Tus_Extension="creation,expiration,termination",
        Tus_Max_Size=str(current_settings().max_archive_bytes),
    )


@resumable.post("/batches/<uuid:batch_id>/uploads")
@operation(
    _TAG,
    "createUpload",
    "Announce a large file, to be sent in pieces (tus 1.0 creation)",
    {
        201: Reply("Send the pieces to Location.", headers={**_OFFSET, **LOCATION}),
        413: Reply("It is larger than Tus-Max-Size."),
        **_OTHER_VERSION,
    },
    headers={
        **_TUS,
        "Upload-Length": "Bytes of the whole file.",
        "Upload-Metadata": "filename and its path in Base64.",
    },
)
@needs(Permission.SUBMIT)
def create_upload(batch_id: uuid.UUID) -> Response:
    """Announce a large file; its pieces go to the address in Location."""
    with session_scope() as session:
        uploads.require_draft(session, identity().site_id, batch_id)
    if (refusal := _speaks_tus()) is not None:
        return refusal
    length = _number("Upload-Length")
    if length > current_settings().max_archive_bytes:
        return _answer(413, Tus_Max_Size=str(current_settings().max_archive_bytes))
    path = _path(_metadata().get("filename", ""))
    with session_scope() as session:
        upload = uploads.start_upload(
            session,
            site_id=identity().site_id,
            user_id=identity().user_id,
            batch_id=batch_id,
            path=path,
            length=length,
        )
    return _answer(201, upload, Location=f"{API}/uploads/{upload.id}")


@resumable.route("/uploads/<uuid:upload_id>", methods=["HEAD"], provide_automatic_options=False)
@needs(Permission.SUBMIT)
def upload_offset(upload_id: uuid.UUID) -> Response:
    """Say where to go on."""
    with session_scope() as session:
        upload = uploads.get_upload(session, identity().site_id, upload_id)
    return _answer(200, upload, Upload_Length=str(upload.length))


class _Body:
    """The request's bytes, at most `room` of them; what came before the connection broke is kept."""

    def __init__(self, stream: IO[bytes], room: int) -> None:
        self._stream = stream
        self._room = room
        self.too_long = False

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end or where the connection broke."""
        try:
            piece = self._stream.read(min(n, 1 << 16) if n > 0 else 1 << 16)
        except (ClientDisconnected, OSError):
            return b""
        self._room -= len(piece)
        self.too_long = self._room < 0
        return b"" if self.too_long else piece


@resumable.patch("/uploads/<uuid:upload_id>")
@operation(
    _TAG,
    "appendUpload",
    "Send a piece (tus 1.0 core); HEAD says where to go on",
    {204: Reply("Taken; the next piece starts at Upload-Offset.", headers=_OFFSET), **_OTHER_VERSION},
    headers={**_TUS, "Upload-Offset": "Where the piece starts."},
    body=Content("application/offset+octet-stream", BYTES),
)
@needs(Permission.SUBMIT)
def append(upload_id: uuid.UUID) -> Response:
    """Append bytes at Upload-Offset; what arrives of a request that breaks off is kept."""
    site_id = identity().site_id
    with session_scope() as session:
        upload = uploads.get_upload(session, site_id, upload_id)
        room = quotas.room_left(session, site_id)
    if (refusal := _speaks_tus()) is not None:
        return refusal
    if request.mimetype != "application/offset+octet-stream":
        raise UnsupportedMediaType
    offset = _number("Upload-Offset")
    if upload.offset != offset:
        raise OffsetConflict
    request.max_content_length = current_settings().max_request_bytes
    fits = room is None or room >= upload.length - offset
    body = _Body(cast(IO[bytes], request.stream), upload.length - offset if room is None or fits else room)
    key = uploads.new_piece_key(upload_id)
    size = put_sealed(key, site_id, body)
    if body.too_long or not size:
        get_blobs().delete(key)
    if body.too_long:
        raise OffsetConflict if fits else QuotaExceeded
    if size:
        with session_scope(on_rollback=lambda: uploads.discard(key)) as session:
            upload = uploads.add_piece(session, site_id, upload_id, offset=offset, key=key, size=size)
    return _answer(204, upload)


@resumable.delete("/uploads/<uuid:upload_id>")
@operation(
    _TAG,
    "deleteUpload",
    "Forget a large file (tus 1.0 termination)",
    {204: Reply("It is gone."), **_OTHER_VERSION},
    headers=_TUS,
)
@needs(Permission.SUBMIT)
def terminate(upload_id: uuid.UUID) -> Response:
    """Forget a large file."""
    with session_scope() as session:
        uploads.get_upload(session, identity().site_id, upload_id)
    if (refusal := _speaks_tus()) is not None:
        return refusal
    uploads.end_upload(identity().site_id, upload_id)
    return _answer(204)


@resumable.post("/uploads/<uuid:upload_id>/take")
@operation(
    _TAG,
    "takeUpload",
    "Take a file that has arrived whole into its draft, a ZIP member by member",
    {200: Reply("What became of each file.", FileAnswers)},
)
@needs(Permission.SUBMIT)
def take(upload_id: uuid.UUID) -> Response:
    """Take a file that has arrived whole into its draft, a ZIP member by member; repeating is safe."""
    site_id = identity().site_id
    with session_scope() as session:
        upload, reader = uploads.open_upload(session, site_id, upload_id)
        uploads.require_draft(session, site_id, upload.batch_id)
    with Intake(site_id, upload.batch_id, current_settings(), set_aside=upload.offset) as intake:
        intake.take(FilePart("files", upload.path, reader))
    uploads.end_upload(site_id, upload_id)
    response = Response(intake.answers.stream(), content_type="application/json")
    response.call_on_close(intake.answers.close)
    return response
