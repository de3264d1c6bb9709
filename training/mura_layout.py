"""Phantoms, and radiographs of FracAtlas, laid out exactly as MURA v1.1 is: folders, names, four lists.

    fractureai phantoms OUT --layout mura --count 5000 --size 128
    fractureai phantoms OUT --layout mura --count 5000 --size 320 --fracatlas FOLDER

A stopped run goes on where it was. An abnormal study's phantoms are all fractured. The images of a study
share region and label; unlike a patient's, phantoms of one patient do not show the same bones.

Of FracAtlas come the images that show one region that MURA has, hand or shoulder. It has no patients: images
that look alike count as one's, so that none stands on both sides of the split.
"""  # fmt: skip

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.decode import decode
from training.datasets.example import Dataset, DatasetError, Example
from training.datasets.fracatlas import read_fracatlas
from training.datasets.mura import MADE_BY, PARTS, REGIONS
from training.datasets.scan import MAX_PIXELS, scan
from training.datasets.splits import SplitPlan, make_split
from training.processes import in_processes

FOLDER = "MURA-v1.1"
#: At most this share of the images are radiographs: they show two of the seven regions.
RADIOGRAPHS = 0.4
NOTICE = "SYNTHETIC PHANTOMS laid out as MURA v1.1: no patients. Made by FractureAI."
RADIOGRAPHS_NOTICE = (
    " Among them radiographs of FracAtlas (Abedeen et al. 2023, doi 10.1038/s41597-023-02432-4, CC BY 4.0), "
    "downscaled and saved as PNG; their patient numbers stand for groups of images that look alike."
)


@dataclass(frozen=True)
class PlannedImage:
    """One picture: its path below `FOLDER`; made from a phantom's seed, or from the file of a radiograph."""

    name: str
    region: str
    fracture: bool
    seed: int
    source: Path | None = None


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


def plan_with_fracatlas(
    count: int,
    fracatlas: Path,
    *,
    seed: int = 0,
    regions: Sequence[str] = REGIONS,
    abnormal_share: float = 0.4,
    valid_share: float = 0.15,
    jobs: int | None = None,
) -> list[PlannedImage]:
    """Plan `count` images, up to `RADIOGRAPHS` of them FracAtlas's; see `plan_images`.

    Left out of it: what shows several regions, or one that MURA lacks (leg, hip); what cannot be decoded;
    and normal images with an implant, which MURA would call abnormal.

    Raises
    ------
    DatasetError
        The folder does not hold FracAtlas, or no image of it is left.
    """
    dataset = read_fracatlas(fracatlas)
    chosen = [e for e in dataset.examples if len(e.regions) == 1 and e.regions[0] in regions]
    chosen = [e for e in chosen if e.positive or e.traits["hardware"] != "1"]
    if not chosen:
        raise DatasetError(f"{fracatlas} has no image of {', '.join(regions)} alone")
    patients = _patients(replace(dataset, examples=tuple(chosen)), seed, valid_share, jobs)
    taken, images = 0, []
    for number, (part, examples) in enumerate(patients):
        if taken + len(examples) > count * RADIOGRAPHS:
            break
        taken += len(examples)
        images += _radiographs(part, number, examples)
    options = {"seed": seed, "abnormal_share": abnormal_share, "valid_share": valid_share}
    phantoms = plan_images(count - taken, regions=regions, **options)  # type: ignore[arg-type]
    last = int(phantoms[-1].name.split("/")[2].removeprefix("patient"))
    return phantoms + [
        replace(i, name=i.name.format(patient=f"patient{last + 1 + i.seed:05d}"), seed=0) for i in images
    ]


def _patients(
    dataset: Dataset, seed: int, valid_share: float, jobs: int | None
) -> list[tuple[str, list[Example]]]:
    """Return groups of look-alikes with their parts, in an order of chance."""
    shares = {"train": 1 - valid_share, "val": valid_share}
    split = make_split(scan(dataset, jobs=jobs), SplitPlan(shares, seed=seed))
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in dataset.examples:
        if example.name in split.sides:
            groups[split.groups[example.name]].append(example)
    order = np.random.default_rng([seed, 5]).permutation(len(groups))
    found = [groups[name] for name in sorted(groups)]
    return [(PARTS[split.sides[found[i][0].name] != "train"], found[i]) for i in order]


def _radiographs(part: str, patient: int, examples: Sequence[Example]) -> list[PlannedImage]:
    """Plan one patient's: a study for each region and label; `seed` is the patient until it has a number."""
    studies: dict[tuple[str, bool], list[Example]] = defaultdict(list)
    for example in examples:
        studies[example.regions[0], example.positive].append(example)
    images, numbers = [], defaultdict[str, int](int)
    for (region, positive), members in studies.items():
        numbers[region] += 1
        word = "positive" if positive else "negative"
        folder = f"{part}/XR_{region.upper()}/{{patient}}/study{numbers[region]}_{word}"
        images += [
            PlannedImage(f"{folder}/image{n}.png", region, positive, patient, e.path)
            for n, e in enumerate(members, 1)
        ]
    return images


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
    radiographs = sum(image.source is not None for image in images)
    plan = {
        "notice": NOTICE + (RADIOGRAPHS_NOTICE if radiographs else ""),
        "images": len(images),
        "radiographs": radiographs,
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
    if image.source is None:
        data = encode_phantom(
            make_phantom(image.seed, image.region, fracture=image.fracture, longest=longest)
        )
    else:
        data = _png(image.source, longest)
    part = root / f"{image.name}.part"
    part.write_bytes(data)
    part.rename(root / image.name)


def _png(source: Path, longest: int) -> bytes:
    pixels = decode(source.read_bytes(), max_pixels=MAX_PIXELS, pseudonymise=lambda _: "").pixels
    scale = longest / max(pixels.shape)
    if scale < 1:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _list(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
