"""FracAtlas: fractures of hand, leg, hip and shoulder, with their outlines."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from training.datasets.example import Dataset, DatasetError, Example, Polygon

#: Originals with a longer side are films scanned at another place, pixels; most are about 373 x 454.
_LARGE = 1000


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
                        {key: row[key] for key in ("hardware", "multiscan", "mixed", "views")}
                        | {"large": str(int(max(int(row["width"]), int(row["height"])) > _LARGE))},
                    )
                )
    if not examples:
        raise DatasetError(f"{root} holds no usable image")
    return Dataset("FracAtlas", tuple(examples), dict(skipped))
