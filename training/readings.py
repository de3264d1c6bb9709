"""What a bundle says of labelled radiographs: each read as the service does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.scorer import Scorer
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate
from pipeline.types import Route, UInt8Array
from training.datasets import (
    Example,
)


@dataclass(frozen=True)
class Reading:
    """What a bundle says of one example.

    `probability` and `cam` are those of the top region's model, also when the image is not assessable; None
    only when the bundle has no such model.
    """

    example: Example
    route: Route
    logit: float | None
    probability: float | None
    cam: npt.NDArray[np.float16] | None


def read_all(scorer: Scorer, examples: Sequence[Example], pixels: Sequence[UInt8Array]) -> list[Reading]:
    """Read examples as the service does: region, route, fracture network, calibration."""
    bundle, routes, distances = scorer.bundle, [], []
    for start in range(0, len(examples), 32):
        stack = np.stack([model_input(p, bundle.region_input_size) for p in pixels[start : start + 32]])
        scores = scorer.classify(stack)
        for row, distance in zip(scores.probabilities, scores.distances, strict=True):
            named = dict(zip(bundle.regions, map(float, row), strict=True))
            routes.append(
                route(
                    named,
                    float(distance),
                    bundle.routing,
                    body_part="",
                    regions=tuple(bundle.models),
                    families=bundle.families,
                )
            )
            distances.append(float(distance))
    logits: dict[int, float] = {}
    cams: dict[int, npt.NDArray[np.float16]] = {}
    for network in sorted({model.network for model in bundle.models.values()}):
        numbers = [
            i
            for i, r in enumerate(routes)
            if (model := bundle.model_for(r.region)) is not None and model.network == network
        ]
        size = bundle.input_size(network)
        for start in range(0, len(numbers), 32):
            part = numbers[start : start + 32]
            found = scorer.detect(network, np.stack([model_input(pixels[i], size) for i in part]))
            for place, i in enumerate(part):
                logits[i], cams[i] = float(found.logits[place]), found.cams[place]
    readings = []
    for i, (example, r) in enumerate(zip(examples, routes, strict=True)):
        model = bundle.model_for(r.region)
        p = calibrate(logits[i], model.calibration) if model else None
        readings.append(Reading(example, r, logits.get(i), p, cams.get(i)))
    return readings
