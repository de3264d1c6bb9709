"""Measure a bundle on labelled radiographs, image by image, as the service would read them.

python -m training.evaluate models/bundles/NAME ../shared/data/fracatlas --split training/splits/fracatlas.csv
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.bundle import Bundle, load_bundle
from models.scorer import Scorer, open_scorer
from pipeline import metrics
from pipeline.explain import attention_regions, heat_map
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate
from pipeline.types import Route, UInt8Array
from training.datasets import Example, load_pixels, read_fracatlas, read_split

BoolArray = npt.NDArray[np.bool_]


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
                route(named, float(distance), bundle.routing, body_part="", regions=tuple(bundle.models))
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


def region_right(reading: Reading) -> bool:
    """Tell whether the top region is one that the image is tagged with."""
    return reading.route.region in reading.example.regions


def _fracture_figures(bundle: Bundle, readings: Sequence[Reading]) -> dict[str, Any]:
    """Return figures with intervals over the readings that have a probability."""
    read = [r for r in readings if r.probability is not None]
    p = np.array([r.probability for r in read], np.float64)
    y = np.array([r.example.positive for r in read])
    cuts = [bundle.models[r.route.region].thresholds for r in read]
    low, high = np.array([c.low for c in cuts]), np.array([c.high for c in cuts])
    if not y.any() or y.all():
        return {"images": len(read), "positives": int(y.sum())}
    figures = metrics.figures_of_merit(p, y, low, high)
    intervals = metrics.bootstrap(
        lambda k: metrics.figures_of_merit(p[k], y[k], low[k], high[k]), [r.example.group for r in read]
    )
    return {key: _figure(value, intervals.get(key)) for key, value in figures.items()}


def _figure(value: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    """Return a figure for JSON, which knows no NaN: what cannot be computed is null."""
    return {"value": None if np.isnan(value) else value, "interval": interval}


def pointing(readings: Sequence[Reading], pixels: Mapping[str, UInt8Array]) -> dict[str, float]:
    """Play the pointing game (Zhang et al. 2016) on fractured images with outlines.

    Returns
    -------
    dict
        `peak_in_fracture`: share of images whose heat map peaks inside an outline; `chance`: mean share of
        the picture that outlines cover; `peak_in_box` and `chance_box` the same for bounding boxes; `iou`:
        mean best overlap of an attention region with a fracture's box.
    """
    hits, chances, box_hits, box_chances, overlaps = [], [], [], [], []
    for reading in readings:
        if not reading.example.polygons or reading.cam is None:
            continue
        height, width = pixels[reading.example.name].shape
        heat = heat_map(reading.cam, width=width, height=height)
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        outline, boxes = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        corners = []
        for polygon in reading.example.polygons:
            points = np.round(polygon * [width, height]).astype(np.int32)
            cv2.fillPoly(outline, [points], 1)
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            boxes[top : bottom + 1, left : right + 1] = 1
            corners.append((left, top, right + 1, bottom + 1))
        hits.append(outline[y, x])
        chances.append(outline.mean())
        box_hits.append(boxes[y, x])
        box_chances.append(boxes.mean())
        regions = attention_regions(reading.cam, width=width, height=height)
        overlaps.append(
            max(
                (_iou((r.x, r.y, r.x + r.width, r.y + r.height), c) for r in regions for c in corners),
                default=0.0,
            )
        )
    mean = lambda values: float(np.mean(values)) if values else float("nan")  # noqa: E731
    return {
        "images": float(len(hits)),
        "peak_in_fracture": mean(hits),
        "chance": mean(chances),
        "peak_in_box": mean(box_hits),
        "chance_box": mean(box_chances),
        "iou": mean(overlaps),
    }


def _iou(a: Sequence[int], b: Sequence[int]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


SUBGROUPS: Mapping[str, Callable[[Example], bool]] = {
    "without implants": lambda e: e.traits.get("hardware") == "0",
    "without implants and multi-scans": lambda e: (
        e.traits.get("hardware") == "0" and e.traits.get("multiscan") == "0"
    ),
    "one region only": lambda e: len(e.regions) == 1,
    "frontal": lambda e: e.traits.get("views") == "frontal",
    "lateral": lambda e: e.traits.get("views") == "lateral",
}


def evaluate(
    bundle: Bundle, scorer: Scorer, examples: Sequence[Example], pixels: Sequence[UInt8Array]
) -> dict[str, Any]:
    """Return all figures of a bundle on a set of examples, ready for JSON."""
    return figures_of(bundle, read_all(scorer, examples, pixels), pixels)


def figures_of(bundle: Bundle, readings: Sequence[Reading], pixels: Sequence[UInt8Array]) -> dict[str, Any]:
    """Return all figures of readings that are there already; `pixels` in the same order."""
    examples = [reading.example for reading in readings]
    right = np.array([region_right(r) for r in readings], np.float64)
    single = np.array([len(e.regions) == 1 for e in examples])
    turned_away = np.array([r.route.not_assessable is not None for r in readings], np.float64)
    groups = [e.group for e in examples]
    shares = lambda k: {  # noqa: E731
        "region_accuracy": float(right[k].mean()),
        "region_accuracy_one_region": float(right[k][single[k]].mean()) if single[k].any() else float("nan"),
        "not_assessable": float(turned_away[k].mean()),
    }
    intervals = metrics.bootstrap(shares, groups)
    routing = {
        key: _figure(value, intervals.get(key)) for key, value in shares(np.arange(len(readings))).items()
    }
    fitted_on = set((bundle.folder / bundle.manifest["fitted_on"]["file"]).read_text().split())
    by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
    return {
        "bundle": {"name": bundle.name, "sha256": bundle.sha256},
        "images": len(examples),
        "fitted_on_overlap": sum(e.sha256[:12] in fitted_on for e in examples),
        "routing": routing,
        "overall": _fracture_figures(bundle, readings),
        "regions": {
            region: _fracture_figures(bundle, [r for r in readings if r.route.region == region])
            for region in bundle.models
        },
        "subgroups": {
            name: _fracture_figures(bundle, [r for r in readings if holds(r.example)])
            for name, holds in SUBGROUPS.items()
        },
        "attention": pointing(readings, by_name),
    }


def summary(figures: Mapping[str, Any]) -> str:
    """Return the main figures as a text table."""
    lines = [f"{figures['images']} images; {figures['fitted_on_overlap']} of them among those fitted on"]
    for key, figure in figures["routing"].items():
        lines.append(f"{key:<28} {_shown(figure)}")
    head = ("auc", "average_precision", "accuracy", "precision", "recall", "f1", "ece", "sensitivity_at_low")
    parts = {"overall": figures["overall"], **figures["regions"], **figures["subgroups"]}
    for name, part in parts.items():
        if "auc" not in part:
            lines.append(f"{name}: {part['positives']} fractured of {part['images']}: no figures")
            continue
        counts = f"{part['positives']['value']:.0f} fractured of {part['images']['value']:.0f}"
        lines.append(f"{name} ({counts})")
        lines += [f"  {key:<26} {_shown(part[key])}" for key in head]
    attention = figures["attention"]
    lines.append(
        f"pointing game: peak in the outline {attention['peak_in_fracture']:.3f} "
        f"(chance {attention['chance']:.3f}), in the box {attention['peak_in_box']:.3f} "
        f"(chance {attention['chance_box']:.3f}); "
        f"IoU of attention regions {attention['iou']:.3f}"
    )
    return "\n".join(lines)


def _shown(figure: Mapping[str, Any]) -> str:
    interval = figure["interval"]
    if figure["value"] is None:
        return "none"
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="fractureai evaluate", description="Measure a bundle on labelled radiographs."
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("dataset", type=Path, help="folder of FracAtlas with manifest.csv")
    parser.add_argument("--split", type=Path, help="split file; without one all images are measured")
    parser.add_argument("--part", default="test", help="part of the split (default: test)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="default: runs/cache")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--html", type=Path, help="write a page with all figures and plots here")
    parser.add_argument("--backend", default="auto", choices=("auto", "tensorflow", "openvino"))
    args = parser.parse_args(arguments)
    bundle, dataset = load_bundle(args.bundle), read_fracatlas(args.dataset)
    examples = read_split(args.split, dataset.examples)[args.part] if args.split else dataset.examples
    pixels = load_pixels(examples, args.cache)
    readings = read_all(open_scorer(bundle, backend=args.backend), examples, pixels)
    figures = figures_of(bundle, readings, pixels)
    print(summary(figures))
    if args.html:
        from training.report_page import report_page

        by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
        args.html.write_text(report_page(figures, readings, by_name))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
