"""The orientation that a plain picture states: EXIF, XMP, and EXIF as ImageMagick lays it into PNG text.

Written out here, in a few lines that read one field, because a parser of the whole of EXIF gives up on a
block that breaks off behind that field, and a picture on its side is read worse than one upright. The
decision stands in docs/adr/013-believing-the-stream.md.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable

_ORIENTATION = 274
#: Types of the field as TIFF 6.0 names them: BYTE, SHORT, LONG, and their signed brothers.
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
#: A profile in text: its name, of one word or two, its length, and its bytes as hexadecimal digits.
_PROFILE = re.compile(rb"\s*[^\n]*\n\s*\d+\s*\n(.*)", re.DOTALL)
#: More is no metadata of a radiograph.
_MAX_TEXT = 1 << 20


def from_exif(blocks: Iterable[bytes]) -> int:
    """Return the orientation, 1-8, that the first EXIF block to state a valid one does; 0 where none does."""
    return next((found for block in blocks if (found := _in_block(block))), 0)


def _in_block(block: bytes) -> int:
    """Orientation of one block, or 0: the entries of its first directory as far as they are there."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 0
    try:
        magic, at = struct.unpack_from(f"{order}HI", block, 2)
        (entries,) = struct.unpack_from(f"{order}H", block, at)
        for place in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, place)
            if tag == _ORIENTATION and magic == 42 and kind in _TYPES and count:
                # the value is short enough to stand in the entry, whatever count is stated
                value: int = struct.unpack_from(order + _TYPES[kind], block, place + 8)[0]
                if 1 <= value <= 8:
                    return value
    except struct.error:
        pass
    return 0


def from_xmp(packet: bytes) -> int:
    """Return the orientation that an XMP packet states, or 0."""
    found = _XMP.search(packet[:_MAX_TEXT])
    return int(found[1]) if found else 0


def from_png_text(kind: bytes, body: bytes) -> int:
    """Return the orientation that a text chunk of a PNG states (tEXt, zTXt, iTXt), or 0.

    Known are the XMP of the XMP specification, and the profiles that ImageMagick and ExifTool write as lines
    of hexadecimal digits, ``Raw profile type exif``, ``APP1`` and ``xmp``.
    """
    keyword, _, rest = body.partition(b"\0")
    try:
        if kind == b"iTXt":
            compressed, _, rest = rest[0], rest[1], rest[2:]
            _, _, rest = rest.partition(b"\0")
            _, _, rest = rest.partition(b"\0")
            text = _inflated(rest) if compressed else rest
        else:
            text = _inflated(rest[1:]) if kind == b"zTXt" else rest
    except (IndexError, zlib.error):
        return 0
    if keyword == b"XML:com.adobe.xmp":
        return from_xmp(text)
    if keyword.lower() not in {b"raw profile type exif", b"raw profile type app1", b"raw profile type xmp"}:
        return 0
    lines = _PROFILE.match(text)
    try:
        profile = bytes.fromhex(lines[1].decode("ascii")) if lines else b""
    except ValueError:  # UnicodeDecodeError is one
        return 0
    if profile.startswith(b"Exif\0\0") or profile[:2] in {b"II", b"MM"}:
        return from_exif([profile.removeprefix(b"Exif\0\0")])
    return from_xmp(profile)


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MAX_TEXT)
