"""What a bundle said of labelled images, as figures: by study and by image, by region and pooled.

Studies follow MURA's rule (Rajpurkar et al. 2018): the mean of the images' probabilities, abnormal above 0.5.
`fractureai evaluate` and the server's runs call the same functions, so that their figures are the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.triage import calibrate
from pipeline.types import RegionModel

CUT = 0.5
ROUNDS = 1000
#: A bootstrap draws no more rows than this in all, but for so many rounds: 40,000 images end in minutes.
MAX_DRAWS, FEWEST_ROUNDS = 10_000_000, 250
#: What an image is scored by: the region that the bundle sees, the one it truly is, or the pooled network.
ROUTES = ("predicted", "true", "pooled")


@dataclass(frozen=True)
class Score:
    """One probability, with the operating points that hold for it.

    Attributes
    ----------
    region
        By whose model it was read.
    read
        Whether the service would have read the image; else the score is forced, for the evaluation alone.
    """

    region: str
    probability: float
    low: float
    high: float
    read: bool


@dataclass(frozen=True)
class Record:
    """One image of a dataset and what a bundle said of it.

    Attributes
    ----------
    name
        Its path in the dataset.
    study, patient
        Images of one study are judged together; studies of one patient are drawn together.
    region
        What the dataset says it shows, may be empty.
    label
        None where the dataset says nothing.
    seen
        The region that the bundle sees; empty when the image could not be decoded.
    score
        None when the image could not be decoded.
    others
        Scores by the ways of `ROUTES`, when they were asked for.
    look
        Its perceptual hash (`pipeline.lookalikes`); None where it is not known.
    """

    name: str
    sha256: str
    study: str
    patient: str
    region: str
    label: bool | None
    seen: str
    score: Score | None
    others: Mapping[str, Score] | None = None
    look: bytes | None = None


@dataclass(frozen=True)
class StudyRecord:
    """The images of one study together; `probability` is None when none of them could be scored."""

    study: str
    patient: str
    region: str
    label: bool | None
    probability: float | None
    low: float
    high: float
    n_images: int


def forced_region(models: Mapping[str, RegionModel], probabilities: Mapping[str, float]) -> str:
    """Return the most probable of the regions that the bundle reads, if need be against its own routing."""
    return min(models, key=lambda region: (-probabilities.get(region, 0.0), region))


def score_by(model: RegionModel, logit: float, *, read: bool) -> Score:
    """Return the calibrated score of a logit under a region's model."""
    cuts = model.thresholds
    return Score(model.region, calibrate(logit, model.calibration), cuts.low, cuts.high, read)


def scores_of(
    models: Mapping[str, RegionModel],
    probabilities: Mapping[str, float],
    logits: Mapping[str, float],
    *,
    read: bool,
    region: str,
) -> tuple[Score | None, dict[str, Score]]:
    """Return an image's score, and those by the ways of `ROUTES` that `logits` allow.

    Parameters
    ----------
    probabilities
        Of the regions.
    logits
        By network.
    region
        What the image truly shows.
    """
    seen = models[forced_region(models, probabilities)]
    score = score_by(seen, logits[seen.network], read=read) if seen.network in logits else None
    others: dict[str, Score] = {}
    true = models.get(region)
    pooled = {model.network for model in models.values() if model.pooled}
    if score is not None and true is not None and true.network in logits:
        others = {"predicted": score, "true": score_by(true, logits[true.network], read=read)}
        for network in sorted(pooled & set(logits)):
            # calibrated for the region seen if the pooled network reads it, else for the first that it does
            owners = (
                [seen] if seen.network == network else [m for m in models.values() if m.network == network]
            )
            others["pooled"] = score_by(owners[0], logits[network], read=read)
            break
    return score, others


def study_name(name: str, study: str, *, mura: bool) -> str:
    """Return what an image's study is called in figures and predictions.

    Parameters
    ----------
    name
        The image's path in its dataset.
    study
        The study as the dataset gives it; where it gives none the image is a study of its own.
    mura
        MURA's lists name a study by its folder, label and all.
    """
    return f"MURA-v1.1/{name.rpartition('/')[0]}" if mura else study or name


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else CUT


def _worst(values: Sequence[float]) -> float:
    return max(values, default=CUT)


def studies_of(records: Iterable[Record], *, worst: bool = False) -> list[StudyRecord]:
    """Join the images of each study: mean probability, mean operating points, positive if any image is.

    Parameters
    ----------
    worst
        Take the highest probability instead of the mean, as the service does: a study is as bad as its worst
        image.
    """
    joint = _worst if worst else _mean
    images: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        images[record.study].append(record)
    joined = []
    for study, members in images.items():
        scores = [m.score for m in members if m.score is not None]
        labels = [m.label for m in members if m.label is not None]
        joined.append(
            StudyRecord(
                study,
                members[0].patient,
                members[0].region,
                any(labels) if labels else None,
                joint([s.probability for s in scores]) if scores else None,
                _mean([s.low for s in scores]),
                _mean([s.high for s in scores]),
                len(members),
            )
        )
    return joined


@dataclass(frozen=True)
class _Arrays:
    p: metrics.FloatArray
    y: metrics.BoolArray
    low: metrics.FloatArray
    high: metrics.FloatArray
    patients: list[str]

    @classmethod
    def of(cls, rows: Sequence[StudyRecord]) -> _Arrays:
        """Take labelled rows; one without a score counts as an error, as wrong as can be."""
        y = np.array([bool(row.label) for row in rows], np.bool_)
        p = np.array([np.nan if row.probability is None else row.probability for row in rows], np.float64)
        p = np.where(np.isnan(p), np.where(y, 0.0, 1.0), p)
        p = np.where(p == CUT, np.nextafter(CUT, 0), p)  # abnormal is above, not at, the cut
        low, high = np.array([row.low for row in rows]), np.array([row.high for row in rows])
        return cls(p, y, low, high, [row.patient for row in rows])


def figures_of(rows: Sequence[StudyRecord], *, rounds: int = ROUNDS, seed: int = 0) -> dict[str, Any]:
    """Return every figure of labelled studies (or of images as studies of one) with 95% intervals.

    Intervals are percentiles of a bootstrap over patients. What cannot be computed is null.
    """
    rows = [row for row in rows if row.label is not None]
    positives = sum(bool(row.label) for row in rows)
    counts = {"n": len(rows), "positives": positives, "patients": len({row.patient for row in rows})}
    if not 0 < positives < len(rows):
        return counts
    a = _Arrays.of(rows)
    rounds = min(rounds, max(FEWEST_ROUNDS, MAX_DRAWS // len(rows)))
    said = a.p > CUT

    def merit(k: npt.NDArray[np.intp]) -> dict[str, float]:
        return metrics.figures_of_merit(a.p[k], a.y[k], a.low[k], a.high[k])

    values = merit(np.arange(len(rows)))
    intervals = metrics.bootstrap(merit, a.patients, rounds=rounds, seed=seed)
    return {
        **counts,
        "rounds": rounds,
        "confusion": {
            "tp": int((said & a.y).sum()),
            "fp": int((said & ~a.y).sum()),
            "fn": int((~said & a.y).sum()),
            "tn": int((~said & ~a.y).sum()),
        },
        "roc": roc_points(a.p, a.y),
        "roc_cuts": roc_cuts(a.p),
        "reliability": reliability(a.p, a.y),
        "figures": {
            key: {"value": None if math.isnan(value) else value, "interval": intervals.get(key)}
            for key, value in values.items()
            if key not in {"images", "positives"}
        },
    }


def _roc_places(p: metrics.FloatArray, most: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the order from the highest score, and which places of it are kept as points of the curve."""
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
    return order, last[np.unique(np.linspace(0, len(last) - 1, min(most, len(last))).round().astype(int))]


def roc_points(p: metrics.FloatArray, y: metrics.BoolArray, most: int = 100) -> list[tuple[float, float]]:
    """Return the ROC curve as (false positive rate, sensitivity), thinned to at most `most` points."""
    order, keep = _roc_places(p, most)
    tpr = np.cumsum(y[order])[keep] / y.sum()
    fpr = np.cumsum(~y[order])[keep] / (~y).sum()
    return [(0.0, 0.0), *((round(float(x), 5), round(float(t), 5)) for x, t in zip(fpr, tpr, strict=True))]


def roc_cuts(p: metrics.FloatArray, most: int = 100) -> list[float]:
    """Return from which probability on a study counts as positive at each of the points of `roc_points`."""
    order, keep = _roc_places(p, most)
    return [1.0, *(round(float(cut), 5) for cut in p[order][keep])]


def reliability(p: metrics.FloatArray, y: metrics.BoolArray) -> list[dict[str, float]]:
    """Return stated and true share in ten equal steps of probability."""
    place = np.minimum((p * 10).astype(int), 9)
    return [
        {
            "stated": float(p[place == b].mean()),
            "true": float(y[place == b].mean()),
            "n": int((place == b).sum()),
        }
        for b in np.unique(place)
    ]


def _by_region(rows: Sequence[StudyRecord], rounds: int) -> dict[str, Any]:
    regions = sorted({row.region for row in rows if row.region})
    return {
        "pooled": figures_of(rows, rounds=rounds),
        "regions": {r: figures_of([row for row in rows if row.region == r], rounds=rounds) for r in regions},
    }


def as_studies_of_one(records: Iterable[Record]) -> list[StudyRecord]:
    """Return scored images as rows of their own, for figures by image."""
    return studies_of(replace(r, study=r.name) for r in records if r.score is not None)


def coverage(records: Sequence[Record], studies: Sequence[StudyRecord]) -> dict[str, int]:
    """Count what the service would have read, what was scored by force, and what could not be scored."""
    return {
        "images": len(records),
        "read": sum(r.score is not None and r.score.read for r in records),
        "forced": sum(r.score is not None and not r.score.read for r in records),
        "unscored": sum(r.score is None for r in records),
        "unlabelled": sum(r.label is None for r in records),
        "studies": len(studies),
        "studies_unscored": sum(s.probability is None for s in studies),
        "patients": len({r.patient for r in records}),
    }


def region_confusion(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Return how often each true region was seen as which."""
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.region and record.seen:
            table[record.region][record.seen] += 1
    return {region: dict(sorted(row.items())) for region, row in sorted(table.items())}


def routing_study(records: Iterable[Record], *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the study-level figures of each way of `ROUTES` on the images that have all of them."""
    all_ways = [r for r in records if r.others and all(way in r.others for way in ROUTES)]
    if not all_ways:
        return {"images": 0}
    ways = {}
    for way in ROUTES:
        chosen = [replace(r, score=r.others[way]) for r in all_ways if r.others]
        ways[way] = {
            key: value for key, value in figures_of(studies_of(chosen), rounds=rounds).items() if key != "roc"
        }
    return {"images": len(all_ways), "ways": ways}


def evaluate(records: Sequence[Record], *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return all figures of one bundle on one dataset, ready for JSON."""
    records = sorted(records, key=lambda r: r.name)  # the bootstrap draws by position
    studies = studies_of(records)
    return {
        "coverage": coverage(records, studies),
        "study": _by_region(studies, rounds),
        "study_worst": figures_of(studies_of(records, worst=True), rounds=rounds),
        "image": _by_region(as_studies_of_one(records), rounds),
        "region_confusion": region_confusion(records),
        "routing": routing_study(records, rounds=rounds),
    }


def prediction_lines(studies: Iterable[StudyRecord]) -> list[str]:
    """Return what MURA's evaluation took: the study's path with a trailing slash, 0 or 1, no header.

    A study that could not be scored is left normal there: the format has no third word.
    """
    return [
        f"{row.study.rstrip('/')}/,{int(row.probability is not None and row.probability > CUT)}"
        for row in sorted(studies, key=lambda s: s.study)
    ]
