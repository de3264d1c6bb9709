"""What a bundle says of a data set's files, for the figures that the server's runs have too.

Each file is decoded at its full size, as the service decodes uploads; what the service would not read is
scored by force. The figures are `pipeline.evaluation`'s, which the server gives the same records.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from models.scorer import Scorer
from pipeline import evaluation
from pipeline.decode import decode
from pipeline.evaluation import Record
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.types import Radiograph, Rejected, Skipped
from training.datasets import Dataset, Example

MAX_PIXELS = 100_000_000
TOGETHER = 32


def records(scorer: Scorer, dataset: Dataset, part: str = "", *, routing: bool = False) -> list[Record]:
    """Score a data set, or one part of it.

    Parameters
    ----------
    routing
        Score with every network of the bundle, for `pipeline.evaluation.routing_study`.
    """
    examples = [e for e in dataset.examples if not part or e.part == part]
    mura = dataset.name == "MURA"
    return [
        record
        for start in range(0, len(examples), TOGETHER)
        for record in _scored(scorer, examples[start : start + TOGETHER], mura, routing)
    ]


def _scored(scorer: Scorer, examples: Sequence[Example], mura: bool, routing: bool) -> Iterator[Record]:
    bundle = scorer.bundle
    hashes: dict[str, str] = {}
    pictures: dict[str, Radiograph] = {}
    for example in examples:
        data = example.path.read_bytes()
        hashes[example.name] = hashlib.sha256(data).hexdigest()
        try:
            pictures[example.name] = decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "")
        except (Rejected, Skipped):
            continue
    seen: dict[str, dict[str, float]] = {}
    read: dict[str, bool] = {}
    tops: dict[str, str] = {}
    if pictures:
        found = scorer.classify(_stack(pictures, list(pictures), bundle.region_input_size))
        for name, row, distance in zip(pictures, found.probabilities, found.distances, strict=True):
            seen[name] = dict(zip(bundle.regions, map(float, row), strict=True))
            way = route(
                seen[name],
                float(distance),
                bundle.routing,
                families=bundle.families,
                body_part=pictures[name].facts.body_part,
                regions=tuple(bundle.models),
            )
            read[name], tops[name] = way.not_assessable is None, way.region
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for name in pictures:
        own = bundle.models[evaluation.forced_region(bundle.models, seen[name])].network
        for network in {m.network for m in bundle.models.values()} if routing else {own}:
            wanted[network].append(name)
    logits: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for network, names in sorted(wanted.items()):
        scores = scorer.detect(network, _stack(pictures, names, bundle.input_size(network)))
        for name, logit in zip(names, scores.logits, strict=True):
            logits[name][network] = float(logit)
    for example in examples:
        name, region = example.name, "+".join(example.regions)
        score, others = None, None
        if name in pictures:
            score, others = evaluation.scores_of(
                bundle.models, seen[name], logits[name], read=read[name], region=region
            )
        yield Record(
            example.path.as_posix(),
            hashes[name],
            evaluation.study_name(name, example.study, mura=mura),
            example.patient or example.group or name,
            region,
            example.positive,
            tops.get(name, ""),
            score,
            others if routing else None,
        )


def _stack(pictures: Mapping[str, Radiograph], names: Sequence[str], size: int) -> np.ndarray:
    return np.stack([model_input(pictures[name].pixels, size) for name in names])


def summary(figures: Mapping[str, Any]) -> str:
    """Return the main figures by study as text."""
    lines = [f"{count} {what}" for what, count in figures["coverage"].items()]
    for name, part in {"all": figures["study"]["pooled"], **figures["study"]["regions"]}.items():
        shown = [
            f"{key} {part['figures'][key]['value']:.3f}"
            for key in ("auc", "kappa", "accuracy")
            if part.get("figures") and part["figures"][key]["value"] is not None
        ]
        lines.append(f"{name} ({part['n']} studies): {', '.join(shown) or 'no figures'}")
    return "\n".join(lines)
