"""FracAtlas (Abedeen et al. 2023, doi 10.1038/s41597-023-02432-4): fractured hand, leg, hip, shoulder."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from training.datasets.example import Dataset, DatasetError, Example, Polygon
from training.datasets.listing import found_root, list_pictures

SOURCE = "Abedeen et al. 2023, doi 10.1038/s41597-023-02432-4, CC BY 4.0"
REGIONS = ("hand", "leg", "hip", "shoulder")
_MASKS = Path("Annotations") / "COCO JSON" / "COCO_fracture_masks.json"
#: Folder names, as published and as its paper spells them.
_FOLDERS = {"fractured": True, "non_fractured": False, "non-fractured": False}

#: Originals with a longer side are films scanned at another place, pixels; most are about 373 x 454.
_LARGE = 1000


def read_fracatlas(root: Path) -> Dataset:
    """Read FracAtlas: as published, or as kept beside this project with `manifest.csv`.

    Raises
    ------
    DatasetError
        A file is missing, a label unknown, or the dataset empty.
    """
    kept = (root / "manifest.csv").exists() or (root / "fracture_masks.coco.json").exists()
    dataset = _read_kept(root) if kept else _read_published(root)
    if not dataset.examples:
        raise DatasetError(f"{root} holds no usable image: {dict(dataset.skipped)}")
    return dataset


def _dataset(examples: Iterable[Example], skipped: Mapping[str, int]) -> Dataset:
    return Dataset(
        "FracAtlas",
        tuple(examples),
        dict(skipped),
        source=SOURCE,
        cautions=(
            "FracAtlas has no patient numbers, ages or acquisition data.",
            "Implants, casts and large scans make a positive likelier, whether or not there is a fracture.",
        ),
        shortcuts="97 of the 99 images with implants are fractured, and casts and large scans lean the "
        "same way: "
        "compare the rows *without implants* with the overall row. Hip and shoulder have too "
        "few fractures for "
        "figures that mean much. Images that show no hand, leg, hip or shoulder can still be taken for one.",
    )


def _read_published(root: Path) -> Dataset:
    """Read `dataset.csv`, `images/Fractured`, `images/Non_fractured` and the COCO masks.

    It names no patients and no near-duplicates: groups come with a split. Its cut-off files are found by a
    scan.
    """
    root = found_root(root, "dataset.csv", "FracAtlas")
    polygons = _outlines(root / _MASKS)
    listing = list_pictures(root, "images")
    skipped = Counter(listing.left)
    places: dict[str, list[str]] = defaultdict(list)
    for name in listing.pictures:
        places[Path(name).name.lower()].append(name)
    examples = []
    for row in _table(root / "dataset.csv"):
        image = row["image_id"]
        found = places.pop(image.lower(), [])
        sides = {_FOLDERS.get(Path(name).parent.name.lower()) for name in found}
        regions = tuple(region for region in REGIONS if row[region] == "1")
        if not found:
            skipped["listed, file missing"] += 1
        elif sides != {row["fractured"] == "1"}:
            skipped["label of folder and list differ"] += 1
        elif not regions:
            skipped["no region"] += 1
        else:
            views = "+".join(view for view in ("frontal", "lateral", "oblique") if row[view] == "1")
            traits = {key: row[key] for key in ("hardware", "multiscan", "mixed")} | {"views": views}
            examples.append(
                Example(
                    image,
                    root / found[0],
                    regions,
                    row["fractured"] == "1",
                    "",
                    "",
                    tuple(polygons[image]),
                    traits,
                )
            )
    if places:
        skipped["file not listed"] = sum(map(len, places.values()))
    return _dataset(examples, skipped)


def _read_kept(root: Path) -> Dataset:
    """Read `manifest.csv`, `images/` and `fracture_masks.coco.json`.

    Truncated files are left out: all are normal, and a network would learn the grey bar below.
    """
    polygons = _outlines(root / "fracture_masks.coco.json")
    if not (root / "images").is_dir():
        raise DatasetError(f"{root / 'images'} is missing")
    examples, skipped = [], Counter[str]()
    for row in _table(root / "manifest.csv"):
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
                    {key: row[key] for key in ("hardware", "multiscan", "mixed", "views")}
                    | {"large": str(int(max(int(row["width"]), int(row["height"])) > _LARGE))},
                )
            )
    return _dataset(examples, skipped)


def _table(path: Path) -> list[Mapping[str, str]]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    wanted = {"image_id", "label" if path.name == "manifest.csv" else "fractured", "hardware", "multiscan"}
    if lacking := wanted - set(reader.fieldnames or ()):
        raise DatasetError(f"{path.name} lacks the columns {', '.join(sorted(lacking))}")
    return rows


def _outlines(path: Path) -> dict[str, list[Polygon]]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    coco = json.loads(path.read_text())
    sizes = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in coco["images"]}
    polygons: dict[str, list[Polygon]] = defaultdict(list)
    for note in coco["annotations"]:
        name, width, height = sizes[note["image_id"]]
        polygons[name] += [
            np.asarray(points, np.float32).reshape(-1, 2) / np.float32([width, height])
            for points in note["segmentation"]
        ]
    return polygons
