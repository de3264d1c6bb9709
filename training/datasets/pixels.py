"""Pictures of a data set, decoded once and kept in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.types import UInt8Array
from training.datasets.example import DatasetError, Example

#: Long side of the cached pictures, pixels: that of the downscaled FracAtlas.
CACHE_SIDE = 448


def load_pixels(examples: Sequence[Example], cache: Path) -> list[UInt8Array]:
    """Decode radiographs once, long side at most `CACHE_SIDE`, and keep them in one file below `cache`.

    Returns
    -------
    list of uint8 (height, width)
    """
    key = hashlib.sha256("\n".join(f"{e.name} {e.sha256}" for e in examples).encode()).hexdigest()[:16]
    file = cache / f"pixels-{key}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pictures = [_decoded(example) for example in examples]
        shapes = np.array([picture.shape for picture in pictures], np.int32)
        part = file.with_suffix(".part.npz")
        np.savez(part, shapes=shapes, pixels=np.concatenate([picture.ravel() for picture in pictures]))
        part.rename(file)
    with np.load(file) as kept:
        shapes, flat = kept["shapes"], kept["pixels"]
    ends = np.cumsum(shapes.prod(axis=1))
    return [flat[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, shapes, strict=True)]


def _decoded(example: Example) -> UInt8Array:
    picture = cv2.imread(str(example.path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise DatasetError(f"{example.path.name} cannot be decoded")
    scale = CACHE_SIDE / max(picture.shape)
    if scale < 1:
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)
