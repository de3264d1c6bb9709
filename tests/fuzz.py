"""Mutates films of every kind for a while and holds what comes out against three rules.

``nice python -m tests.fuzz --minutes 60 [--seed 1] [--keep FOLDER]``. A file is read, refused or skipped: no
crash, no other error, no more than `SECONDS`. What is kept of it reads to the same picture. A picture that
differs from the film's by more than `DIFFERENCE` carries a flag that forbids *negative*, or an independent
reader (pydicom, Pillow) makes the same picture of the file: then it is another film, and nothing in it says
otherwise. All other pictures are printed, to be looked at, and kept in FOLDER beside the film that they were.

Half of the changes are made to the structure: an element gets another value, representation or place, a
segment or chunk goes or comes twice; the other half to bytes wherever they stand.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageOps
from pydicom.dataelem import RawDataElement

from pipeline.decode.complaints import codecs
from pipeline.decode.picture import decode
from pipeline.preprocess import model_input
from pipeline.triage import may_be_negative
from pipeline.types import Rejected, Skipped
from tests.films import films, independent

#: Of processor time.
SECONDS = 20.0
#: Mean grey levels, as the network gets both pictures, after a straight line through them.
DIFFERENCE = 12.0
_MAX_PIXELS = 2_000_000
_SIDE = 160
_VALUES = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xd9",
    b"\xff\x7f",
    b"0",
    b"9",
    b",",
    b"\\",
    b"-",
)


#: What a header's value may be changed to.
_HEADER_VALUES = (
    *(struct.pack("<H", n) for n in (0, 1, 2, 7, 8, 12, 15, 16, 60, 120, 131, 160, 320, 65535)),
    *(b"0", b"-1", b"1", b"1,5", b"0.001", b"1e9", b"4096", b"1\\2", b"2048\\abc", b"nan", b""),
    *(b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"PALETTE COLOR", b"SIGMOID"),
    *(
        b"1.2.840.10008.1.2" + end
        for end in (b"", b".1", b".1.99", b".2", b".5", b".4.50", b".4.70", b".4.90")
    ),
)


def corpus() -> dict[str, bytes]:
    """Return a film of every kind: DICOM in every pair of properties, and plain pictures."""
    found = {film.name: film.data for film in films()}
    grey = decode(next(iter(found.values())), max_pixels=_MAX_PIXELS, pseudonymise=str).pixels
    for ending, options in (
        (".png", []),
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".tif", []),
        (".webp", []),
    ):
        found[f"{ending} {options}"] = cv2.imencode(ending, grey, options)[1].tobytes()
    return found


def mutated(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change a file in one to three places; return also how."""
    how = []
    for _ in range(rng.randint(1, 3)):
        data, what = _restructured(data, rng) if rng.random() < 0.5 else _bytes_changed(data, rng)
        how.append(what)
    return data, ", ".join(how)


def _bytes_changed(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    at = rng.randrange(min(len(data), rng.choice((700, 2000, len(data)))))
    value = rng.choice(_VALUES) if rng.random() < 0.6 else rng.randbytes(rng.randint(1, 4))
    what = rng.choice(("set", "set", "set", "insert", "delete", "cut", "repeat"))
    where = "picture" if at > _picture_starts(data) else "header"
    if what == "set":
        data = data[:at] + value + data[at + len(value) :]
    elif what == "insert":
        data = data[:at] + value + data[at:]
    elif what == "delete":
        data = data[:at] + data[at + len(value) :]
    elif what == "repeat":
        data = data[:at] + data[at : at + 400] + data[at:]
    elif at > 1000:
        data = data[:at]
    return data, f"{what} in {where} at {at}"


def _picture_starts(data: bytes) -> int:
    marks = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10", b"IDAT", b"\xff\xda", b"VP8 ")
    return next((at for mark in marks if (at := data.find(mark)) > 0), 0)


def _restructured(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change one element, chunk or segment; bytes where the file has none any more."""
    way: Callable[[bytes, random.Random], tuple[bytes, str]]
    if data[128:132] == b"DICM":
        way = _element_changed
    elif data.startswith(b"\x89PNG"):
        way = _chunk_changed
    elif data.startswith(b"\xff\xd8"):
        way = _segment_changed
    else:
        return _bytes_changed(data, rng)
    try:
        return way(data, rng)
    except Exception:  # it is broken already
        return _bytes_changed(data, rng)


def _element_changed(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    film = pydicom.dcmread(io.BytesIO(data))
    group = film.file_meta if rng.random() < 0.1 else film
    tag = rng.choice(list(group.keys()))
    element = group.get_item(tag)
    name = pydicom.datadict.keyword_for_tag(tag) or str(tag)
    if not isinstance(element, RawDataElement) or rng.random() < 0.15:
        del group[tag]
        what = f"without {name}"
    else:
        value = rng.choice((*_HEADER_VALUES, bytes(len(element.value or b"")), rng.randbytes(2)))
        value += b"\0" * (len(value) % 2)
        group[tag] = element._replace(value=value, length=len(value))
        what = f"{name} = {value[:12]!r}"
    out = io.BytesIO()
    film.save_as(out)
    return out.getvalue(), what


def _chunk_changed(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    what = rng.choice(("without", "twice", "changed"))
    if what == "changed" and body:
        place = rng.randrange(len(body))
        chunks[number] = kind, body[:place] + rng.randbytes(1) + body[place + 1 :]
    else:
        chunks[number : number + 1] = [] if what == "without" else [chunks[number]] * 2
    parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:8] + b"".join(parts), f"{what} {kind!r}"


def _segment_changed(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    ends, at = [], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        ends.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    start = rng.choice(ends)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    what = rng.choice(("without", "twice", "changed"))
    if what == "changed":
        place = rng.randrange(start + 4, end)
        changed = data[:place] + rng.randbytes(1) + data[place + 1 :]
    else:
        changed = data[:start] + (b"" if what == "without" else data[start:end] * 2) + data[end:]
    return changed, f"{what} {data[start + 1]:02x}"


def difference(pixels: npt.NDArray[np.uint8], film: npt.NDArray[np.uint8]) -> float:
    """Return by how many grey levels two pictures differ, whatever window each was shown in."""
    ours, theirs = (model_input(p, _SIDE).astype(float).ravel() for p in (pixels, film))
    if ours.std() > 1:
        slope, offset = np.polyfit(ours, theirs, 1)
        if 0.4 <= slope <= 2.5:
            ours = ours * slope + offset
    return float(np.abs(ours - theirs).mean())


def check(data: bytes, film: npt.NDArray[np.uint8]) -> tuple[str, str]:
    """Return what became of a file, and what is wrong with that."""
    began = time.process_time()  # others may have the machine
    try:
        found = decode(data, max_pixels=_MAX_PIXELS, pseudonymise=str)
    except Rejected as verdict:
        return f"refused: {verdict.reason.value}", ""
    except Skipped:
        return "skipped", ""
    except Exception:
        return "error", traceback.format_exc()
    if (took := time.process_time() - began) > SECONDS:
        return "read", f"took {took:.0f} seconds of processor time"
    try:
        again = decode(found.stored, max_pixels=_MAX_PIXELS, pseudonymise=str)
    except (Rejected, Skipped) as verdict:
        return "read", f"what is kept is not read: {verdict.reason.value}"
    if not np.array_equal(again.pixels, found.pixels):
        return "read", "what is kept reads to another picture"
    if not may_be_negative(found.flags):
        return "read and flagged", ""
    off = difference(found.pixels, film)
    if off <= DIFFERENCE:
        return "read", ""
    theirs = _independently(data)
    if theirs is not None and difference(found.pixels, theirs) <= DIFFERENCE:
        return "another film, read as the independent reader does", ""
    return "another picture, not flagged", f"off by {off:.0f}"


def _independently(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the picture that pydicom or Pillow makes of a file, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if data[128:132] == b"DICM":
                return np.clip(np.rint(independent(data)), 0, 255).astype(np.uint8)
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(ImageOps.exif_transpose(picture).convert("L"), np.uint8)
    except Exception:
        return None


def main() -> int:
    """Print what came of the files, and each that broke a rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder in which what is printed is kept")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    sys.stderr = os.fdopen(os.dup(2), "w")
    codecs.start()
    warnings.simplefilter("ignore")  # pydicom's, of the films it writes and reads
    files = corpus()
    pictures = {n: decode(d, max_pixels=_MAX_PIXELS, pseudonymise=str).pixels for n, d in files.items()}
    names, counts, broken, changed = list(files), Counter[str](), 0, 0
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        name = rng.choice(names)
        data, how = mutated(files[name], rng)
        became, wrong = check(data, pictures[name])
        counts[became] += 1
        if wrong:
            another = became.startswith("another")
            changed, broken = changed + another, broken + (not another)
            place = ""
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                place = f"{sum(counts.values()):06}: "
                (options.keep / f"{place[:6]}.bin").write_bytes(data)
                (options.keep / f"{place[:6]}.film").write_bytes(files[name])
            print(f"{place}{became}: {name}: {how}: {wrong}", flush=True)
    total = sum(counts.values())
    print(f"{total} files of {len(files)} kinds: {broken} broke a rule, {changed} to be looked at")
    for became, count in counts.most_common():
        print(f"{count:8} {became}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
