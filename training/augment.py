"""Random views of a radiograph for training, with the fracture mask moved along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.preprocess import letterbox
from pipeline.types import Float32Array, UInt8Array
from training.datasets import Polygon

#: Standard normal quantiles of the 256 values of a byte.
_NORMAL = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])


@dataclass(frozen=True)
class Augmentation:
    """How far a view may stray; the defaults suit hand-held bone radiographs.

    Attributes
    ----------
    degrees, shift, zoom
        Largest rotation, largest shift as a share of the side, largest relative change of scale.
    mirror, upside_down
        Probabilities. Left and right limbs look alike, so mirroring is true to life here.
    contrast, brightness, gamma
        Largest relative changes of the grey scale.
    noise
        Largest standard deviation of added noise, grey levels.
    """

    degrees: float = 20.0
    shift: float = 0.06
    zoom: float = 0.2
    mirror: float = 0.5
    upside_down: float = 0.2
    contrast: float = 0.25
    brightness: float = 0.1
    gamma: float = 0.25
    noise: float = 4.0


def augmented(
    pixels: UInt8Array,
    polygons: Sequence[Polygon],
    size: int,
    grid: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[UInt8Array, Float32Array]:
    """Draw one random view.

    Parameters
    ----------
    pixels
        uint8 (height, width).
    polygons
        Fracture outlines as shares of width and height.
    grid
        Side of the map of fracture cells.

    Returns
    -------
    UInt8Array
        uint8 (size, size), as `pipeline.preprocess.model_input` lays it out.
    Float32Array
        float32 (grid, grid), 0-1: how surely a cell belongs to a fracture.
    """
    a, (height, width) = augmentation, pixels.shape
    box = letterbox(width, height, size)
    scale = box.scale * float(np.exp(rng.uniform(-1, 1) * np.log1p(a.zoom)))
    angle = np.deg2rad(rng.uniform(-a.degrees, a.degrees))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= -1 if rng.random() < a.mirror else 1
    turn[:, 1] *= -1 if rng.random() < a.upside_down else 1
    centre = size / 2 + rng.uniform(-a.shift, a.shift, 2) * size
    matrix = np.column_stack([turn, centre - turn @ np.array([width / 2, height / 2])])
    view = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR)
    grey = np.linspace(0, 1, 256) ** float(np.exp(rng.uniform(-a.gamma, a.gamma)))
    grey = grey * (1 + rng.uniform(-a.contrast, a.contrast)) + rng.uniform(-a.brightness, a.brightness)
    view = cv2.LUT(view, np.clip(grey * 255, 0, 255).astype(np.uint8))
    # noise from one byte a pixel, near enough to normal after the cast to whole grey levels
    noise = rng.integers(0, 256, (size, size), dtype=np.uint8)
    level = np.clip(_NORMAL * rng.uniform(0, a.noise), -127, 127).astype(np.int8)
    shown = cv2.add(view, level[noise].astype(np.int16), dtype=cv2.CV_8U)
    return shown, fracture_cells(polygons, matrix, width, height, size, grid)


def fracture_cells(
    polygons: Sequence[Polygon],
    matrix: npt.NDArray[np.float64],
    width: int,
    height: int,
    size: int,
    grid: int,
) -> Float32Array:
    """Mark the cells of a (grid, grid) map that fracture outlines cover, after an affine `matrix` (2, 3)."""
    if not polygons:
        return np.zeros((grid, grid), np.float32)
    mask = np.zeros((size, size), np.float32)
    for polygon in polygons:
        points = (polygon * [width, height]) @ matrix[:, :2].T + matrix[:, 2]
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1.0)
    # a thin fracture covers little of its cell and is no less there
    covered = cv2.resize(mask, (grid, grid), interpolation=cv2.INTER_AREA)
    return np.clip(covered * 3, 0, 1).astype(np.float32)
