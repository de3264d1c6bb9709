"""Mutates films of every kind for a while and holds what comes out against three rules.

``nice python -m tests.fuzz --minutes 60 [--seed 1]``. A file is read, refused or skipped: no crash, no other
error, no more than `SECONDS`. What is kept of it reads to the same picture. A picture that differs from the
film's by more than `DIFFERENCE` and carries no flag that forbids *negative* is printed, to be looked at:
bytes that were moved inside native pixels make another film that nothing in the file contradicts.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.decode.picture import decode
from pipeline.preprocess import model_input
from pipeline.triage import may_be_negative
from pipeline.types import Rejected, Skipped
from tests.films import films

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
    """Change a file in one to three places, mostly in its header; return also how."""
    how = []
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(data), rng.choice((700, 2000, len(data)))))
        value = rng.choice(_VALUES) if rng.random() < 0.6 else rng.randbytes(rng.randint(1, 4))
        what = rng.choice(("set", "set", "set", "insert", "delete", "cut", "repeat"))
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
        how.append(f"{what} at {at}")
    return data, ", ".join(how)


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
    began = time.monotonic()
    try:
        found = decode(data, max_pixels=_MAX_PIXELS, pseudonymise=str)
    except Rejected as verdict:
        return f"refused: {verdict.reason.value}", ""
    except Skipped:
        return "skipped", ""
    except Exception:
        return "error", traceback.format_exc()
    if time.monotonic() - began > SECONDS:
        return "read", f"took {time.monotonic() - began:.0f} seconds"
    try:
        again = decode(found.stored, max_pixels=_MAX_PIXELS, pseudonymise=str)
    except (Rejected, Skipped) as verdict:
        return "read", f"what is kept is not read: {verdict.reason.value}"
    if not np.array_equal(again.pixels, found.pixels):
        return "read", "what is kept reads to another picture"
    if not may_be_negative(found.flags):
        return "read and flagged", ""
    off = difference(found.pixels, film)
    return ("another picture, not flagged", f"off by {off:.0f}") if off > DIFFERENCE else ("read", "")


def main() -> int:
    """Print what came of the files, and each that broke a rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
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
            print(f"{became}: {name}: {how}: {wrong}", flush=True)
    total = sum(counts.values())
    print(f"{total} files of {len(files)} kinds: {broken} broke a rule, {changed} to be looked at")
    for became, count in counts.most_common():
        print(f"{count:8} {became}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
