"""A ZIP that is handed out piece by piece while it is written, in memory that does not grow."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

PIECE = 1 << 16


class Sink(io.RawIOBase):
    """Where a writer writes: what has come since the last `take`. It cannot seek back to patch."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def writable(self) -> bool:
        """Tell that it takes bytes."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes."""
        self._pieces += data
        return len(data)

    def __len__(self) -> int:
        return len(self._pieces)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._pieces)
        self._pieces.clear()
        return taken


class ZipStream:
    """A ZIP that is handed out while it is written, with the hash of every member."""

    def __init__(self, moment: datetime, members: IO[bytes]) -> None:
        self._sink = Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", allowZip64=True)
        self._moment = max(moment.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
        #: ``"name": "sha256"`` of every member so far, as JSON text: on disk when they are many.
        self.members = members
        self._count = 0

    def add(self, name: str, pieces: Iterator[bytes], *, compress: bool, size: int = 0) -> Iterator[bytes]:
        """Write one member from its pieces; yield the archive's bytes as they come.

        Pictures and PDFs are packed at level 0: as good as stored, but a reader that streams can find their
        end, which Java's cannot where a stored member's size follows it.
        """
        info = zipfile.ZipInfo(name, self._moment)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o100644 << 16
        info.file_size = size
        info._compresslevel = None if compress else 0  # type: ignore[attr-defined]
        digest = hashlib.sha256()
        with self._zip.open(info, "w", force_zip64=size > zipfile.ZIP64_LIMIT // 2) as member:
            yield self._sink.take()
            for piece in pieces:
                digest.update(piece)
                member.write(piece)
                if len(self._sink) >= PIECE:
                    yield self._sink.take()
        yield self._sink.take()
        comma = b",\n" if self._count else b""
        self.members.write(comma + f"{json.dumps(name)}: {json.dumps(digest.hexdigest())}".encode())
        self._count += 1

    def close(self) -> bytes:
        """Write the directory of the archive; return its last bytes."""
        self._zip.close()
        return self._sink.take()


def file_pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file from its beginning."""
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece
