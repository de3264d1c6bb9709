"""Opens an uploaded ZIP without trusting it: its members one by one, or why one of them is refused."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from settings import Settings
from store.tables import Reason

MAX_PATH = 1024
#: Below this size a member may unpack at any ratio: small flat pictures compress very well.
FREE_BYTES = 16 << 20

_END, _END64, _LOCATOR64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_IGNORED_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    ValueError,
    OverflowError,
)


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


class MemberReader:
    """Reads one member in pieces; raises `ArchiveRefused` when it is damaged or larger than allowed."""

    def __init__(self, source: IO[bytes], packed: int, limits: Limits, budget: Budget) -> None:
        self._source = source
        self._most = max(FREE_BYTES, limits.ratio * packed)
        self._limits = limits
        self._budget = budget
        self._size = 0

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        try:
            piece = self._source.read(min(n, 1 << 20) if n >= 0 else 1 << 20)
        except _BROKEN as error:
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT) from error
        self._size += len(piece)
        self._budget.spend(len(piece))
        if self._size > self._most:
            raise ArchiveRefused(Reason.ARCHIVE_BOMB)
        if self._size > self._limits.member_bytes:
            raise ArchiveRefused(Reason.FILE_TOO_LARGE)
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


def member_path(info: zipfile.ZipInfo) -> str:
    r"""Return the member's path with ``/`` between folders and its letters as they were meant.

    Many tools write UTF-8 without saying so, which `zipfile` reads as cp437; old Windows tools write ``\``.
    """
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.orig_filename
    return name.replace("\\", "/").removeprefix("./")


def _directory(file: IO[bytes]) -> tuple[int, int]:
    """Return where the central directory starts and how long it is, from the end-of-archive records."""
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
    real_start = (
        end - length
    )  # bytes may stand before the archive; the directory ends where the records start
    if real_start < 0 or real_start < start:
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
    return real_start, length


def _check_directory(file: IO[bytes], limits: Limits) -> None:
    """Walk the central directory in pieces and refuse one that is too long, before `zipfile` loads it whole.

    The number that the archive states of its own members is not believed.
    """
    at, left = _directory(file)
    if left > limits.members * (46 + MAX_PATH):
        raise ArchiveRefused(Reason.ARCHIVE_TOO_MANY)
    file.seek(at)
    n = 0
    while left > 0:
        head = file.read(46)
        if len(head) < 46 or head[:4] != _ENTRY:
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        more = sum(struct.unpack_from("<HHH", head, 28))
        file.seek(more, 1)
        left -= 46 + more
        n += 1
        if n > limits.members:
            raise ArchiveRefused(Reason.ARCHIVE_TOO_MANY)


def _overlaps(infos: list[zipfile.ZipInfo]) -> bool:
    """Tell whether two members share bytes: how a small archive unpacks to petabytes (Fifield 2019)."""
    spans = sorted((i.header_offset, i.header_offset + 30 + i.compress_size) for i in infos)
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def _refusal(info: zipfile.ZipInfo, path: str) -> Reason | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if is_unsafe(path):
        return Reason.ARCHIVE_UNSAFE_PATH
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return Reason.ARCHIVE_LINK
    if info.flag_bits & 0x2041:
        return Reason.ARCHIVE_ENCRYPTED
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return Reason.ARCHIVE_UNSUPPORTED  # the others unpack without a bound on memory
    return None


def open_members(file: IO[bytes], limits: Limits) -> Iterator[Member]:
    """Yield the files of a ZIP; folders and operating systems' litter are left out.

    Each member's bytes must be read before the next one is asked for.

    Raises
    ------
    ArchiveRefused
        The archive as a whole is damaged, a bomb, or has too many members.
    """
    try:
        _check_directory(file, limits)
        file.seek(0)
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        raise ArchiveRefused(Reason.ARCHIVE_CORRUPT) from error
    size = file.seek(0, 2)
    budget = Budget(limits.total_bytes)
    with archive:
        infos = archive.infolist()
        if any(not 0 <= i.header_offset < size for i in infos):
            raise ArchiveRefused(Reason.ARCHIVE_CORRUPT)
        if _overlaps(infos):
            raise ArchiveRefused(Reason.ARCHIVE_BOMB)
        for info in infos:
            path = member_path(info)
            if path.endswith("/") or is_ignored(path):
                continue
            reason = _refusal(info, path)
            if reason is not None:
                yield Member(path, info.file_size, None, reason)
                continue
            try:
                source = archive.open(info)
            except (*_BROKEN, RuntimeError):
                yield Member(path, info.file_size, None, Reason.ARCHIVE_CORRUPT)
                continue
            with source:
                yield Member(path, info.file_size, MemberReader(source, info.compress_size, limits, budget))
