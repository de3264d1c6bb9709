"""All figures of a bundle on labelled radiographs: by image, by study, by region and by subgroup."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.fitted_on import FoundBy, fitted_on
from pipeline import metrics
from pipeline.lookalikes import look_of
from pipeline.metrics import BoolArray, FloatArray
from pipeline.types import UInt8Array
from training.attention import attention_figures
from training.datasets import Example
from training.readings import Reading

#: What FracAtlas calls the family of the arm.
_FAMILY_TAGS = {"arm": "hand"}


def region_right(reading: Reading, families: Mapping[str, str]) -> bool:
    """Tell whether the image is tagged with the top region, or with the family of a bundle that has them."""
    region, tags = reading.route.region, reading.example.regions
    family = families.get(region, region)
    return region in tags or _FAMILY_TAGS.get(family, family) in tags


def unit_of(example: Example) -> str:
    """Return what the bootstrap draws: the patient, else the group of near-duplicates."""
    return example.patient or example.group


def _measured(
    p: FloatArray,
    y: BoolArray,
    lows: FloatArray,
    highs: FloatArray,
    units: Sequence[str],
    prevalence: float | None,
) -> dict[str, Any]:
    """Return figures with intervals; only counts where a class is empty."""
    if not y.any() or y.all():
        return {"images": len(y), "positives": int(y.sum())}
    site = float(y.mean()) if prevalence is None else prevalence
    figures = metrics.figures_of_merit(p, y, lows, highs, site)
    intervals = metrics.bootstrap(
        lambda k: metrics.figures_of_merit(p[k], y[k], lows[k], highs[k], site), units
    )
    return {key: _figure(value, intervals.get(key)) for key, value in figures.items()}


def _figure(value: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    """Return a figure for JSON, which knows no NaN: what cannot be computed is null."""
    return {"value": None if np.isnan(value) else value, "interval": interval}


def _cuts(bundle: Bundle, readings: Sequence[Reading]) -> tuple[FloatArray, FloatArray]:
    """Return the operating points that hold for each reading."""
    cuts = [bundle.models[r.route.region].thresholds for r in readings]
    return np.array([c.low for c in cuts]), np.array([c.high for c in cuts])


def _by_image(bundle: Bundle, readings: Sequence[Reading], prevalence: float | None) -> dict[str, Any]:
    """Return figures over the readings that have a probability.

    `in_doubt` is the share between the cuts, and below the lower one where a part does not say negative.
    """
    read = [r for r in readings if r.probability is not None]
    p = np.array([r.probability for r in read], np.float64)
    y = np.array([r.example.positive for r in read], bool)
    units = [unit_of(r.example) for r in read]
    lows, highs = _cuts(bundle, read)
    found = _measured(p, y, lows, highs, units, prevalence)
    if read:
        speaks = np.array([bundle.models[r.route.region].may_say_negative for r in read])
        doubt = (p < highs) & ((p >= lows) | ~speaks)
        shares = lambda k: {"in_doubt": float(doubt[k].mean())}  # noqa: E731
        found["in_doubt"] = _figure(float(doubt.mean()), metrics.bootstrap(shares, units).get("in_doubt"))
    return found


def _by_study(bundle: Bundle, readings: Sequence[Reading], prevalence: float | None) -> dict[str, Any] | None:
    """Return figures over studies, read by their worst image and by the mean; None without any study.

    The worst is the clinical rule: the image of the gravest triage and then of the highest probability
    speaks for its study. The mean probability is the rule of MURA (Rajpurkar et al. 2018).
    """
    studies: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.example.study and reading.probability is not None:
            studies.setdefault(reading.example.study, []).append(reading)
    if not studies:
        return None
    worst, mean, truth, units = [], [], [], []
    for members in studies.values():
        p = np.array([r.probability for r in members], np.float64)
        lows, highs = _cuts(bundle, members)
        gravest = np.lexsort((p, (p >= lows).astype(int) + (p >= highs)))[-1]
        worst.append((p[gravest], lows[gravest], highs[gravest]))
        mean.append((p.mean(), lows.mean(), highs.mean()))
        truth.append(any(r.example.positive for r in members))
        units.append(unit_of(members[0].example))
    y = np.array(truth, bool)
    found: dict[str, Any] = {"studies": len(studies)}
    for rule, rows in (("worst image", worst), ("mean of images", mean)):
        p, lows, highs = np.array(rows).T
        found[rule] = _measured(p, y, lows, highs, units, prevalence)
    return found


SUBGROUPS: Mapping[str, Callable[[Example], bool]] = {
    "with implants": lambda e: e.traits.get("hardware") == "1",
    "without implants": lambda e: e.traits.get("hardware") == "0",
    "multi-scans": lambda e: e.traits.get("multiscan") == "1",
    "without implants and multi-scans": lambda e: (
        e.traits.get("hardware") == "0" and e.traits.get("multiscan") == "0"
    ),
    "large scans": lambda e: e.traits.get("large") == "1",
    "small scans": lambda e: e.traits.get("large") == "0",
    "one region only": lambda e: len(e.regions) == 1,
    "frontal": lambda e: e.traits.get("views") == "frontal",
    "lateral": lambda e: e.traits.get("views") == "lateral",
    "oblique": lambda e: e.traits.get("views") == "oblique",
}


def figures_of(
    bundle: Bundle,
    readings: Sequence[Reading],
    pixels: Sequence[UInt8Array],
    *,
    prevalence: float | None = None,
    label_meaning: str = "",
) -> dict[str, Any]:
    """Return all figures of readings, ready for JSON.

    Parameters
    ----------
    pixels
        In the order of the readings.
    prevalence
        Of the site that predictive values are stated for; by default that of the images measured.
    label_meaning
        What a positive of the data set means, where it may differ from the bundle's.
    """
    examples = [reading.example for reading in readings]
    right = np.array([region_right(r, bundle.families) for r in readings], np.float64)
    single = np.array([len(e.regions) == 1 for e in examples])
    turned_away = np.array([r.route.not_assessable is not None for r in readings], np.float64)
    shares = lambda k: {  # noqa: E731
        "region_accuracy": float(right[k].mean()),
        "region_accuracy_one_region": float(right[k][single[k]].mean()) if single[k].any() else float("nan"),
        "not_assessable": float(turned_away[k].mean()),
    }
    intervals = metrics.bootstrap(shares, [unit_of(e) for e in examples])
    routing = {
        key: _figure(value, intervals.get(key)) for key, value in shares(np.arange(len(readings))).items()
    }
    found = fitted_on(bundle).find([(_digest(e), look_of(p)) for e, p in zip(examples, pixels, strict=True)])
    by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
    return {
        "bundle": {
            "name": bundle.name,
            "sha256": bundle.sha256,
            "label_meaning": bundle.label_meaning,
        },
        "label_meaning": label_meaning or bundle.label_meaning,
        "images": len(examples),
        "patients_known": all(e.patient for e in examples),
        "prevalence": float(np.mean([e.positive for e in examples])) if prevalence is None else prevalence,
        "fitted_on_overlap": found.count(FoundBy.FILE),
        "fitted_on_alike": found.count(FoundBy.LOOK),
        "routing": routing,
        "overall": _by_image(bundle, readings, prevalence),
        "regions": {
            region: _by_image(bundle, [r for r in readings if r.route.region == region], prevalence)
            for region in bundle.models
        },
        "subgroups": {
            name: _by_image(bundle, members, prevalence)
            for name, holds in SUBGROUPS.items()
            if (members := [r for r in readings if holds(r.example)])
        },
        "studies": _by_study(bundle, readings, prevalence),
        "attention": attention_figures(readings, by_name),
    }


def _digest(example: Example) -> str:
    return example.sha256 or hashlib.sha256(example.path.read_bytes()).hexdigest()


def summary(figures: Mapping[str, Any]) -> str:
    """Return the main figures as a text table."""
    lines = [
        f"{figures['images']} images; {figures['fitted_on_overlap']} of them among those fitted on, "
        f"{figures['fitted_on_alike']} more look like one of those"
    ]
    for key, figure in figures["routing"].items():
        lines.append(f"{key:<28} {_shown(figure)}")
    head = ("auc", "average_precision", "accuracy", "precision", "recall", "f1", "ece")
    head += ("sensitivity_at_low", "specificity_at_low", "in_doubt")
    parts = {"overall": figures["overall"], **figures["regions"], **figures["subgroups"]}
    if figures["studies"]:
        parts |= {f"studies, {rule}": part for rule, part in figures["studies"].items() if rule != "studies"}
    for name, part in parts.items():
        if "auc" not in part:
            lines.append(f"{name}: {part['positives']} positive of {part['images']}: no figures")
            continue
        counts = f"{part['positives']['value']:.0f} positive of {part['images']['value']:.0f}"
        lines.append(f"{name} ({counts})")
        lines += [f"  {key:<26} {_shown(part[key])}" for key in head if key in part]
    attention = figures["attention"]
    if attention["images"]:
        for key, chance in (
            ("peak_in_fracture", "chance"),
            ("peak_in_box", "chance_box"),
            ("iou", "chance_iou"),
        ):
            words = f"{_shown(attention[key])}, by chance {attention[chance]['value']:.3f}"
            lines.append(f"attention, {key:<17} {words}")
    return "\n".join(lines)


def _shown(figure: Mapping[str, Any]) -> str:
    interval = figure["interval"]
    if figure["value"] is None:
        return "none"
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


#: Columns of `by_part`: what a figure is called in a table, and its key.
_COLUMNS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "loss": "loss",
    "AUC": "auc",
}


def by_part(figures: Mapping[str, Any], label_meaning: str) -> str:
    """Return the figures of each body part as a Markdown table; a part without both classes only counts."""
    head = ("part", "films", label_meaning, *_COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, part in {"all": figures["overall"], **figures["regions"]}.items():
        counts = [_count(part[key]) for key in ("images", "positives")]
        cells = [_ranged(part[key]) if key in part else "" for key in _COLUMNS.values()]
        lines.append("| " + " | ".join((name, *counts, *cells)) + " |")
    return "\n".join(lines) + "\n"


def _count(figure: Any) -> str:
    return f"{figure['value'] if isinstance(figure, Mapping) else figure:.0f}"


def _ranged(figure: Mapping[str, Any]) -> str:
    interval = figure["interval"]
    if figure["value"] is None:
        return "none"
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")
