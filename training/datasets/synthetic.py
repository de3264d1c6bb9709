"""Phantoms as examples: made in memory, or read from a folder with its `labels.csv`."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from phantoms.film import Phantom, make_phantom
from pipeline.types import UInt8Array
from training.datasets.example import Dataset, DatasetError, Example
from training.datasets.listing import list_pictures


def phantom_examples(
    regions: Sequence[str], count: int, first_seed: int
) -> tuple[tuple[Example, ...], list[UInt8Array]]:
    """Make `count` phantoms for each region, every second one fractured.

    Returns
    -------
    tuple of Example
        Marked by the trait ``phantom``.
    list of uint8 (height, width)
    """
    examples, pictures = [], []
    for region in regions:
        for seed in range(first_seed, first_seed + count):
            phantom = make_phantom(seed, region, fracture=seed % 2 == 0)
            examples.append(_example(phantom))
            pictures.append(phantom.pixels)
    return tuple(examples), pictures


def _example(phantom: Phantom) -> Example:
    height, width = phantom.pixels.shape
    outline = np.asarray(phantom.polygon, np.float32).reshape(-1, 2) / np.float32([width, height])
    name = f"phantom-{phantom.region}-{phantom.seed}"
    return Example(
        name,
        Path(name),
        (phantom.region,),
        phantom.fractured,
        name,
        hashlib.sha256(phantom.pixels.tobytes()).hexdigest(),
        (outline,) if len(outline) else (),
        {"phantom": "1"},
    )


def read_phantoms(root: Path) -> Dataset:
    """Read a folder that `fractureai phantoms OUT --labels` has written.

    Raises
    ------
    DatasetError
        `labels.csv` is missing or holds nothing usable.
    """
    table = root / "labels.csv"
    if not table.is_file():
        raise DatasetError(f"{table} is missing")
    listing = list_pictures(root)
    skipped, examples, listed = Counter(listing.left), [], set()
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name = listing.find(row["filename"])
            listed.add(name)
            if name is None:
                skipped["listed, file missing"] += 1
                continue
            picture = cv2.imread(str(root / name), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                skipped["cannot be decoded"] += 1
                continue
            outline = np.array([corner.split(",") for corner in row["polygon"].split()], np.float32)
            if len(outline):
                outline /= np.float32([picture.shape[1], picture.shape[0]])
            examples.append(
                Example(
                    name,
                    root / name,
                    (row["region"],),
                    row["fractured"] == "1",
                    f"{row['region']}-{row['seed']}",
                    "",
                    (outline,) if len(outline) else (),
                    {"phantom": "1", "views": row["view"]},
                )
            )
    if unlisted := sum(name not in listed for name in listing.pictures):
        skipped["file not listed"] = unlisted
    skipped["no picture"] -= 1  # labels.csv
    if not examples:
        raise DatasetError(f"{root} holds no usable image: {dict(skipped)}")
    return Dataset("phantoms", tuple(examples), dict(+skipped))
