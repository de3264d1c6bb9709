"""Random views that make a network travel: other detectors, printers, viewers and habits than its data's."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.preprocess import letterbox
from pipeline.types import Float32Array, UInt8Array
from training.augment import fracture_cells
from training.datasets import Polygon

_TEXT = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:/-"


def travelled(
    pixels: UInt8Array, polygons: Sequence[Polygon], size: int, grid: int, rng: np.random.Generator
) -> tuple[UInt8Array, Float32Array, Float32Array]:
    """Draw one random view; see `training.augment.augmented` for what comes in.

    Geometry: rotation, scale 0.6 to 1.4, aspect, shift, mirror. Then what a picture goes through between
    detector and upload, each with a probability of its own: equalisation, gamma, contrast, inversion, blur or
    sharpening, fewer pixels, collimation, burnt-in text, noise, JPEG.

    Returns
    -------
    UInt8Array
        (size, size), the view.
    Float32Array
        (grid, grid), how much of each cell lies in a fracture's outline.
    Float32Array
        (n, 4), the boxes around the outlines, in pixels of the view; some may lie outside it in part.
    """
    height, width = pixels.shape
    box = letterbox(width, height, size)
    for _ in range(4):
        matrix = _placement(width, height, size, box.scale, rng)
        cells = fracture_cells(polygons, matrix, width, height, size, grid)
        if not polygons or cells.any():
            break  # a fracture stays in the picture
    black_border = 0 if rng.random() < 0.85 else int(rng.integers(0, 256))
    view = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_AREA, borderValue=black_border)
    return styled(np.asarray(view, np.uint8), rng), cells, moved_boxes(polygons, matrix, width, height)


def moved_boxes(polygons: Sequence[Polygon], matrix: Float32Array, width: int, height: int) -> Float32Array:
    """Return the boxes (n, 4) around outlines that a (2, 3) matrix moves: left, top, right, bottom.

    Parameters
    ----------
    polygons
        Corners (m, 2) as shares of the picture's width and height.
    width, height
        Of the picture, in pixels.
    """
    corners = []
    for polygon in polygons:
        points = (polygon * [width, height]) @ matrix[:, :2].T + matrix[:, 2]
        corners.append([*points.min(axis=0), *points.max(axis=0)])
    return np.array(corners, np.float32).reshape(-1, 4)


def _placement(width: int, height: int, size: int, scale: float, rng: np.random.Generator) -> Float32Array:
    spread = np.log(1.4) if rng.random() < 0.3 else np.log(1.15)
    scale = scale * float(np.exp(rng.uniform(-spread * 1.3, spread)))
    degrees = rng.uniform(-25, 25) + (rng.choice([90, 180, 270]) if rng.random() < 0.08 else 0)
    angle = np.deg2rad(degrees)
    aspect = float(np.exp(rng.uniform(-0.25, 0.25))) if rng.random() < 0.4 else 1.0
    return placed(width, height, size, scale, float(angle), aspect, rng)


def placed(
    width: int, height: int, size: int, scale: float, angle: float, aspect: float, rng: np.random.Generator
) -> Float32Array:
    """Return the (2, 3) matrix that turns, stretches, perhaps mirrors and shifts a picture into a square.

    Parameters
    ----------
    size
        Of the square, in pixels.
    angle
        In radians.
    aspect
        By how much it is stretched across against down.
    rng
        Draws whether it is mirrored, and its shift.
    """
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([aspect**0.5, aspect**-0.5])
    turn[:, 0] *= -1 if rng.random() < 0.5 else 1
    turn[:, 1] *= -1 if rng.random() < 0.15 else 1
    centre = size / 2 + rng.uniform(-0.08, 0.08, 2) * size
    return np.column_stack([turn, centre - turn @ np.array([width / 2, height / 2])])


def equalised(view: UInt8Array) -> UInt8Array:
    """Spread the grey values evenly, as some viewers and data sets do."""
    return np.asarray(cv2.equalizeHist(view), np.uint8)


def styled(view: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Change how a picture looks and not what it shows."""
    chance = rng.random(12)
    size = len(view)
    if chance[0] < 0.1:
        view = equalised(view)
    elif chance[0] < 0.3:
        tiles = int(rng.integers(2, 9))
        view = cv2.createCLAHE(float(rng.uniform(1, 4)), (tiles, tiles)).apply(view)
    if chance[1] < 0.15:
        view = cv2.GaussianBlur(view, (0, 0), float(rng.uniform(0.3, 1.2)))
    elif chance[1] < 0.35:
        blurred = cv2.GaussianBlur(view, (0, 0), float(rng.uniform(0.8, 2.5)))
        amount = float(rng.uniform(0.3, 1.5))
        view = cv2.addWeighted(view, 1 + amount, blurred, -amount, 0)
    if chance[2] < 0.1:
        small = int(size * rng.uniform(0.5, 0.9))
        view = cv2.resize(cv2.resize(view, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    if chance[3] < 0.15:
        view = _collimated(view, rng)
    if chance[4] < 0.2:
        view = _written_on(view, rng)
    grey = np.linspace(0, 1, 256) ** float(np.exp(rng.uniform(-0.5, 0.5)))
    grey = grey * (1 + rng.uniform(-0.3, 0.3)) + rng.uniform(-0.12, 0.12)
    if chance[5] < 0.08:
        grey = 1 - grey
    view = cv2.LUT(view, np.clip(grey * 255, 0, 255).astype(np.uint8))
    if chance[6] < 0.5:
        noise = np.zeros((size, size), np.int8)
        cv2.randn(noise, 0, float(rng.uniform(0.5, 7)))
        view = cv2.add(view, noise, dtype=cv2.CV_8U)
    if chance[7] < 0.2:
        kept = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
        view = cv2.imdecode(kept, cv2.IMREAD_GRAYSCALE)
    return np.asarray(view, np.uint8)


def _collimated(view: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    size = len(view)
    inside = np.zeros_like(view)
    sides = size * rng.uniform(0.75, 1.05, 2)
    frame = ((size / 2, size / 2), sides.tolist(), float(rng.uniform(-12, 12)))
    cv2.fillPoly(inside, [np.round(cv2.boxPoints(frame)).astype(np.int32)], 255)
    border = int(rng.choice([0, 0, 255, rng.integers(0, 60)]))
    return np.where(inside > 0, view, np.uint8(border))


def _written_on(view: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    size = len(view)
    view = view.copy()
    for _ in range(rng.integers(1, 4)):
        text = "".join(rng.choice(list(_TEXT), rng.integers(1, 14)))
        place = (int(rng.uniform(0, 0.8) * size), int(rng.choice([0.06, 0.12, 0.9, 0.97]) * size))
        thick = int(rng.integers(1, 3))
        cv2.putText(view, text, place, cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.25, 0.9)),
                    int(rng.choice([255, 255, 0])), thick, cv2.LINE_AA)  # fmt: skip
    return view
