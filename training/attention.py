"""Where the attention map looks: the pointing game and the overlap of attention regions, against chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pipeline import metrics
from pipeline.explain import attention_regions, body_mask, heat_map
from pipeline.types import UInt8Array
from training.readings import Reading

#: Random places that an attention box is put in, for the overlap that chance gives.
_PLACES = 100
#: Each figure and what chance would give.
BY_CHANCE = {"peak_in_fracture": "chance", "peak_in_box": "chance_box", "iou": "chance_iou"}


def attention_figures(readings: Sequence[Reading], pixels: Mapping[str, UInt8Array]) -> dict[str, Any]:
    """Measure attention maps on positive images with outlines; intervals by bootstrap over groups.

    Returns
    -------
    dict
        `images`, and as value and interval: `peak_in_fracture` (pointing game, Zhang et al. 2016: the share
        of images whose heat map peaks inside an outline), `chance` (mean share of the picture that outlines
        cover), `peak_in_box` and `chance_box` (the same for bounding boxes), `iou` (mean best overlap of an
        attention region with a fracture's box), `chance_iou` (the same with the regions put anywhere).
    """
    played = [r for r in readings if r.example.polygons and r.cam is not None]
    rng = np.random.default_rng(0)
    rows = [_game(r, pixels[r.example.name], rng) for r in played]
    if not rows:
        return {"images": 0}
    names = [name for pair in BY_CHANCE.items() for name in pair]
    values = np.array(rows)

    def means(numbers: Any) -> dict[str, float]:
        return dict(zip(names, values[numbers].mean(axis=0).tolist(), strict=True))

    intervals = metrics.bootstrap(means, [r.example.patient or r.example.group for r in played])
    return {"images": len(rows)} | {
        key: {"value": value, "interval": intervals[key]}
        for key, value in means(np.arange(len(rows))).items()
    }


def _game(reading: Reading, picture: UInt8Array, rng: np.random.Generator) -> tuple[float, ...]:
    """Return hit and chance for outlines, for boxes, then overlap and that of chance."""
    height, width = picture.shape
    assert reading.cam is not None
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
    regions = attention_regions(reading.cam, width=width, height=height, body=body_mask(picture))
    found = np.array([(r.x, r.y, r.x + r.width, r.y + r.height) for r in regions], np.float64).reshape(-1, 4)
    fractures = np.array(corners, np.float64)
    drawn = [best_overlap(_anywhere(found, width, height, rng), fractures) for _ in range(_PLACES)]
    return (
        float(outline[y, x]),
        float(outline.mean()),
        float(boxes[y, x]),
        float(boxes.mean()),
        best_overlap(found, fractures),
        float(np.mean(drawn)),
    )


def _anywhere(boxes: Any, width: int, height: int, rng: np.random.Generator) -> Any:
    """Put boxes (n, 4) of left, top, right, bottom in random places of the picture, whole."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    starts = rng.random(sizes.shape) * np.maximum(0, [width, height] - sizes)
    return np.hstack([starts, starts + sizes])


def best_overlap(boxes: Any, others: Any) -> float:
    """Return the largest intersection over union of any of `boxes` (n, 4) with any of `others` (m, 4)."""
    if not len(boxes) or not len(others):
        return 0.0
    a, b = boxes[:, None], others[None]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(
        -1
    )
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return float((shared / (areas - shared)).max())
