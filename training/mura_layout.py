"""Phantoms laid out exactly as MURA v1.1 is: folders, names, four lists; several studies a patient.

    fractureai phantoms OUT --layout mura --count 5000 --size 128

A stopped run goes on where it was. An abnormal study's phantoms are all fractured. The images of a study
share region and label; unlike a patient's, they do not show the same bones.
"""  # fmt: skip

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.datasets.example import DatasetError
from training.datasets.mura import MADE_BY, PARTS, REGIONS
from training.phantoms import encode_phantom, make_phantom
from training.processes import in_processes

FOLDER = "MURA-v1.1"


@dataclass(frozen=True)
class PlannedImage:
    """One phantom: its path below `FOLDER`, and what it is made from."""

    name: str
    region: str
    fracture: bool
    seed: int


def plan_images(
    count: int,
    *,
    seed: int = 0,
    regions: Sequence[str] = REGIONS,
    abnormal_share: float = 0.4,
    valid_share: float = 0.15,
) -> list[PlannedImage]:
    """Plan patients with one to three studies of one to four images, until there are `count` images.

    Regions come equally often. A patient's studies may be of several regions, and may differ in label.

    Parameters
    ----------
    abnormal_share, valid_share
        Shares of abnormal studies (of each region, in each part) and of images in `valid`, 0-1.
    """
    rng = np.random.default_rng([seed, 4])
    images: list[PlannedImage] = []
    counts: dict[tuple[str, str], int] = {}
    patient = study_count = 0
    while len(images) < count:
        patient += 1
        part = PARTS[len(images) >= count * (1 - valid_share)]
        studies: dict[str, int] = {}
        first = study_count
        for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))):
            region = regions[study_count % len(regions)]
            if study_count > first and rng.random() < 0.4:
                region = next(reversed(studies))  # seen again
            study_count += 1
            studies[region] = studies.get(region, 0) + 1
            seen = counts[part, region] = counts.get((part, region), 0) + 1
            abnormal = int(seen * abnormal_share) > int((seen - 1) * abnormal_share)
            word = "positive" if abnormal else "negative"
            folder = f"{part}/XR_{region.upper()}/patient{patient:05d}/study{studies[region]}_{word}"
            for number in range(1, 1 + int(rng.choice([1, 2, 3, 4], p=[0.15, 0.3, 0.4, 0.15]))):
                name = f"{folder}/image{number}.png"
                images.append(PlannedImage(name, region, abnormal, (seed << 24) + len(images)))
    return images[:count]


def write_mura(
    out: Path,
    images: Sequence[PlannedImage],
    *,
    longest: int = 512,
    jobs: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write planned images and the four lists; return the folder `MURA-v1.1`.

    Images that are there already are kept: a run that was stopped goes on. The lists come last.

    Parameters
    ----------
    longest
        Long side in pixels; MURA's is 512.
    jobs
        Processes; None for one a processor.
    on_progress
        Called with the number of images that are there.

    Raises
    ------
    DatasetError
        The folder was made from another plan.
    """
    root = out / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    plan = {
        "notice": "SYNTHETIC PHANTOMS laid out as MURA v1.1: no patients. Made by FractureAI.",
        "images": len(images),
        "longest": longest,
        "first_seed": images[0].seed,
        "last": images[-1].name,
    }
    kept = root / MADE_BY
    if kept.exists() and json.loads(kept.read_text()) != plan:
        raise DatasetError(f"{root} holds images of another plan; name another folder")
    kept.write_text(json.dumps(plan, indent=1) + "\n")
    for folder in {Path(image.name).parent for image in images}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    missing = [image for image in images if not (root / image.name).exists()]
    done = len(images) - len(missing)
    written = in_processes(_write, [(root, image, longest) for image in missing], jobs)
    for number, _ in enumerate(written, done + 1):
        if on_progress:
            on_progress(number)
    for part in PARTS:
        names = [image.name for image in images if image.name.startswith(part)]
        studies = dict.fromkeys(name.rpartition("/")[0] for name in names)
        _list(root / f"{part}_image_paths.csv", [(f"{FOLDER}/{name}",) for name in names])
        _list(
            root / f"{part}_labeled_studies.csv",
            [(f"{FOLDER}/{study}/", int(study.endswith("positive"))) for study in studies],
        )
    return root


def _write(task: tuple[Path, PlannedImage, int]) -> None:
    root, image, longest = task
    phantom = make_phantom(image.seed, image.region, fracture=image.fracture, longest=longest)
    part = root / f"{image.name}.part"
    part.write_bytes(encode_phantom(phantom))
    part.rename(root / image.name)


def _list(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
