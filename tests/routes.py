"""Pictures through a shipped bundle's network that tells the part, as the service routes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.scorer import Scorer
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.types import Route, UInt8Array


def routes(scorer: Scorer, pictures: Sequence[UInt8Array], body_part: str = "") -> list[Route]:
    """Return where each picture goes."""
    bundle, found = scorer.bundle, []
    for start in range(0, len(pictures), 32):
        stack = np.stack([model_input(p, bundle.region_input_size) for p in pictures[start : start + 32]])
        scores = scorer.classify(stack)
        for row, distance in zip(scores.probabilities, scores.distances, strict=True):
            said = dict(zip(bundle.regions, map(float, row), strict=True))
            regions = tuple(bundle.models)
            found.append(
                route(
                    said,
                    float(distance),
                    bundle.routing,
                    body_part=body_part,
                    regions=regions,
                    families=bundle.families,
                )
            )
    return found
