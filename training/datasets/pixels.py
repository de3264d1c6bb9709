"""Pictures of a data set, decoded once and kept in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.types import UInt8Array
from training.datasets.example import DatasetError, Example

#: Long side of the cached pictures, pixels: that of the downscaled FracAtlas.
CACHE_SIDE = 448


def hashed(examples: Sequence[Example]) -> list[Example]:
    """Return the examples, each with the sha256 of its file where the data set does not give it."""

    def with_hash(example: Example) -> Example:
        if example.sha256:
            return example
        with example.path.open("rb") as file:
            return replace(example, sha256=hashlib.file_digest(file, "sha256").hexdigest())

    with ThreadPoolExecutor() as pool:
        return list(pool.map(with_hash, examples))


def load_pixels(examples: Sequence[Example], cache: Path) -> list[UInt8Array]:
    """Decode radiographs once, long side at most `CACHE_SIDE`, and keep them in one file below `cache`.

    The pictures are read from the file as they are used: a data set may be larger than memory.

    Returns
    -------
    list of uint8 (height, width)

    Raises
    ------
    DatasetError
        A file cannot be decoded.
    """
    examples = hashed(examples)
    key = hashlib.sha256("\n".join(f"{e.name} {e.sha256}" for e in examples).encode()).hexdigest()[:16]
    sizes, file = cache / f"pixels-{key}.npy", cache / f"pixels-{key}.raw"
    if not sizes.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        shapes = []
        with part.open("wb") as out:
            for example in examples:
                picture = _decoded(example)
                shapes.append(picture.shape)
                out.write(picture.tobytes())
        part.rename(file)
        np.save(sizes, np.array(shapes, np.int64))  # last: without it the pictures are not there
    shapes_kept = np.load(sizes)
    flat = np.asarray(np.memmap(file, np.uint8, "r"))
    ends = np.cumsum(shapes_kept.prod(axis=1))
    return [flat[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, shapes_kept, strict=True)]


def _decoded(example: Example) -> UInt8Array:
    picture = cv2.imread(str(example.path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise DatasetError(
            f"{example.path.name} cannot be decoded; `fractureai datasets scan` names all such files, and "
            "`fractureai datasets split` leaves them out"
        )
    scale = CACHE_SIDE / max(picture.shape)
    if scale < 1:
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)
