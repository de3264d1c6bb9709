"""MURA v1.1 (Rajpurkar et al. 2018, arXiv 1712.06957): abnormal or normal studies of the upper limb.

Its `valid` is everyone's test set: stopping, calibration and thresholds use patients cut from `train`. The
label is a study's, and one patient's studies may differ.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.datasets.example import Dataset, DatasetError, Example
from training.datasets.fracatlas import SOURCE as FRACATLAS_SOURCE
from training.datasets.listing import found_root, list_pictures

REGIONS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
PARTS = ("train", "valid")
#: What `training.mura_layout` leaves in a folder that it made: not MURA, but other pictures laid out so.
MADE_BY = "made_by.json"
_STUDY = re.compile(
    rf"(?P<part>train|valid)/XR_(?P<region>{'|'.join(r.upper() for r in REGIONS)})"
    r"/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<label>positive|negative)"
)


def read_mura(root: Path) -> Dataset:
    """Read MURA as it is published; `root` is `MURA-v1.1` or the folder around it.

    A picture is used when the list of pictures names it, its study has a label, the label agrees with the
    study's folder, and the file is there; every other one is counted in `skipped`.

    Raises
    ------
    DatasetError
        One of the four lists is missing, a line of it cannot be understood, or nothing can be used.
    """
    root = found_root(root, f"{PARTS[0]}_image_paths.csv", "MURA-v1.1")
    listing = list_pictures(root, *PARTS)
    skipped = Counter(listing.left)
    labels = {
        study: label for part in PARTS for study, label in _labels(root / f"{part}_labeled_studies.csv")
    }
    listed: dict[str, None] = {}
    examples = []
    for name in (name for part in PARTS for name in _pictures(root / f"{part}_image_paths.csv")):
        if name in listed:
            skipped["listed twice"] += 1
            continue
        listed[name] = None
        study, _, _ = name.rpartition("/")
        match, on_disk = _STUDY.fullmatch(study), listing.find(name)
        if match is None:
            skipped["path not as in MURA"] += 1
        elif on_disk is None:
            skipped["listed, file missing"] += 1
        elif study not in labels:
            skipped["study without label"] += 1
        elif labels[study] != (match["label"] == "positive"):
            skipped["label of folder and list differ"] += 1
        else:
            examples.append(_example(root, on_disk, match))
    known = {listing.find(name) for name in listed}
    if unlisted := sum(name not in known for name in listing.pictures):
        skipped["file not listed"] = unlisted
    if not examples:
        raise DatasetError(f"{root} holds no usable image: {dict(skipped)}")
    if (root / MADE_BY).exists():
        return _made(tuple(examples), skipped, json.loads((root / MADE_BY).read_text()))
    return Dataset(
        "MURA",
        tuple(examples),
        dict(skipped),
        "abnormal",
        source="Rajpurkar et al. 2018, arXiv 1712.06957; Stanford's research use agreement",
        cautions=(
            "A label is a study's and says abnormal: fracture, implant, degeneration or another finding.",
            "MURA comes from one hospital, without ages or acquisition data.",
        ),
        shortcuts="A single image of an abnormal study may look normal. Implants count as abnormal.",
    )


def _made(examples: tuple[Example, ...], skipped: Mapping[str, int], plan: Mapping[str, Any]) -> Dataset:
    """Return what `training.mura_layout` has made as what it is."""
    name, source = "Phantoms laid out as MURA", "synthetic, training/mura_layout.py"
    caution = "Trained on synthetic phantoms alone: it cannot read real radiographs."
    if plan.get("radiographs"):
        name, source = "Phantoms and FracAtlas laid out as MURA", f"{source}; {FRACATLAS_SOURCE}"
        caution = "Trained on synthetic phantoms, and on real radiographs of hand and shoulder alone."
    return Dataset(
        name,
        examples,
        dict(skipped),
        "abnormal",
        source=source,
        cautions=(caution,),
        shortcuts="Every abnormality is a fracture; in phantoms every image of an abnormal study shows one.",
    )


def _example(root: Path, name: str, match: re.Match[str]) -> Example:
    region, patient = match["region"].lower(), match["patient"]
    return Example(
        name,
        root / name,
        (region,),
        match["label"] == "positive",
        patient,
        "",
        patient=patient,
        study=f"XR_{match['region']}/{patient}/{match['study']}",
        part=match["part"],
    )


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """Read a list without header: each path without the folder that all of MURA is in, and what follows."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            if len(row) != columns:
                raise DatasetError(f"{path.name}, line {number}: {columns} columns expected, not {len(row)}")
            name = row[0].strip().replace("\\", "/")
            yield [name.partition("/")[2] if name.lower().startswith("mura") else name, *row[1:]]


def _pictures(path: Path) -> Iterator[str]:
    return (name for (name,) in _rows(path, 1))


def _labels(path: Path) -> Iterator[tuple[str, bool]]:
    for study, label in _rows(path, 2):
        if label.strip() not in {"0", "1"}:
            raise DatasetError(f"{path.name}: the label of {study} is {label!r}, not 0 or 1")
        yield study.rstrip("/"), label.strip() == "1"
