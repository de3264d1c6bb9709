"""Takes uploads in: multipart parts stream to the blob store, hashed and measured on the way."""

from __future__ import annotations

import hashlib
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from flask import request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.sansio import multipart

from settings import Settings
from store.base.blobs import get_blobs
from store.base.errors import BlobFull, QuotaExceeded, ServiceError
from store.base.sealed_blobs import put_sealed
from store.base.session import session_scope
from store.intake import batches, quotas
from vocabulary.media import HEAD_BYTES, is_archive, is_zip, sniff
from vocabulary.reasons import Reason
from web.base.config import current_settings
from web.base.errors import InvalidRequest, MalformedForm, UnsupportedMediaType
from web.contract.batches import FileAnswer, FileCounts
from web.intake.archives import ArchiveRefused, Limits, is_ignored, open_members, printable
from web.intake.manifests import MAX_BYTES as MAX_MANIFEST_BYTES
from web.intake.manifests import read_manifest

CHUNK = 1 << 16
#: Of a form beside its files: fields, the characters of a name, the bytes of a value.
MAX_FIELDS, MAX_FIELD_NAME, MAX_FIELD = 64, 100, 4096
#: Bytes of a part's headers, and of a piece of the body that waits to be taken apart.
MAX_PART_HEADERS = 1 << 17
#: Rows written together: few enough to be kept soon, enough to be cheap.
GROUP = 200
GROUP_BYTES = 64 << 20
GROUP_SECONDS = 10.0


class Readable(Protocol):
    """Anything that gives its bytes in pieces."""

    def read(self, n: int = -1, /) -> bytes:
        """Return at most `n` bytes, none at the end."""


@dataclass(frozen=True)
class Field:
    """A plain field of a form."""

    name: str
    value: str


@dataclass(frozen=True)
class FilePart:
    """A file of a form; its bytes must be read before the next part is asked for."""

    name: str
    filename: str
    reader: Readable


class _PartReader:
    """The bytes of the current part, pulled from the request as they are asked for."""

    def __init__(self, events: Iterator[multipart.Event]) -> None:
        self._events = events
        self._buffer = b""
        self._more = True

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        while not self._buffer and self._more:
            event = next(self._events)
            if not isinstance(event, multipart.Data):
                raise MalformedForm
            self._buffer = event.data
            self._more = event.more_data
        size = len(self._buffer) if n < 0 else n
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece


def _events(stream: Readable, boundary: bytes, max_parts: int) -> Iterator[multipart.Event]:
    decoder = multipart.MultipartDecoder(boundary, MAX_PART_HEADERS, max_parts=max_parts)
    while True:
        try:
            event = decoder.next_event()
            if isinstance(event, multipart.NeedData):
                decoder.receive_data(stream.read(CHUNK) or None)
                continue
        except (ValueError, ClientDisconnected) as error:
            raise MalformedForm from error
        yield event
        if isinstance(event, multipart.Epilogue):
            return


#: The fields of a form whose values are files.
FILE_FIELDS = frozenset({"files", "manifest"})


def unknown_field(name: str) -> InvalidRequest:
    """Return what is wrong with a field that is no file, or that a form does not have."""
    if name in FILE_FIELDS:
        return InvalidRequest(
            f"{name!r} came as text, without a file name; send it as a file: curl -F '{name}=@PATH'"
        )
    return InvalidRequest(f"unknown field {name[:40]!r}; files are sent as 'files'")


def read_form(stream: Readable, boundary: str, max_parts: int) -> Iterator[Field | FilePart]:
    """Yield the parts of a multipart body one by one, reading no further than needed.

    Raises
    ------
    MalformedForm
        The body breaks off, or is not multipart.
    RequestEntityTooLarge
        There are more fields than a form has, or one that is longer.
    """
    events = _events(stream, boundary.encode("latin-1", "replace"), max_parts)
    fields = 0
    for event in events:
        if isinstance(event, multipart.File):
            reader = _PartReader(events)
            yield FilePart(event.name or "", event.filename, reader)
            while reader.read(CHUNK):
                pass
        elif isinstance(event, multipart.Field):
            fields += 1
            if fields > MAX_FIELDS or len(event.name or "") > MAX_FIELD_NAME:
                raise RequestEntityTooLarge
            value, reader = b"", _PartReader(events)
            while piece := reader.read(CHUNK):
                value += piece
                if len(value) > MAX_FIELD:
                    raise unknown_field(event.name) if event.name in FILE_FIELDS else RequestEntityTooLarge()
            yield Field(event.name or "", value.decode("utf-8", "replace"))


class _Measured:
    """Hashes and counts what is read through it; raises `ArchiveRefused` beyond the size of one file.

    `arrived` hears the size of the file so far, and may raise to end it.
    """

    def __init__(self, source: Readable, limit: int, arrived: Callable[[int], None] = lambda _: None) -> None:
        self._source = source
        self._limit = limit
        self._arrived = arrived
        self._digest = hashlib.sha256()
        self._head = b""
        self.size = 0

    def _pull(self, n: int) -> bytes:
        piece = self._source.read(n)
        self._digest.update(piece)
        self.size += len(piece)
        self._arrived(self.size)
        return piece

    def peek(self) -> bytes:
        """Return the first bytes; they are read again afterwards."""
        while len(self._head) < HEAD_BYTES and (piece := self._pull(CHUNK)):
            self._head += piece
        return self._head

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        if self._head:
            size = len(self._head) if n < 0 else n
            piece, self._head = self._head[:size], self._head[size:]
        else:
            piece = self._pull(n)
        if self.size > self._limit:
            raise ArchiveRefused(Reason.FILE_TOO_LARGE)
        return piece

    def drain(self) -> None:
        """Read to the end, for the hash of what is refused."""
        self._head = b""
        while self._pull(CHUNK):
            pass

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of all that was read so far."""
        return self._digest.hexdigest()


class Answers:
    """What became of each file, kept on disk when they are many, and told as one JSON document."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._spool = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 - see `close`

    def add(self, answer: batches.FileAnswer) -> None:
        """Note one answer."""
        if self.counts.total():
            self._spool.write(b",\n")
        self._spool.write(FileAnswer.of(answer).model_dump_json().encode())
        self.counts[answer.status] += 1

    def close(self) -> None:
        """Let go of the disk; safe to repeat."""
        self._spool.close()

    def stream(self) -> Iterator[bytes]:
        """Yield the document in pieces and let go of the disk."""
        self.counts["total"] = self.counts.total()
        counts = FileCounts(**{name: self.counts[name] for name in FileCounts.model_fields})
        with self._spool:
            self._spool.seek(0)
            yield b'{"files": [\n'
            while piece := self._spool.read(CHUNK):
                yield piece
            yield b'\n], "counts": ' + counts.model_dump_json().encode() + b"}\n"


class Intake:
    """Takes the files of one request into one draft; what was taken is kept when the block ends, even badly.

    Parameters
    ----------
    set_aside
        Bytes of the site's quota that the files had as one large file in pieces.

    Raises
    ------
    NotFound, BatchNotDraft, BlobFull, BlobUnavailable, QuotaExceeded
        From any method.
    """

    def __init__(
        self, site_id: uuid.UUID, batch_id: uuid.UUID, settings: Settings, *, set_aside: int = 0
    ) -> None:
        self._site_id = site_id
        self._batch_id = batch_id
        self._limits = Limits.of(settings)
        self._set_aside = set_aside
        self._pending: list[batches.NewFile] = []
        self._pending_bytes = 0
        self._pending_since = time.monotonic()
        self._group = get_blobs().group()
        self._room = self._room_left()
        self.answers = Answers()

    def __enter__(self) -> Intake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.flush()
            except BaseException:
                self.answers.close()
                raise
            finally:
                self._group.discard()
            return
        with suppress(ServiceError, SQLAlchemyError):
            self.flush()
        self._group.discard()
        self.answers.close()

    def _room_left(self) -> int | None:
        with session_scope() as session:
            left = quotas.room_left(session, self._site_id)
        return None if left is None else left + self._set_aside

    def _arrived(self, path: str, size: int) -> None:
        """Count what has arrived of the present file, whatever the request said beforehand.

        `add_files` looks again under the lock: this keeps the disk from being filled before.
        """
        if self._room is None or self._pending_bytes + size <= self._room:
            return
        self.flush()  # what was here already costs nothing
        self._room = self._room_left()
        if self._room is None or size <= self._room:
            return
        with session_scope() as session:
            again = size <= batches.largest_file(session, self._batch_id, path)
        if not again:
            raise QuotaExceeded(f"{size} bytes have come and {self._room} are left")

    def _measured(self, path: str, source: Readable) -> _Measured:
        return _Measured(source, self._limits.member_bytes, partial(self._arrived, path))

    def take(self, part: FilePart) -> None:
        """Take one file: an image, or a ZIP whose members are taken one by one."""
        path = printable(part.filename.replace("\\", "/").removeprefix("./"))
        source = self._measured(path, part.reader)
        head = source.peek()
        if not head and not part.filename:
            return  # a browser sends an empty part for an empty file field
        if is_ignored(path):
            source.drain()
            self.flush()  # the answers stand in the order of the files
            self.answers.add(batches.FileAnswer(path, "skipped", None, None, source.sha256, source.size))
        elif is_zip(head):
            self._take_archive(path, part.reader, head)
        else:
            self._take_image(path, source, inside_archive=False)

    def _take_archive(self, path: str, reader: Readable, head: bytes) -> None:
        digest, size = hashlib.sha256(), 0
        with tempfile.TemporaryFile() as file:
            piece = head
            while piece:
                try:
                    file.write(piece)
                except OSError as error:
                    raise BlobFull from error
                digest.update(piece)
                size += len(piece)
                piece = reader.read(CHUNK)
            try:
                for member in open_members(file, self._limits):
                    if member.reader is None:
                        self._note(
                            batches.NewFile(printable(member.path), "", member.size, None, member.reason)
                        )
                    else:
                        inner = printable(member.path)
                        source = self._measured(inner, member.reader)
                        self._take_image(inner, source, inside_archive=True)
            except ArchiveRefused as refused:
                self._note(batches.NewFile(path, digest.hexdigest(), size, None, refused.reason))

    def _take_image(self, path: str, source: _Measured, *, inside_archive: bool) -> None:
        key, reason = None, None
        try:
            head = source.peek()
            if not head:
                reason = Reason.EMPTY_FILE
            elif inside_archive and is_archive(head):
                reason = Reason.ARCHIVE_NESTED
            elif sniff(head) is None:
                reason = Reason.NOT_AN_IMAGE
            else:
                key = batches.new_incoming_key(self._batch_id)
                put_sealed(key, self._site_id, source, group=self._group)
        except ArchiveRefused as refused:
            key, reason = None, refused.reason
        sha256 = source.sha256
        if reason is not None:
            try:
                source.drain()
                sha256 = source.sha256
            except ArchiveRefused:
                sha256 = ""  # its bytes cannot be had to the end
        self._note(batches.NewFile(path, sha256, source.size, key, reason))

    def _note(self, file: batches.NewFile) -> None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append(file)
        self._pending_bytes += file.size
        waited = time.monotonic() - self._pending_since
        if len(self._pending) >= GROUP or self._pending_bytes >= GROUP_BYTES or waited > GROUP_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the files that were taken since the last time."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending:
            return
        try:
            self._group.keep()
        except ServiceError:
            self._forget(pending)
            raise
        with session_scope(on_rollback=lambda: self._forget(pending)) as session:
            answers = batches.add_files(
                session, self._batch_id, self._site_id, pending, set_aside=self._set_aside
            )
        self._room = self._room_left()
        self._forget([f for f, a in zip(pending, answers, strict=True) if a.status != "accepted"])
        for answer in answers:
            self.answers.add(answer)

    @staticmethod
    def _forget(files: list[batches.NewFile]) -> None:
        for file in files:
            if file.incoming_key is not None:
                with suppress(ServiceError):  # the sweep deletes what cannot be deleted now
                    get_blobs().delete(file.incoming_key)

    def take_manifest(self, part: FilePart) -> None:
        """Take the manifest. Raises `ManifestInvalid`; the files that came before it are kept."""
        self.flush()
        with tempfile.TemporaryFile() as file:
            size = 0
            while (piece := part.reader.read(CHUNK)) and size <= MAX_MANIFEST_BYTES:
                file.write(piece)
                size += len(piece)
            file.seek(0)
            rows = read_manifest(file)
        if rows:
            with session_scope() as session:
                batches.set_manifest(session, self._batch_id, self._site_id, rows)

    def take_part(self, part: FilePart) -> None:
        """Take a part by the name of its field. Raises `InvalidRequest` for an unknown one."""
        if part.name == "files":
            self.take(part)
        elif part.name == "manifest":
            if part.filename:
                self.take_manifest(part)
        else:
            raise unknown_field(part.name)


def multipart_parts() -> Iterator[Any]:
    """Yield the parts of the request's form as they arrive. Raises `UnsupportedMediaType`."""
    settings = current_settings()
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise UnsupportedMediaType
    request.max_content_length = settings.max_request_bytes
    return read_form(request.stream, boundary, settings.max_archive_members)
