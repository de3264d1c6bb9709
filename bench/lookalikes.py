"""How far different films, and copies of one film, differ in their looks: what `ALIKE` was chosen by.

``python -m bench.lookalikes FRACATLAS`` prints the table of docs/research.md; ``--write FILE`` writes the
looks of the films that ``--bundle`` was fitted on, as `models.fitted_on` reads them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from models.bundle import load_bundle
from models.fitted_on import DIGITS, digests_of, written
from pipeline.decode.picture import decode
from pipeline.lookalikes import ALIKE, look_of
from pipeline.types import UInt8Array

ROOT = Path(__file__).resolve().parent.parent
#: The file as FracAtlas publishes it, of those that are kept; the films themselves are kept smaller.
PUBLISHED = "as published"
LIMITS = (8, 12, 16, 20, 24, 28, 32, 40)


def jpeg(pixels: UInt8Array, quality: int) -> UInt8Array:
    """Return a picture as JPEG leaves it."""
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)


def scaled(pixels: UInt8Array, by: float) -> UInt8Array:
    """Return a picture in another size."""
    return np.asarray(cv2.resize(pixels, None, fx=by, fy=by, interpolation=cv2.INTER_AREA), np.uint8)


def brightened(pixels: UInt8Array, gain: float, more: float) -> UInt8Array:
    """Return a picture with other contrast and brightness, cut at white."""
    return np.clip(pixels * gain + more, 0, 255).astype(np.uint8)


def cut(pixels: UInt8Array, share: float) -> UInt8Array:
    """Return a picture without a share of its sides, half at each end."""
    y, x = (max(1, round(side * share / 2)) for side in pixels.shape)
    return np.ascontiguousarray(pixels[y:-y, x:-x])


def turned(pixels: UInt8Array, degrees: float) -> UInt8Array:
    """Return a picture turned about its middle."""
    height, width = pixels.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)), np.uint8)


COPIES: Mapping[str, Callable[[UInt8Array], UInt8Array]] = {
    "JPEG 70": lambda p: jpeg(p, 70),
    "JPEG 30": lambda p: jpeg(p, 30),
    "half the size": lambda p: jpeg(scaled(p, 0.5), 90),
    "a quarter of the size": lambda p: jpeg(scaled(p, 0.25), 90),
    "brighter": lambda p: jpeg(brightened(p, 1.2, 20), 90),
    "darker": lambda p: jpeg(brightened(p, 0.7, 0), 90),
    "half the size, brighter, JPEG 70": lambda p: jpeg(brightened(scaled(p, 0.5), 1.15, 10), 70),
    "gamma 0.6": lambda p: (255 * (p / 255) ** 0.6).astype(np.uint8),
    "2% cut off": lambda p: cut(p, 0.02),
    "6% cut off": lambda p: cut(p, 0.06),
    "turned by 1 degree": lambda p: turned(p, 1),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
}


@dataclass(frozen=True)
class Film:
    """A film's look, and those of its copies."""

    look: bytes
    copies: Mapping[str, bytes]


def looked_at(path: Path, copies: bool, published: Path | None) -> Film:
    """Decode a film as the service does, copy it and hash all."""
    pixels = _pixels(path)
    made = {name: look_of(copy(pixels)) for name, copy in COPIES.items()} if copies else {}
    if published is not None:
        made[PUBLISHED] = look_of(_pixels(published))
    return Film(look_of(pixels), made)


def _pixels(path: Path) -> UInt8Array:
    return decode(path.read_bytes(), max_pixels=10**8, pseudonymise=str).pixels


def distances(films: list[Film], groups: list[str]) -> np.ndarray:
    """Return for each film the bits to the nearest film of another group."""
    table = np.frombuffer(b"".join(f.look for f in films), np.uint64).reshape(len(films), -1)
    of = np.array(groups)
    nearest = [
        np.bitwise_count(row ^ table[of != group]).sum(axis=1).min()
        for row, group in zip(table, of, strict=True)
    ]
    return np.array(nearest)


def apart(film: Film, copy: str) -> int:
    """Return the bits in which a copy's look differs from its film's."""
    return (int.from_bytes(film.look) ^ int.from_bytes(film.copies[copy])).bit_count()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.lookalikes", description=__doc__)
    parser.add_argument("fracatlas", type=Path, help="folder with manifest.csv, images/ and originals/")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=int, default=10, help="which films are copied (default: every 10th)")
    parser.add_argument("--write", type=Path, help="write the looks of the films that BUNDLE was fitted on")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "bundles" / "fracatlas-3")
    options = parser.parse_args()
    with (options.fracatlas / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["truncated"] == "0"]
    images = [options.fracatlas / "images" / row["image_id"] for row in rows]
    originals = [options.fracatlas / "originals" / path.name for path in images]
    with ProcessPoolExecutor(options.jobs) as pool:
        films = list(
            pool.map(
                looked_at,
                images,
                [number % options.every == 0 for number in range(len(images))],
                [path if path.is_file() else None for path in originals],
                chunksize=8,
            )
        )
    if options.write:
        wanted = digests_of(load_bundle(options.bundle))
        known = {
            row["sha256"]: film.look
            for row, film in zip(rows, films, strict=True)
            if row["sha256"][:DIGITS] in wanted
        }
        options.write.write_bytes(written(known.items()))
        print(f"{len(known)} of {len(wanted)}: {hashlib.sha256(options.write.read_bytes()).hexdigest()}\n")
    other = distances(films, [row["near_dup_group"] or row["image_id"] for row in rows])
    print(f"| Share of pairs at most so many bits of 256 apart (in use: {ALIKE}) | pairs | {_cells(LIMITS)}")
    print("|---|--:" + "|--:" * len(LIMITS) + "|")
    shares = _cells(f"{(other <= n).mean():.2%}" for n in LIMITS)
    print(f"| the nearest film of another group | {len(films):,} | {shares}")
    for name in (PUBLISHED, *COPIES):
        bits = np.array([apart(film, name) for film in films if name in film.copies])
        print(f"| {name} | {len(bits):,} | {_cells(f'{(bits <= n).mean():.1%}' for n in LIMITS)}")
    return 0


def _cells(values: Iterable[object]) -> str:
    return " | ".join(map(str, values)) + " |"


if __name__ == "__main__":
    sys.exit(main())
