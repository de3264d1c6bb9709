"""Suspected places: boxes that a network draws, or that lie around what an evidence map finds, scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.preprocess import letterbox
from pipeline.types import PlaceRules, SuspectedBox

#: An outline covers its cells and half of those beside it; a component is this share of its peak and more.
_OF_PEAK = 0.4
#: More would say that the network is lost rather than where to look.
MAX_PLACES = 5
#: So many cells are looked at, the surest ones.
_CELLS = 150
#: Boxes that overlap so much tell of one place and are averaged; of those that overlap less, but more than
#: the second, the surest is kept.
_SAME, _OVERLAPPING = 0.4, 0.3
#: Sure cells count this much more in the average: their probability to the power of this.
_SURER = 4.0
#: Logit of an evidence map's cell that speaks neither for nor against a fracture: most are empty.
_EMPTY = -3.0


@dataclass(frozen=True)
class SuspectedPlace:
    """A box that the network suspects a fracture in.

    Attributes
    ----------
    left, top, width, height
        Shares of the picture's width and height, 0-1.
    score
        How sure the network is of it, 0-1.
    strong
        Whether the score reaches `PlaceRules.strong`.
    """

    left: float
    top: float
    width: float
    height: float
    score: float
    strong: bool

    def in_pixels(self, width: int, height: int) -> SuspectedBox:
        """Return the box in pixels of a picture of this size, at least one each way."""
        x, y = min(int(self.left * width), width - 1), min(int(self.top * height), height - 1)
        right = max(x + 1, min(width, round((self.left + self.width) * width)))
        bottom = max(y + 1, min(height, round((self.top + self.height) * height)))
        return SuspectedBox(x, y, right - x, bottom - y, self.score, self.strong)


def suspected_places(
    evidence: npt.NDArray[np.floating], width: int, height: int, rules: PlaceRules
) -> tuple[SuspectedPlace, ...]:
    """Return the places that an evidence map suspects, the surest first, at most `MAX_PLACES`.

    Peaks are taken from the surest down; a place is what is joined to a peak and holds at least `_OF_PEAK` of
    its score. Places outside the picture, in the square's black border, are left out.

    Parameters
    ----------
    evidence
        Of shape (h, w), 0-1, over the whole square that the network saw.
    width, height
        Of the picture, pixels.
    """
    side = len(evidence)
    box = letterbox(width, height, side)
    rest = np.zeros((side, side), np.float32)
    rows = slice(box.top, box.top + box.inner_height)
    columns = slice(box.left, box.left + box.inner_width)
    rest[rows, columns] = evidence[rows, columns]
    found: list[SuspectedPlace] = []
    while len(found) < MAX_PLACES and (score := float(rest.max())) >= rules.shown and score > 0:
        peak = np.unravel_index(int(rest.argmax()), rest.shape)
        _, labels = cv2.connectedComponents((rest >= _OF_PEAK * score).astype(np.uint8), connectivity=8)
        inside = labels == labels[peak]
        ys, xs = np.nonzero(inside)
        found.append(_place(xs, ys, score, box.left, box.top, box.inner_width, box.inner_height, rules))
        # what lies around a place is its slope, not another place
        rest[cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = 0
    return tuple(found)


def drawn_places(
    boxes: npt.NDArray[np.floating],
    evidence: npt.NDArray[np.floating],
    logit: float,
    width: int,
    height: int,
    rules: PlaceRules,
) -> tuple[SuspectedPlace, ...]:
    """Return the places that a network draws as boxes, the surest first, at most `MAX_PLACES`.

    Boxes of several cells that tell of one place are averaged, the surest cells counting most (weighted box
    fusion, Solovyev et al. 2021). A place's score is the logistic of its surest cell's logit plus
    ``rules.evidence`` times that of the evidence map there, less `_EMPTY`, plus ``rules.film`` times the
    picture's logit. Places whose middle lies outside the
    picture, in the square's black border, are left out; the others end where the picture does.

    Parameters
    ----------
    boxes
        Of shape (h, w, 5), over the whole square that the network saw: of every cell its logit, and the
        logarithms of the distances, in cells, from its middle to the left, top, right and bottom of its box.
    evidence
        Of shape (h, w) or coarser, 0-1; of a second network, where two look.
    logit
        The picture's, of its fracture network.
    width, height
        Of the picture, pixels.
    """
    cells = boxes.astype(np.float64)
    if rules.evidence:
        cells[..., 0] += rules.evidence * (_logits_on(evidence, len(boxes)) - _EMPTY)
    corners, logits = _boxes_of_cells(cells)
    span = np.array([width, height] * 2) * len(boxes) / max(width, height)
    start = (len(boxes) - span) / 2
    found: list[SuspectedPlace] = []
    for box, cell in _apart(corners, logits):
        score = float(1 / (1 + np.exp(-(cell + rules.film * logit))))
        if score < rules.shown or len(found) == MAX_PLACES:
            break
        left, top, right, bottom = (box - start) / span
        if 0 <= left + right <= 2 and 0 <= top + bottom <= 2:
            left, top, right, bottom = np.clip((left, top, right, bottom), 0.0, 1.0)
            found.append(
                SuspectedPlace(
                    float(left), float(top), float(right - left), float(bottom - top),
                    score, score >= rules.strong,
                )
            )  # fmt: skip
    return tuple(found)


def _logits_on(evidence: npt.NDArray[np.floating], side: int) -> npt.NDArray[np.float64]:
    """Return the logits of an evidence map on a grid as fine or finer."""
    share = np.clip(evidence.astype(np.float64), 3e-4, 1 - 3e-4)
    nearest = np.arange(side) * len(evidence) // side
    return np.asarray(np.log(share / (1 - share))[np.ix_(nearest, nearest)])


def _boxes_of_cells(boxes: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Return corners (n, 4), in cells, and logits of the surest cells, the surest first."""
    side = len(boxes)
    cells = boxes.reshape(-1, 5)
    order = np.argsort(-cells[:, 0], kind="stable")[:_CELLS]
    middles = np.column_stack([order % side, order // side]) + 0.5
    reach = np.exp(cells[order, 1:])
    corners = np.hstack([middles - reach[:, :2], middles + reach[:, 2:]])
    return corners, [float(logit) for logit in cells[order, 0]]


def _apart(
    corners: npt.NDArray[np.float64], logits: list[float]
) -> Iterator[tuple[npt.NDArray[np.float64], float]]:
    """Yield boxes that tell of different places, and the logit of the surest cell of each."""
    sureness = (1 / (1 + np.exp(-np.array(logits)))) ** _SURER
    overlap = overlaps(corners, corners)
    middles = (corners[:, :2] + corners[:, 2:]) / 2
    left = np.ones(len(corners), bool)
    for number in range(len(corners)):
        if not left[number]:
            continue
        same = overlap[number] >= _SAME
        weights = sureness[same] * overlap[number][same]
        box = (corners[same] * weights[:, None]).sum(axis=0) / weights.sum()
        inside = ((middles > box[:2]) & (middles < box[2:])).all(axis=1)
        near = (overlap[number] > _OVERLAPPING) | (overlaps(box[None], corners)[0] > _OVERLAPPING)
        left &= ~inside & ~near
        yield box, logits[number]


def overlaps(boxes: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of boxes (n, 4) with others (m, 4), as (n, m).

    A box is left, top, right, bottom.
    """
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    joined = shared.prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return np.asarray(joined / np.maximum(areas - joined, 1e-12))


def _place(
    xs: npt.NDArray[np.int_],
    ys: npt.NDArray[np.int_],
    score: float,
    left: int,
    top: int,
    inner_width: int,
    inner_height: int,
    rules: PlaceRules,
) -> SuspectedPlace:
    longer = max(inner_width, inner_height)

    def span(cells: npt.NDArray[np.int_], start: int, length: int) -> tuple[float, float]:
        low, high = float(cells.min()) - start, float(cells.max()) + 1 - start
        missing = max(0.0, rules.smallest * longer - (high - low)) / 2
        low, high = max(0.0, low - missing), min(float(length), high + missing)
        return low / length, (high - low) / length

    x, wide = span(xs, left, inner_width)
    y, tall = span(ys, top, inner_height)
    return SuspectedPlace(x, y, wide, tall, score, score >= rules.strong)
