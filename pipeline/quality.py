"""Can this picture be read, and is it a radiograph at all? A first, simple gate."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Reason, Rejected, UInt8Array

#: The shorter side that a picture must have, in pixels.
MIN_SIDE = 64
#: The longer side, in pixels, at which a picture is judged.
_SIDE = 384
#: Grey levels between the 1st and the 99th percentile. Real radiographs: 69 and more.
MIN_CONTRAST = 8
#: Share of pixels whose colour is not the tint of their brightness, and how far off they must be.
MAX_COLOURED = 0.10
COLOUR_DISTANCE = 16.0
#: A page: this share of the pixels is paper ...
MIN_PAPER = 0.6
PAPER_GREY = 200
#: ... and what is not paper falls to pieces, of which the largest holds less than this share.
MAX_PIECE = 0.25


def require_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that is too large to decode or too small to read.

    Raises
    ------
    Rejected
        TOO_LARGE or TOO_SMALL.
    """
    if width * height > max_pixels:
        raise Rejected(Reason.TOO_LARGE, f"{width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise Rejected(Reason.TOO_SMALL, f"{width} x {height}")


def require_radiograph(picture: npt.NDArray[Any]) -> None:
    """Refuse what is plainly no radiograph.

    A tint that depends on brightness alone (sepia, a blue film base, a green monitor) passes: it is grey with
    one more step. So do small coloured marks. Black-and-white photographs pass too; telling them
    apart is left to the distance from the training data.

    Parameters
    ----------
    picture
        uint8 array of shape (h, w) or (h, w, 3) blue-green-red.

    Raises
    ------
    Rejected
        NOT_A_RADIOGRAPH.
    """
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small: UInt8Array = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False) if small.ndim == 3 else small
    if small.ndim == 3 and coloured_share(small) > MAX_COLOURED:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a picture in colour")
    if contrast(grey) < MIN_CONTRAST:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a blank picture")
    if looks_like_a_page(grey):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a page of text")


def contrast(grey: npt.NDArray[Any]) -> float:
    """Grey levels between the 1st and the 99th percentile."""
    low, high = np.percentile(grey, (1, 99))
    return float(high - low)


def coloured_share(picture: UInt8Array) -> float:
    """Share, 0-1, of the pixels whose colour differs from the tint of their brightness, in one hue for all.

    Parameters
    ----------
    picture
        uint8 array of shape (h, w, 3), blue-green-red.
    """
    colours = picture.reshape(-1, 3).astype(np.float32)
    brightness = colours @ np.array([0.114, 0.587, 0.299], np.float32)
    chroma = colours[:, ::2] - brightness[:, None]
    bins = (brightness / 8).astype(np.intp)
    counts = np.maximum(np.bincount(bins, minlength=32), 1)
    tint = np.stack([np.bincount(bins, chroma[:, c], minlength=32) / counts for c in (0, 1)], axis=1)
    hue = chroma.mean(axis=0)
    hue /= max(float(np.linalg.norm(hue)), 1e-6)
    tint = np.maximum(tint @ hue, 0)[:, None] * hue  # one hue for all brightnesses
    return float(np.mean(np.linalg.norm(chroma - tint[bins], axis=1) > COLOUR_DISTANCE))


def looks_like_a_page(grey: UInt8Array) -> bool:
    """Tell whether small dark pieces stand on paper, where an inverted radiograph shows one body part.

    Parameters
    ----------
    grey
        uint8 array of shape (h, w).
    """
    paper = int(np.bincount(grey[grey >= PAPER_GREY], minlength=256).argmax())
    ink = (grey < max(paper - 24, 1)).astype(np.uint8)
    if paper < PAPER_GREY or not 0 < ink.mean() < 1 - MIN_PAPER:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    return bool(stats[1:, cv2.CC_STAT_AREA].max() < MAX_PIECE * ink.sum())
