"""STOW-RS (PS3.18, 10.5): DICOM objects by HTTP, kept as those are that come by C-STORE."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import IO, Any

from flask import Blueprint, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Response

from pipeline.dicom.elements import UID, DicomFile, HeaderUnreadable, split_file
from store.accounts.accounts import Permission
from store.base.errors import BlobFull, NotFound, QuotaExceeded, ServiceError
from store.base.session import is_unavailable
from store.intake import received
from store.intake.received import ObjectRefused, Refusal, Source
from web.auth.identity import identity, needs
from web.base.config import current_settings
from web.base.errors import MalformedForm, UnsupportedMediaType
from web.intake.uploads import CHUNK, MAX_PART_HEADERS, Readable

dicomweb = Blueprint("dicomweb", __name__, url_prefix="/dicom-web")

#: FailureReason (0008,1197) of what may be sent again.
OUT_OF_RESOURCES, PROCESSING_FAILURE = 0xA700, 0x0110
_MAX_PREAMBLE = 1 << 16
#: Objects of one request: a part of nothing takes ten bytes, and each is answered.
MAX_OBJECTS = 10_000


class _Parts:
    """The parts of a ``multipart/related`` body (RFC 2387), one after the other as they arrive.

    A part lies in a temporary file, and is seen through memory that the system may take back.

    Parameters
    ----------
    most
        Bytes of one part.
    """

    def __init__(self, stream: Readable, boundary: bytes, most: int) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary
        self._most = most
        self._buffer = bytearray(b"\r\n")

    def _fill(self) -> None:
        try:
            piece = self._stream.read(CHUNK)
        except ClientDisconnected:
            piece = b""
        if not piece:
            raise MalformedForm
        self._buffer += piece

    def _until(self, mark: bytes, most: int) -> bytes:
        """Take what comes before `mark`, and the mark. Raises `RequestEntityTooLarge`, `MalformedForm`."""
        looked = 0
        while (at := self._buffer.find(mark, looked)) < 0:
            looked = max(0, len(self._buffer) - len(mark))
            if looked > most:
                raise RequestEntityTooLarge
            self._fill()
        taken = bytes(memoryview(self._buffer)[:at])
        del self._buffer[: at + len(mark)]
        return taken

    def _spool(self, file: IO[bytes]) -> None:
        """Move what comes before the next delimiter to a file. Raises as `_until` does."""
        size = 0
        while (at := self._buffer.find(self._delimiter)) < 0:
            ready = max(0, len(self._buffer) - len(self._delimiter))
            file.write(memoryview(self._buffer)[:ready])
            del self._buffer[:ready]
            size += ready
            if size > self._most:
                raise RequestEntityTooLarge
            self._fill()
        file.write(memoryview(self._buffer)[:at])
        del self._buffer[: at + len(self._delimiter)]
        if size + at > self._most:
            raise RequestEntityTooLarge
        file.flush()

    def __iter__(self) -> Iterator[bytes | mmap]:
        self._until(self._delimiter, _MAX_PREAMBLE)
        n = 0
        while self._next_two() != b"--":
            if (n := n + 1) > MAX_OBJECTS:
                raise RequestEntityTooLarge
            self._until(b"\r\n", MAX_PART_HEADERS)  # the rest of the delimiter's line
            if self._next_two() == b"\r\n":  # no headers
                del self._buffer[:2]
            else:
                self._until(b"\r\n\r\n", MAX_PART_HEADERS)
            with TemporaryFile() as file:
                self._spool(file)
                if not file.tell():
                    yield b""
                    continue
                yield mmap(file.fileno(), 0, access=ACCESS_READ)  # closed when nobody sees it any more

    def _next_two(self) -> bytes:
        while len(self._buffer) < 2:
            self._fill()
        return bytes(self._buffer[:2])


def _objects() -> Iterator[bytes | mmap]:
    """Yield the files of the request. Raises `UnsupportedMediaType`."""
    settings = current_settings()
    boundary = request.mimetype_params.get("boundary", "")
    kind = (request.mimetype, request.mimetype_params.get("type", "application/dicom").lower())
    if kind != ("multipart/related", "application/dicom") or not 1 <= len(boundary) <= 200:
        raise UnsupportedMediaType("multipart/related; type=application/dicom")
    request.max_content_length = settings.max_request_bytes
    return iter(_Parts(request.stream, boundary.encode("latin-1", "replace"), settings.max_file_bytes))


def _ui(value: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [value]}


class _Told:
    """What became of each object, as the store instances response (PS3.18, I.2)."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []

    def add(self, found: DicomFile | None, failure: int | None) -> None:
        """Note one object; without `failure` it is kept."""
        item: dict[str, Any] = {}
        if found is not None and UID.fullmatch(found.sop_class) and UID.fullmatch(found.sop_uid):
            item = {"00081150": _ui(found.sop_class), "00081155": _ui(found.sop_uid)}
        if failure is None:
            self.stored.append(item)
        else:
            self.failed.append({**item, "00081197": {"vr": "US", "Value": [failure]}})

    def answer(self) -> Response:
        """Return 200 where all are kept, 202 where some are, 409 where none is."""
        told = {}
        if self.stored:
            told["00081199"] = {"vr": "SQ", "Value": self.stored}
        if self.failed:
            told["00081198"] = {"vr": "SQ", "Value": self.failed}
        status = 200 if not self.failed else 202 if self.stored else 409
        return Response(json.dumps(told), status, content_type="application/dicom+json")


def _keep(
    source: Source, data: bytes | mmap, study_uid: str | None, studies: set[uuid.UUID], told: _Told
) -> None:
    found: DicomFile | None = None
    failure: int | None = None
    try:
        found = split_file(data)
        arrival = received.keep(
            source,
            found.dataset,
            found.syntax,
            sop_class=found.sop_class,
            sop_uid=found.sop_uid,
            study_uid=study_uid,
        )
        if arrival.study is not None:
            studies.add(arrival.study)
    except HeaderUnreadable:
        failure = Refusal.UNREADABLE.status
    except ObjectRefused as refused:
        failure = refused.refusal.status
    except NotFound:
        raise
    except (BlobFull, QuotaExceeded):
        failure = OUT_OF_RESOURCES
    except ServiceError:
        failure = PROCESSING_FAILURE
    except SQLAlchemyError as error:
        if not is_unavailable(error):
            raise
        failure = PROCESSING_FAILURE
    told.add(found, failure)


@dicomweb.post("/studies")
@needs(Permission.SUBMIT)
def store() -> Response:
    """Keep the objects of one request."""
    return _store(None)


@dicomweb.post("/studies/<study_uid>")
@needs(Permission.SUBMIT)
def store_study(study_uid: str) -> Response:
    """Keep the objects of one request; those of another study are refused."""
    return _store(study_uid)


def _store(study_uid: str | None) -> Response:
    source = Source(identity().site_id, "DICOMweb")
    studies: set[uuid.UUID] = set()
    told = _Told()
    try:
        for data in _objects():
            _keep(source, data, study_uid, studies, told)
    finally:
        received.sending_ended(source.site_id, studies)
    return told.answer()
