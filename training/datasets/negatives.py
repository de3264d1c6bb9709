"""Pictures that must be refused: chest films, spines, and what is no radiograph of a bone at all."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from pipeline.types import UInt8Array
from training.datasets.example import Example

#: Classes of pictures that are kinds of their own; all else is no radiograph.
_RADIOGRAPHS = ("chest", "spine")
KINDS = (*_RADIOGRAPHS, "no radiograph")
#: Of ten groups, how many train and how many validate; the others test.
_TRAIN, _VALIDATE = 7, 1


def read_negatives(root: Path) -> dict[str, tuple[Example, ...]]:
    """Read `manifest.csv` and divide it into train, val and test, a group (patient or picture) whole.

    The trait ``class`` says what a picture is, such as ``chest`` or ``ct``.
    """
    parts: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            group = row["group"] or row["file"]
            tenth = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) % 10
            part = "train" if tenth < _TRAIN else "val" if tenth < _TRAIN + _VALIDATE else "test"
            traits = {"class": row["subclass"] or row["class"]}
            parts[part].append(
                Example(row["file"], root / row["file"], ("other",), False, group, row["sha256"], (), traits)
            )
    return {name: tuple(examples) for name, examples in parts.items()}


def kind_of(example: Example) -> str:
    """Return the kind of a picture that must be refused, one of `KINDS`."""
    named = example.traits.get("class", "")
    return named if named in _RADIOGRAPHS else KINDS[-1]


def _blank(side: int, rng: np.random.Generator) -> UInt8Array:
    return np.full((side, side), rng.choice([0, 255, rng.integers(0, 256)]), np.uint8)


def _noise(side: int, rng: np.random.Generator) -> UInt8Array:
    coarse = int(rng.integers(4, side))
    small = rng.normal(rng.uniform(60, 200), rng.uniform(10, 80), (coarse, coarse))
    return cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)


def _slope(side: int, rng: np.random.Generator) -> UInt8Array:
    y, x = np.mgrid[0:side, 0:side] / side
    angle, turns = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 12)
    wave = np.sin(2 * np.pi * turns * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    return np.asarray(127 + rng.uniform(10, 127) * wave, np.uint8)


def _shapes(side: int, rng: np.random.Generator) -> UInt8Array:
    picture = np.full((side, side), rng.integers(0, 256), np.uint8)
    for _ in range(rng.integers(1, 12)):
        corner, far = rng.integers(0, side, 2), rng.integers(0, side, 2)
        grey = int(rng.integers(0, 256))
        if rng.random() < 0.5:
            cv2.rectangle(picture, corner.tolist(), far.tolist(), grey, int(rng.choice([-1, 1, 4])))
        else:
            cv2.ellipse(picture, (corner.tolist(), far.tolist(), float(rng.uniform(0, 180))), grey, -1)
    return picture


_KINDS: tuple[Callable[[int, np.random.Generator], UInt8Array], ...] = (_blank, _noise, _slope, _shapes)


def made_up(rng: np.random.Generator, side: int = 256) -> UInt8Array:
    """Draw a picture without anything in it: blank, noise, waves or shapes."""
    return _KINDS[rng.integers(len(_KINDS))](side, rng)


def mosaic(pictures: list[UInt8Array], rng: np.random.Generator, side: int = 384) -> UInt8Array:
    """Lay four or more pictures in a grid, as a contact sheet or a screenshot of a viewer shows them."""
    rows, columns = int(rng.integers(2, 4)), int(rng.integers(2, 5))
    cell = (side // columns, side // rows)
    return np.vstack(
        [
            np.hstack([cv2.resize(pictures[rng.integers(len(pictures))], cell) for _ in range(columns)])
            for _ in range(rows)
        ]
    )
