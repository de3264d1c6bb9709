"""What Pillow and tifffile make of the structure of odd EXIF, TIFF and JPEG, beside our own walkers.

``python -m bench.parsers`` prints the tables of docs/adr/024-own-walkers.md: what each finds, and how long it
takes where that is more than a twentieth of a second.
"""

from __future__ import annotations

import io
import logging
import struct
import sys
import time
import warnings
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import tifffile
from PIL import Image

from pipeline.decode.containers import describe
from pipeline.decode.orientation import from_exif
from pipeline.types import Rejected

_SLOW = 0.05
_ORIENTATION = 274
_HEIGHT, _WIDTH = 96, 128


def exif(
    *entries: tuple[int, int, int, int], count: int | None = None, behind: bytes = bytes(4), cut: int = 0
) -> bytes:
    """Return an EXIF block of entries (tag, type, count, value), perhaps with another count."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    block = struct.pack("<2sHIH", b"II", 42, 8, len(entries) if count is None else count) + body + behind
    return block[: len(block) - cut]


def tiff(*entries: tuple[int, int, int, int], behind: bytes = bytes(4), **other: int) -> bytes:
    """Return a grey TIFF of one strip, with further entries."""
    size = _HEIGHT * _WIDTH
    fields = {256: _WIDTH, 257: _HEIGHT, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: _HEIGHT, 279: size}
    all_of_them = sorted([*((tag, 4, 1, value) for tag, value in fields.items()), *entries])
    body = b"".join(struct.pack("<HHII", *entry) for entry in all_of_them)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + size)
        + bytes(size)
        + struct.pack("<H", len(all_of_them))
        + body
        + behind
    )


def busy() -> bytes:
    """Return a TIFF of three directories that each name a million offsets, again and again."""
    entry, data = struct.pack("<HHII", 273, 4, 1_000_000, 8), struct.pack("<2sHI", b"II", 42, 8)
    for last in (False, False, True):
        body = struct.pack("<H", 60_000) + entry * 60_000
        data += body + struct.pack("<I", 0 if last else len(data) + len(body) + 4)
    return data + bytes(4_000_000)


def jpeg(*options: int) -> bytes:
    """Return a JPEG."""
    down, across = np.mgrid[:_HEIGHT, :_WIDTH]
    picture = (128 + 90 * np.sin(across / 19) * np.cos(down / 17)).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", picture, list(options))[1])


_TURNED = (_ORIENTATION, 3, 1, 6)
EXIF: Mapping[str, bytes] = {
    "as it should be": exif(_TURNED),
    "breaks off behind the field": exif(_TURNED, (0x8769, 4, 1, 9999), cut=10),
    "without the offset of a next directory": exif(_TURNED, behind=b""),
    "too many entries stated": exif(_TURNED, count=5000),
    "a field of 60,000 values": exif((_ORIENTATION, 3, 60_000, 6)),
    "an invalid value, then a valid one": exif((_ORIENTATION, 3, 1, 0), _TURNED),
    "5,400 times a field of 60,000 bytes": exif(*[(_ORIENTATION + 1, 2, 60_000, 8)] * 5400, behind=b""),
}
TIFF: Mapping[str, bytes] = {
    "as it should be": tiff(),
    "without the offset of a next directory": tiff(behind=b""),
    "the next directory beyond the file": tiff(behind=b"\xff" * 4),
    "strip beyond the file": tiff()[: 8 + _HEIGHT * _WIDTH // 2] + tiff()[8 + _HEIGHT * _WIDTH :],
    "its width stated twice": tiff((256, 4, 1, 7)),
    "a million offsets stated, again and again": busy(),
}
_PROGRESSIVE = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
JPEG: Mapping[str, bytes] = {
    "as it should be": jpeg(),
    "stray bytes before a table": jpeg().replace(b"\xff\xc4", b"\0\1\2\xff\xc4", 1),
    "without its end": jpeg()[:-2],
    "cut in half and closed": jpeg()[: len(jpeg()) // 2] + b"\xff\xd9",
    "progressive, without its last scan": _PROGRESSIVE[: _PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9",
}


def own_orientation(block: bytes) -> str:
    """As the product reads it."""
    return str(from_exif([block]))


def pillow_orientation(block: bytes) -> str:
    """As Pillow reads it."""
    found = Image.Exif()
    found.load(b"Exif\0\0" + block)
    return str(found.get(_ORIENTATION, 0))


def tifffile_orientation(block: bytes) -> str:
    """As tifffile reads it."""
    with tifffile.TiffFile(io.BytesIO(block)) as file:
        return str(int(file.pages[0].tags.valueof(_ORIENTATION, 0)))


def own_size(data: bytes) -> str:
    """Size of a picture as the product's walkers state it."""
    found = describe(data, "image/jpeg" if data[:2] == b"\xff\xd8" else "image/tiff")
    return f"{found.width} x {found.height}{', flagged' if found.damaged else ''}"


def pillow_size(data: bytes) -> str:
    """Size of a picture as Pillow states it before it decodes."""
    with Image.open(io.BytesIO(data)) as picture:
        return f"{picture.width} x {picture.height}"


def pillow_decoded(data: bytes) -> str:
    """Size of a picture once Pillow has decoded it."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return f"{picture.width} x {picture.height}"


def tifffile_size(data: bytes) -> str:
    """Size of a picture as tifffile states it."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        return f"{page.shape[1]} x {page.shape[0]}" if len(file.pages) else "nothing"


def said(reader: Callable[[bytes], str], data: bytes) -> str:
    """Return what a reader finds or raises, and how long it takes if that is long."""
    began = time.process_time()
    try:
        found = reader(data)
    except Rejected as verdict:
        found = f"refused, `{verdict.reason.value}`"
    except Exception as error:
        found = f"`{type(error).__name__}`"
    took = time.process_time() - began
    return found + (f", {took:.1f} s" if took > _SLOW else "")


def main() -> int:
    """Print the tables."""
    warnings.simplefilter("ignore")
    logging.disable()
    tables: tuple[tuple[str, Mapping[str, bytes], dict[str, Callable[[bytes], str]]], ...] = (
        (
            "EXIF: the orientation",
            EXIF,
            {"ours": own_orientation, "Pillow": pillow_orientation, "tifffile": tifffile_orientation},
        ),
        ("TIFF: the size", TIFF, {"ours": own_size, "Pillow": pillow_size, "tifffile": tifffile_size}),
        (
            "JPEG: the size",
            JPEG,
            {"ours": own_size, "Pillow": pillow_size, "Pillow, decoding": pillow_decoded},
        ),
    )
    for title, kinds, readers in tables:
        print(f"| {title} |", " | ".join(readers), "|")
        print("|---|" + "---|" * len(readers))
        for name, data in kinds.items():
            print(f"| {name} |", " | ".join(said(reader, data) for reader in readers.values()), "|")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
