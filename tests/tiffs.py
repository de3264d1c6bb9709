"""TIFF files made by hand, entry by entry, for what no library would write."""

from __future__ import annotations

import struct


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """Return an entry of a TIFF directory."""
    return struct.pack("<HHII", tag, kind, count, value)


def tiff(*directories: list[bytes], behind: bytes = b"") -> bytes:
    """Return a little-endian TIFF of directories one behind the other, and then `behind`."""
    data = struct.pack("<2sHI", b"II", 42, 8)
    for number, entries in enumerate(directories):
        body = struct.pack("<H", len(entries)) + b"".join(entries)
        last = number == len(directories) - 1
        data += body + struct.pack("<I", 0 if last else len(data) + len(body) + 4)
    return data + behind
