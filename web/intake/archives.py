r"""Opens an uploaded ZIP without trusting it: its members one by one, or why one of them is refused.

Read here and not by `zipfile`, which loads the whole directory on the archive's word, and refuses archives
that every other program opens: for one bad extra field, or for ``\`` in one of a name's two places.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from settings import Settings
from vocabulary.reasons import Reason

MAX_PATH = 1024
#: In UTF-8: a path is part of a key, and Postgres takes no key beyond 2,704 bytes.
MAX_PATH_BYTES = 2048
#: Below this size a member may unpack at any ratio: small flat pictures compress very well.
FREE_BYTES = 16 << 20

_END, _END64, _LOCATOR64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_LOCAL = b"PK\x03\x04"
_STORED, _DEFLATED = 0, 8
_UTF8, _ENCRYPTED = 0x800, 0x2041  # general purpose flags (APPNOTE 4.4.4)
_ZIP64 = 0x0001  # header id of the extra field with 64-bit sizes
_BEYOND_32_BITS = 0xFFFFFFFF
_PIECE = 1 << 16
_IGNORED_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})


class ArchiveRefused(Exception):
    """The archive or a member cannot be taken.

    Parameters
    ----------
    reason
        The stable code.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def printable(path: str) -> str:
    """Return a path that a database takes and a page shows: no control characters, no boundless length."""
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}" if ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF else c for c in path
    )
    return shown[-MAX_PATH:].encode()[-MAX_PATH_BYTES:].decode(errors="ignore") or "unnamed"


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to: members, bytes in all and of one member, ratio to the packed bytes."""

    members: int
    total_bytes: int
    member_bytes: int
    ratio: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the limits that the settings name."""
        return cls(
            settings.max_archive_members,
            settings.max_archive_bytes,
            settings.max_file_bytes,
            settings.max_archive_ratio,
        )


class Budget:
    """How many bytes the archive may still unpack to; counts real bytes, whatever the headers say."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self, n: int) -> None:
        """Count `n` bytes. Raises `ArchiveRefused`."""
        self.left -= n
        if self.left < 0:
            raise ArchiveRefused(Reason.ARCHIVE_BOMB)


@dataclass(frozen=True)
class _Entry:
    """What the central directory says of a member; `offset` counts from the file's beginning."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int


class MemberReader:
    """Reads one member in pieces; raises `ArchiveRefused` when it is damaged or larger than allowed."""

    def __init__(self, file: IO[bytes], start: int, entry: _Entry, limits: Limits, budget: Budget) -> None:
        self._file = file
        self._at, self._left = start, entry.packed
        self._entry = entry
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == _DEFLATED else None
        self._most = max(FREE_BYTES, limits.ratio * entry.packed)
        self._limits = limits
        self._budget = budget
        self._size = 0
        self._crc = 0

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        piece = self._next(min(n, 1 << 20) if n >= 0 else 1 << 20)
        self._size += len(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self._budget.spend(len(piece))
        ended = not piece and n != 0
        if self._size > self._entry.size or (
            ended and (self._size, self._crc) != (self._entry.size, self._entry.crc)
        ):
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        if self._size > self._most:
            raise ArchiveRefused(Reason.ARCHIVE_BOMB)
        if self._size > self._limits.member_bytes:
            raise ArchiveRefused(Reason.FILE_TOO_LARGE)
        return piece

    def _next(self, n: int) -> bytes:
        if self._inflater is None:
            return self._packed(n)
        waiting = self._inflater.unconsumed_tail
        while n and not self._inflater.eof:
            packed = waiting or self._packed(_PIECE)
            if not packed:
                raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
            try:
                piece = self._inflater.decompress(packed, n)
            except zlib.error as error:
                raise ArchiveRefused(Reason.ARCHIVE_CORRUPT) from error
            if piece:
                return piece
            waiting = self._inflater.unconsumed_tail
        return b""

    def _packed(self, n: int) -> bytes:
        self._file.seek(self._at)  # another member may have been looked at meanwhile
        piece = self._file.read(min(n, self._left))
        if not piece and n and self._left:
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        self._at += len(piece)
        self._left -= len(piece)
        return piece


@dataclass(frozen=True)
class Member:
    """One file of an archive: its path, and either its bytes to read or why it is refused."""

    path: str
    size: int
    reader: MemberReader | None
    reason: Reason | None = None


def is_ignored(path: str) -> bool:
    """Tell whether a path is litter of an operating system, not a file that a person sent."""
    parts = path.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].lower() in _IGNORED_NAMES or parts[-1].startswith("._")


def is_unsafe(path: str) -> bool:
    """Tell whether a path is absolute, leads upwards, holds control characters, or is beyond all measure."""
    parts = path.split("/")
    return (
        not path
        or len(path) > MAX_PATH
        or path.startswith("/")
        or re.match(r"[A-Za-z]:", path) is not None
        or ".." in parts
        or any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in path)
    )


def _name(raw: bytes, flags: int) -> str:
    r"""Return a member's path with ``/`` between folders and its letters as they were meant.

    Many tools write UTF-8 without saying so; what is neither said nor meant is cp437 (APPNOTE, appendix D).
    Old Windows tools write ``\``, some in one of the two places only: the directory's name counts.
    """
    try:
        name = raw.decode()
    except UnicodeError:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
    return name.replace("\\", "/").removeprefix("./")


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """Return where the central directory starts, how long it is, and how many bytes stand before the archive.

    It ends where the end-of-archive records start, whatever they say.
    """
    size = file.seek(0, 2)
    tail_at = max(0, size - (1 << 16) - 22)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
    length, start = struct.unpack_from("<LL", tail, at + 12)
    end = tail_at + at
    locator = at - 20
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR64:
        file.seek(max(0, end - 20 - 56))
        record = file.read(56)
        if record[:4] != _END64:
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        length, start = struct.unpack_from("<QQ", record, 40)
        end -= 20 + 56
    real_start = end - length
    if real_start < 0 or real_start < start:
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
    return real_start, length, real_start - start


def _entries(file: IO[bytes], limits: Limits) -> list[_Entry]:
    """Read the central directory piece by piece, at most as many members as are allowed.

    The number that the archive states of its own members is not believed.
    """
    at, left, before = _directory(file)
    if left > limits.members * (46 + MAX_PATH):
        raise ArchiveRefused(Reason.ARCHIVE_TOO_MANY)
    file.seek(at)
    found: list[_Entry] = []
    while left > 0:
        head = file.read(46)
        if len(head) < 46 or head[:4] != _ENTRY:
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        flags, method = struct.unpack_from("<HH", head, 8)
        crc, packed, size, named, extra, comment = struct.unpack_from("<LLLHHH", head, 16)
        attributes, offset = struct.unpack_from("<LL", head, 38)
        name = _name(file.read(named), flags)
        size, packed, offset = _sizes(file.read(extra), size, packed, offset)
        file.seek(comment, 1)
        left -= 46 + named + extra + comment
        found.append(_Entry(name, flags, method, crc, packed, size, attributes >> 16, before + offset))
        if len(found) > limits.members:
            raise ArchiveRefused(Reason.ARCHIVE_TOO_MANY)
    return found


def _sizes(extra: bytes, *stated: int) -> tuple[int, ...]:
    """Return size, packed size and offset, from the ZIP64 field where they do not fit 32 bits.

    Extra fields are advice of many programs; a malformed one condemns neither the others nor the archive.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64:
            large = iter(struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            return tuple(next(large, (n,))[0] if n == _BEYOND_32_BITS else n for n in stated)
        at += 4 + length
    return stated


def _overlaps(entries: list[_Entry]) -> bool:
    """Tell whether two members share bytes: how a small archive unpacks to petabytes (Fifield 2019)."""
    spans = sorted((e.offset, e.offset + 30 + e.packed) for e in entries)
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def _refusal(entry: _Entry) -> Reason | None:
    kind = stat.S_IFMT(entry.mode)
    if is_unsafe(entry.name):
        return Reason.ARCHIVE_UNSAFE_PATH
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return Reason.ARCHIVE_LINK
    if entry.flags & _ENCRYPTED:
        return Reason.ARCHIVE_ENCRYPTED
    if entry.method not in {_STORED, _DEFLATED}:
        return Reason.ARCHIVE_UNSUPPORTED  # the others unpack without a bound on memory
    return None


def _data_start(file: IO[bytes], entry: _Entry) -> int | None:
    """Return where a member's data begin, or None where no local header stands."""
    file.seek(entry.offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != _LOCAL:
        return None
    named, extra = struct.unpack_from("<HH", head, 26)
    return int(entry.offset + 30 + named + extra)


def open_members(file: IO[bytes], limits: Limits) -> Iterator[Member]:
    """Yield the files of a ZIP; folders and operating systems' litter are left out.

    Raises
    ------
    ArchiveRefused
        The archive as a whole is damaged, a bomb, or has too many members.
    """
    try:
        entries = _entries(file, limits)
    except (struct.error, OverflowError, ValueError) as error:
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT) from error
    size = file.seek(0, 2)
    if any(not 0 <= entry.offset < size for entry in entries):
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
    if _overlaps(entries):
        raise ArchiveRefused(Reason.ARCHIVE_BOMB)
    budget = Budget(limits.total_bytes)
    for entry in entries:
        if entry.name.endswith("/") or is_ignored(entry.name):
            continue
        reason = _refusal(entry)
        start = _data_start(file, entry) if reason is None else None
        if start is None:
            yield Member(entry.name, entry.size, None, reason or Reason.ARCHIVE_CORRUPT)
        else:
            yield Member(entry.name, entry.size, MemberReader(file, start, entry, limits, budget))
