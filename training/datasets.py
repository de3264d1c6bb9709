"""Labelled radiographs on disk: reading FracAtlas and phantoms, splitting by group, the pixel cache."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import UInt8Array

Polygon = npt.NDArray[np.float32]

#: Long side of the cached pictures, pixels: that of the downscaled FracAtlas.
CACHE_SIDE = 448


class DatasetError(ValueError):
    """The dataset cannot be used as it is; the message names what is wrong."""


@dataclass(frozen=True)
class Example:
    """One labelled radiograph.

    Attributes
    ----------
    group
        Near-duplicates and images of one patient share it; no split divides it.
    polygons
        Outlines of fractures, each float32 (n, 2) of x, y as shares of width and height.
    sha256
        Of the file as published.
    traits
        What subgroup figures are made by: hardware, multiscan, mixed, views.
    """

    name: str
    path: Path
    regions: tuple[str, ...]
    fractured: bool
    group: str
    sha256: str
    polygons: tuple[Polygon, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Examples, and what was left out and why."""

    name: str
    examples: tuple[Example, ...]
    skipped: Mapping[str, int]


def read_fracatlas(root: Path) -> Dataset:
    """Read FracAtlas as kept beside this project: `manifest.csv`, `images/`, `fracture_masks.coco.json`.

    Truncated files are left out: all are normal, and a network would learn the grey bar below.

    Raises
    ------
    DatasetError
        A file is missing, a label unknown, or the dataset empty.
    """
    manifest, masks = root / "manifest.csv", root / "fracture_masks.coco.json"
    for path in (manifest, masks, root / "images"):
        if not path.exists():
            raise DatasetError(f"{path} is missing")
    coco = json.loads(masks.read_text())
    sizes = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in coco["images"]}
    polygons: dict[str, list[Polygon]] = defaultdict(list)
    for note in coco["annotations"]:
        name, width, height = sizes[note["image_id"]]
        polygons[name] += [
            np.asarray(points, np.float32).reshape(-1, 2) / np.float32([width, height])
            for points in note["segmentation"]
        ]
    examples, skipped = [], Counter[str]()
    with manifest.open(newline="") as rows:
        for row in csv.DictReader(rows):
            path = root / "images" / row["image_id"]
            if row["label"] not in {"fractured", "normal"}:
                raise DatasetError(f"{row['image_id']}: unknown label {row['label']!r}")
            if row["truncated"] == "1":
                skipped["truncated"] += 1
            elif not path.is_file():
                skipped["file missing"] += 1
            else:
                examples.append(
                    Example(
                        row["image_id"],
                        path,
                        tuple(row["regions"].split("+")),
                        row["label"] == "fractured",
                        row["near_dup_group"],
                        row["sha256"],
                        tuple(polygons[row["image_id"]]),
                        {key: row[key] for key in ("hardware", "multiscan", "mixed", "views")},
                    )
                )
    if not examples:
        raise DatasetError(f"{root} holds no usable image")
    return Dataset("FracAtlas", tuple(examples), dict(skipped))


def split_by_group(examples: Sequence[Example], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign whole groups to splits, in like proportions for every region and label.

    Returns
    -------
    dict
        Example name to split name.
    """
    strata: dict[tuple[str, bool], list[str]] = defaultdict(list)
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    for group in sorted(groups):
        members = groups[group]
        strata["+".join(members[0].regions), any(e.fractured for e in members)].append(group)
    assigned = {}
    for stratum in sorted(strata):
        members_of = strata[stratum]
        random.Random(f"{seed}/{stratum}").shuffle(members_of)  # noqa: S311  # not a secret
        ends = np.cumsum(list(shares.values())) / sum(shares.values()) * len(members_of)
        for index, group in enumerate(members_of):
            split = list(shares)[int(np.searchsorted(ends, index + 0.5))]
            assigned.update({example.name: split for example in groups[group]})
    return assigned


def write_split(path: Path, split: Mapping[str, str]) -> None:
    """Write a split as CSV: name, split."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "split"])
        writer.writerows(sorted(split.items()))


def read_split(path: Path, examples: Iterable[Example]) -> dict[str, tuple[Example, ...]]:
    """Read a split file and sort examples by it.

    Raises
    ------
    DatasetError
        An example is not in the file, or a group stands on two sides.
    """
    with path.open(newline="") as file:
        split_of = {row["name"]: row["split"] for row in csv.DictReader(file)}
    sides: dict[str, str] = {}
    parts: dict[str, list[Example]] = {name: [] for name in sorted(set(split_of.values()))}
    for example in examples:
        if example.name not in split_of:
            raise DatasetError(f"{example.name} is not in the split file {path}")
        side = split_of[example.name]
        if sides.setdefault(example.group, side) != side:
            raise DatasetError(f"group {example.group} stands in {sides[example.group]} and in {side}")
        parts[side].append(example)
    return {name: tuple(part) for name, part in parts.items()}


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
    from training.phantoms import make_phantom

    examples, pictures = [], []
    for region in regions:
        for seed in range(first_seed, first_seed + count):
            phantom = make_phantom(seed, region, fracture=seed % 2 == 0)
            height, width = phantom.pixels.shape
            outline = np.asarray(phantom.polygon, np.float32).reshape(-1, 2) / np.float32([width, height])
            name = f"phantom-{region}-{seed}"
            examples.append(
                Example(
                    name,
                    Path(name),
                    (region,),
                    phantom.fractured,
                    name,
                    hashlib.sha256(phantom.pixels.tobytes()).hexdigest(),
                    (outline,) if len(outline) else (),
                    {"phantom": "1"},
                )
            )
            pictures.append(phantom.pixels)
    return tuple(examples), pictures
