"""Class-activation map to heat map, overlay and attention regions in original pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.marks import corner_lines
from pipeline.preprocess import letterbox
from pipeline.types import AttentionRegion, Float32Array, UInt8Array

#: A region is where the heat is at least this share of the map's peak.
REGION_THRESHOLD = 0.5
#: Smaller regions, as a share of the picture, are not worth a person's eye.
MIN_REGION_AREA = 0.002
MAX_REGIONS = 3
#: How long the arms of a mark may be, as a share of the picture's longer side.
ARM = 0.03
#: How much of the picture the hottest colour hides.
MAX_OPACITY = 0.55
#: Regions are found on a map of at most this many pixels a side: a 7x7 map holds no finer detail.
_SEARCH_SIDE = 256


def _normalised(cam: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the map with its peak at 1; what is negative or not a number counts as no attention."""
    if cam.ndim != 2 or 0 in cam.shape:
        raise ValueError(f"expected a map of shape (rows, columns), got {cam.shape}")
    values = cam.astype(np.float64)
    values = np.where(np.isfinite(values), np.maximum(values, 0), 0)
    peak = float(values.max())
    return values / peak if peak > 0 else values


def _sampling(cells: int, pixels: int, before: int, square: int) -> npt.NDArray[np.float64]:
    """Return the (pixels, cells) weights of linear interpolation between the centres of cells.

    The cells share a side of `square` pixels evenly; the picture covers `pixels` of it, from `before` on.
    """
    position = np.clip((before + np.arange(pixels) + 0.5) * cells / square - 0.5, 0, cells - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))))


def heat_map(cam: npt.NDArray[Any], *, width: int, height: int) -> Float32Array:
    """Lay a class-activation map over the original picture, the letterbox undone.

    Parameters
    ----------
    cam
        Any float, shape (rows, columns), over the whole letterboxed square. Negative values, NaN and
        infinities count as 0.
    width, height
        Of the original picture, pixels.

    Returns
    -------
    Float32Array
        Shape (height, width), 0-1, 1 at the map's peak (which may lie in the border, outside the picture).
        All 0 for a map without attention.

    Raises
    ------
    ValueError
        The map is not two-dimensional or is empty, or a side is less than 1.
    """
    values = _normalised(cam)
    box = letterbox(width, height, max(width, height))
    down = _sampling(values.shape[0], height, box.top, box.size)
    along = _sampling(values.shape[1], width, box.left, box.size)
    return np.asarray(down @ values @ along.T, np.float32)


def attention_regions(cam: npt.NDArray[Any], *, width: int, height: int) -> tuple[AttentionRegion, ...]:
    """Return at most three boxes in original pixels where the model looked, the hottest first.

    Regions are connected where the heat map is at least half its peak and cover at least 0.2% of the picture.
    None for a map without attention, or with its attention outside the picture.
    """
    step = max(1.0, max(width, height) / _SEARCH_SIDE)
    columns, rows = max(1, round(width / step)), max(1, round(height / step))
    heat = heat_map(cam, width=columns, height=rows)
    hot = (heat >= REGION_THRESHOLD).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    found = []
    for i in range(1, count):  # 0 is the background
        x, y, w, h, area = (int(value) for value in stats[i])
        if area < MIN_REGION_AREA * heat.size:
            continue
        left, right = int(x * width / columns), int(np.ceil((x + w) * width / columns))
        top, bottom = int(y * height / rows), int(np.ceil((y + h) * height / rows))
        right, bottom = min(right, width), min(bottom, height)
        score = float(heat[y : y + h, x : x + w].mean(dtype=np.float64))
        found.append(AttentionRegion(left, top, right - left, bottom - top, min(score, 1.0)))
    return tuple(sorted(found, key=lambda region: -region.score)[:MAX_REGIONS])


def overlay_jpeg(display: UInt8Array, cam: npt.NDArray[Any], quality: int = 88) -> bytes:
    """Blend the heat map over the displayed picture, mark its attention regions' corners, and encode as JPEG.

    Parameters
    ----------
    display
        uint8, shape (height, width), what people see; any size in the original's proportion.
    cam
        As for `heat_map`.
    quality
        JPEG quality, 1-100.
    """
    height, width = display.shape
    heat = heat_map(cam, width=width, height=height)
    # inferno is even in lightness; the opacity follows the heat, so that cold places show the bare radiograph
    colour = cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), cv2.COLORMAP_INFERNO)
    opacity = heat * np.float32(MAX_OPACITY)
    grey = cv2.cvtColor(display, cv2.COLOR_GRAY2BGR)
    # five times as fast as the same sum in NumPy
    picture = np.asarray(cv2.blendLinear(grey, colour, 1 - opacity, opacity), np.uint8)
    thin = max(1, round(max(width, height) / 640))
    for region in attention_regions(cam, width=width, height=height):
        right, bottom = region.x + region.width - 1, region.y + region.height - 1
        lines = corner_lines(region.x, region.y, right, bottom, ARM * max(width, height))
        corners = [np.array(line, np.float32).round().astype(np.int32) for line in lines]
        cv2.polylines(picture, corners, isClosed=False, color=(0, 0, 0), thickness=thin + 2)
        cv2.polylines(picture, corners, isClosed=False, color=(255, 255, 255), thickness=thin)
    encoded, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"cannot encode a picture of {width} x {height} pixels as JPEG")
    return bytes(data)
