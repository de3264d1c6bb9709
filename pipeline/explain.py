"""Class-activation map to heat map, overlay and attention regions in original pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.marks import corner_lines
from pipeline.preprocess import letterbox
from pipeline.types import AttentionRegion, Float32Array, UInt8Array
from vocabulary.states import Triage

#: On what attention is marked: the map of a negative points at what the model did not find.
MARKED = frozenset({Triage.POSITIVE, Triage.DOUBT})
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
#: The body: brighter than this share of the way from the background to Otsu's threshold, or rough and
#: brighter than the second share. Chosen so that every outlined fracture of FracAtlas lies inside.
_BRIGHT, _FAINT, _ROUGH = 0.4, 0.15, 4.0
#: Smaller pieces, as a share of the picture, are letters and markers; and how far around it the body still
#: goes, as a share of the longer side.
_PIECE, _AROUND = 0.01, 0.03


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


def body_mask(display: UInt8Array) -> UInt8Array:
    """Tell the body from the empty background of a radiograph.

    Pieces that are brighter than the background, or a little brighter and not smooth, with a margin; letters
    and markers are left out. Bright borders of the field count as body.

    Parameters
    ----------
    display
        uint8, shape (height, width), bone bright.

    Returns
    -------
    UInt8Array
        0 or 1, at most 256 pixels on the longer side; all 1 for a picture without a background.
    """
    height, width = display.shape
    step = max(1.0, max(width, height) / _SEARCH_SIDE)
    size = max(1, round(width / step)), max(1, round(height / step))
    grey = cv2.GaussianBlur(cv2.resize(display, size, interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    smooth = grey.astype(np.float32)
    dark = float(np.percentile(smooth, 2))
    mean = cv2.blur(smooth, (9, 9))
    rough = cv2.blur(smooth * smooth, (9, 9)) - mean * mean > _ROUGH**2
    bright = smooth > dark + _BRIGHT * (otsu - dark)
    body = (bright | (rough & (smooth > dark + _FAINT * (otsu - dark)))).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= _PIECE * body.size
    large[0] = False  # the background
    body = large[pieces].astype(np.uint8)
    if not body.any():
        return np.ones_like(body)
    reach = max(1, round(_AROUND * max(size)))
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(body, round_), np.uint8)


def _on_body(heat: Float32Array, body: UInt8Array | None) -> Float32Array:
    """Return a heat map without what lies off the body."""
    if body is None:
        return heat
    height, width = heat.shape
    inside = cv2.resize(body.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(heat * inside, np.float32)


def share_on_body(body: UInt8Array, left: float, top: float, width: float, height: float) -> float:
    """Return which share of a box lies on the body; the box in shares of the picture's sides, 0-1."""
    rows, columns = body.shape
    x, y = int(left * columns), int(top * rows)
    right, bottom = max(x + 1, round((left + width) * columns)), max(y + 1, round((top + height) * rows))
    return float(body[y:bottom, x:right].mean())


def on_body(body: UInt8Array, place: Mapping[str, Any], width: int, height: int) -> bool:
    """Tell whether at least half of a box lies on the body.

    Parameters
    ----------
    place
        `x`, `y`, `width` and `height` in pixels of a picture of `width` by `height`.
    """
    shares = (place["x"] / width, place["y"] / height, place["width"] / width, place["height"] / height)
    return share_on_body(body, *shares) >= 0.5


def attention_regions(
    cam: npt.NDArray[Any], *, width: int, height: int, body: UInt8Array | None = None
) -> tuple[AttentionRegion, ...]:
    """Return at most three boxes in original pixels where the model looked, the hottest first.

    Regions are connected where the heat map is at least half its peak and cover at least 0.2% of the picture;
    half of their box lies on the body. None for a map without attention, or with its attention outside the
    picture or the body.

    Parameters
    ----------
    body
        As `body_mask` gives it; by default the whole picture.
    """
    step = max(1.0, max(width, height) / _SEARCH_SIDE)
    columns, rows = max(1, round(width / step)), max(1, round(height / step))
    heat = _on_body(heat_map(cam, width=columns, height=rows), body)
    hot = (heat >= REGION_THRESHOLD).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    found = []
    for i in range(1, count):  # 0 is the background
        x, y, w, h, area = (int(value) for value in stats[i])
        if area < MIN_REGION_AREA * heat.size:
            continue
        if body is not None and share_on_body(body, x / columns, y / rows, w / columns, h / rows) < 0.5:
            continue
        left, right = int(x * width / columns), int(np.ceil((x + w) * width / columns))
        top, bottom = int(y * height / rows), int(np.ceil((y + h) * height / rows))
        right, bottom = min(right, width), min(bottom, height)
        score = float(heat[y : y + h, x : x + w].mean(dtype=np.float64))
        found.append(AttentionRegion(left, top, right - left, bottom - top, min(score, 1.0)))
    return tuple(sorted(found, key=lambda region: -region.score)[:MAX_REGIONS])


def heat_png(cam: npt.NDArray[Any], *, width: int, height: int, body: UInt8Array | None = None) -> bytes:
    """Draw the heat map alone, to lie over the radiograph: transparent where the model did not look.

    Parameters
    ----------
    cam, width, height
        As for `heat_map`.
    body
        As `body_mask` gives it; by default the whole picture.

    Returns
    -------
    bytes
        PNG with alpha, at most 256 pixels on the longer side: the map holds no finer detail.
    """
    step = max(1.0, max(width, height) / _SEARCH_SIDE)
    size = {"width": max(1, round(width / step)), "height": max(1, round(height / step))}
    heat = _on_body(heat_map(cam, **size), body)
    colour = cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), cv2.COLORMAP_INFERNO)
    alpha = cv2.convertScaleAbs(heat, alpha=255 * MAX_OPACITY)
    encoded, data = cv2.imencode(".png", np.dstack([colour, alpha]))
    if not encoded:
        raise ValueError(f"cannot encode a map of {width} x {height} pixels as PNG")
    return bytes(data)


def overlay_jpeg(
    display: UInt8Array,
    cam: npt.NDArray[Any],
    quality: int = 88,
    *,
    marked: bool = True,
    body: UInt8Array | None = None,
) -> bytes:
    """Blend the heat map over the body, mark its attention regions' corners, and encode as JPEG.

    Parameters
    ----------
    display
        uint8, shape (height, width), what people see; any size in the original's proportion.
    cam
        As for `heat_map`.
    quality
        JPEG quality, 1-100.
    marked
        Whether attention regions are marked: not on a negative, where the map's peak may mean nothing.
    body
        `body_mask` of the picture, where it is known already.
    """
    height, width = display.shape
    body = body_mask(display) if body is None else body
    heat = _on_body(heat_map(cam, width=width, height=height), body)
    # inferno is even in lightness; the opacity follows the heat, so that cold places show the bare radiograph
    colour = cv2.applyColorMap(cv2.convertScaleAbs(heat, alpha=255), cv2.COLORMAP_INFERNO)
    opacity = heat * np.float32(MAX_OPACITY)
    grey = cv2.cvtColor(display, cv2.COLOR_GRAY2BGR)
    # five times as fast as the same sum in NumPy
    picture = np.asarray(cv2.blendLinear(grey, colour, 1 - opacity, opacity), np.uint8)
    thin = max(1, round(max(width, height) / 640))
    for region in attention_regions(cam, width=width, height=height, body=body) if marked else ():
        right, bottom = region.x + region.width - 1, region.y + region.height - 1
        lines = corner_lines(region.x, region.y, right, bottom, ARM * max(width, height))
        corners = [np.array(line, np.float32).round().astype(np.int32) for line in lines]
        cv2.polylines(picture, corners, isClosed=False, color=(0, 0, 0), thickness=thin + 2)
        cv2.polylines(picture, corners, isClosed=False, color=(255, 255, 255), thickness=thin)
    encoded, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"cannot encode a picture of {width} x {height} pixels as JPEG")
    return bytes(data)


def grey_of(jpeg: bytes) -> UInt8Array:
    """Return a display picture's grey values: uint8 (rows, columns)."""
    return cast(UInt8Array, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE))


@dataclass(frozen=True)
class Attention:
    """Where a network looked in a radiograph, on the body alone.

    Attributes
    ----------
    grey, body
        The display picture, and its `body_mask`.
    marked
        Whether regions and places are shown: the map of a negative points at what was not found.
    regions
        In pixels of the original.
    places
        The suspected places that lie on the body, as they were given.
    """

    grey: UInt8Array
    body: UInt8Array
    marked: bool
    regions: tuple[AttentionRegion, ...] = ()
    places: tuple[Mapping[str, Any], ...] = ()


def locate_attention(
    display: bytes,
    cam: npt.NDArray[Any],
    places: Iterable[Mapping[str, Any]],
    triage: str | None,
    *,
    width: int,
    height: int,
) -> Attention:
    """Find the attention regions of a reading, and which suspected places lie on the body.

    Parameters
    ----------
    display
        The display picture, a JPEG.
    cam
        As for `heat_map`.
    places
        `x`, `y`, `width` and `height` in pixels of the original.
    width, height
        Of the original.
    """
    grey = grey_of(display)
    body = body_mask(grey)
    if triage not in MARKED:
        return Attention(grey, body, marked=False)
    regions = attention_regions(cam, width=width, height=height, body=body)
    shown = tuple(place for place in places if on_body(body, place, width, height))
    return Attention(grey, body, marked=True, regions=regions, places=shown)
