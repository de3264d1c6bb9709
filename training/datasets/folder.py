"""A folder of pictures whose class is a folder's name: `hand/abnormal/1.png`, `train/fractured/leg/2.jpg`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from training.datasets import fracatlas, mura, words
from training.datasets.example import Dataset, DatasetError, Example
from training.datasets.listing import list_pictures

REGIONS = frozenset((*mura.REGIONS, *fracatlas.REGIONS, "foot", "ankle", "knee", "spine", "pelvis"))
_PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_PATIENT = re.compile(r"patient[ _-]?\w+", re.IGNORECASE)


def read_folder(root: Path, label_meaning: str = "") -> Dataset:
    """Read pictures in class folders, in any depth and order.

    Of the folders above a picture one names its class (``fractured``, ``normal`` ...), and others may name
    its region, its patient (``patient12``) and its part (``train``, ``valid``, ``test``).

    Parameters
    ----------
    label_meaning
        What a positive means; empty takes the class folders' word for it.

    Raises
    ------
    DatasetError
        A class folder is empty, or no picture has a class.
    """
    listing = list_pictures(root)
    skipped, meanings = Counter(listing.left), set()
    examples = []
    for name in listing.pictures:
        folders = PurePosixPath(name).parts[:-1]
        labels = {truth for folder in folders if (truth := words.label(folder)) is not None}
        if len(labels) != 1:
            skipped["no class folder" if not labels else "folders of both classes"] += 1
            continue
        meanings |= {said for folder in folders if (said := words.meaning(folder))}
        regions = tuple(r for folder in folders if (r := words.region(folder)) in REGIONS)
        patient = next((folder for folder in folders if _PATIENT.fullmatch(folder)), "")
        part = next((_PARTS[folder.lower()] for folder in folders if folder.lower() in _PARTS), "")
        examples.append(
            Example(name, root / name, regions[:1], labels.pop(), patient, "", patient=patient, part=part)
        )
    if not examples:
        raise DatasetError(f"{root} holds no picture in a class folder such as 'fractured' or 'normal'")
    for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
        if words.label(folder.name) is not None and not any(e.path.is_relative_to(folder) for e in examples):
            raise DatasetError(f"the class folder {folder} holds no picture")
    return Dataset(root.name, tuple(examples), dict(skipped), chosen_meaning(label_meaning, meanings))


def chosen_meaning(given: str, said: set[str]) -> str:
    """Return what positives mean: what was given, what all label words say, else the weakest."""
    return given or (said.pop() if len(said) == 1 else words.WEAKEST_MEANING)
