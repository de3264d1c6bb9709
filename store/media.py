"""What a file is, by its first bytes alone, without any image library: for the process that takes uploads."""

from __future__ import annotations

from pipeline.media import sniff

__all__ = ["HEAD_BYTES", "is_archive", "is_zip", "sniff"]

HEAD_BYTES = 4096

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OTHER_ARCHIVES = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
)


def is_zip(head: bytes) -> bool:
    """Tell whether the file is a ZIP archive."""
    return head.startswith(_ARCHIVES)


def is_archive(head: bytes) -> bool:
    """Tell whether the file is an archive of any kind: inside a ZIP none is opened."""
    return is_zip(head) or head.startswith(_OTHER_ARCHIVES) or head[257:262] == b"ustar"
