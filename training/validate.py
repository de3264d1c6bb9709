"""Sensitivity and specificity of a bundle on a site's labelled images, body part by body part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.bundle import Bundle, load_bundle
from models.fitted_on import FoundBy, fitted_on
from models.scorer import open_scorer
from pipeline.earned import PartFigures
from pipeline.triage import may_be_negative
from training.datasets import AUTO, hashed, load_pixels, open_dataset
from training.evaluate import chosen_part
from training.looks import looks_of_files
from training.readings import Reading, read_all


@dataclass(frozen=True)
class PartCounts(PartFigures):
    """Images that the bundle read as one body part.

    `may_say_negative` says whether the bundle's own evidence allows it.
    """

    region: str
    may_say_negative: bool


def count_parts(bundle: Bundle, readings: Iterable[Reading]) -> list[PartCounts]:
    """Count readings by the part that the bundle saw, since that is whose negative is said.

    Images that it does not assess are left out: it calls none of them negative. A positive below the
    threshold is missed even where a flag forbids *negative*; a negative is cleared only where none does.
    """
    counts = {region: [0, 0, 0, 0] for region in bundle.models}
    for reading in readings:
        if reading.route.not_assessable is not None or reading.probability is None:
            continue
        below = reading.probability < bundle.models[reading.route.region].thresholds.low
        row = counts[reading.route.region]
        if reading.example.positive:
            row[0] += 1
            row[1] += not below
        else:
            row[2] += 1
            row[3] += below and may_be_negative(reading.route.flags)
    return [
        PartCounts(*row, region=region, may_say_negative=bundle.models[region].may_say_negative)
        for region, row in counts.items()
    ]


@dataclass(frozen=True)
class Validation:
    """A bundle's figures on a data set, by part.

    `seen` counts images that it was fitted on, `alike` copies of those by their looks: they are in no figure.
    """

    bundle: Bundle
    parts: Mapping[str, PartCounts]
    images: int
    not_assessed: int
    seen: int
    alike: int


def validate(
    folder: Path,
    dataset: Path,
    *,
    format: str = AUTO,
    split: Path | None = None,
    part: str | None = None,
    cache: Path,
    backend: str = "auto",
) -> Validation:
    """Read a data set's images with a bundle as the service does, and count.

    Raises
    ------
    BundleError, DatasetError, ScorerError
    """
    bundle = load_bundle(folder)
    examples = hashed(chosen_part(open_dataset(dataset, format), split, part))
    pixels = load_pixels(examples, cache)
    seen = looks_of_files([example.path for example in examples])
    found = fitted_on(bundle).find([(e.sha256, look) for e, look in zip(examples, seen, strict=True)])
    own = [number for number, how in enumerate(found) if how is not FoundBy.LOOK]
    scorer = open_scorer(bundle, backend=backend, cache=cache / "networks")
    readings = read_all(scorer, [examples[n] for n in own], [pixels[n] for n in own])
    return Validation(
        bundle,
        {counts.region: counts for counts in count_parts(bundle, readings)},
        images=len(readings),
        not_assessed=sum(r.route.not_assessable is not None for r in readings),
        seen=found.count(FoundBy.FILE),
        alike=found.count(FoundBy.LOOK),
    )
