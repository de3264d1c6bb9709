"""Suspected places: boxes around what an evidence map finds, each with a score."""

from __future__ import annotations

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


@dataclass(frozen=True)
class SuspectedPlace:
    """A box that the network suspects a fracture in.

    Attributes
    ----------
    left, top, width, height
        Shares of the picture's width and height, 0-1.
    score
        The evidence map's peak inside, 0-1.
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
