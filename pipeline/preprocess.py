"""Radiograph to model input and to display picture; the one code path, training uses it too."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.types import UInt8Array


@dataclass(frozen=True)
class Letterbox:
    """How a picture of (width, height) lies inside a black square of `size` pixels.

    Attributes
    ----------
    scale
        Input pixels per original pixel.
    left, top
        Of the picture inside the square, in input pixels.
    inner_width, inner_height
        Of the picture inside the square, in input pixels.
    """

    size: int
    scale: float
    left: int
    top: int
    inner_width: int
    inner_height: int


def letterbox(width: int, height: int, size: int) -> Letterbox:
    """Fit a picture into a square, whole and in proportion, centred.

    Parameters
    ----------
    width, height
        Of the original, pixels, both at least 1.
    size
        Side of the square, pixels.
    """
    if min(width, height, size) < 1:
        raise ValueError(f"sides must be at least 1 pixel, not {width} x {height} in {size}")
    scale = size / max(width, height)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Letterbox(
        size, scale, (size - inner_width) // 2, (size - inner_height) // 2, inner_width, inner_height
    )


def _resized(pixels: UInt8Array, width: int, height: int) -> UInt8Array:
    # area averaging keeps thin lines when shrinking; it is nearest-neighbour when enlarging
    shrinking = width < pixels.shape[1]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)


def model_input(pixels: UInt8Array, size: int) -> UInt8Array:
    """Scale a radiograph into a black square, whole and in proportion.

    Parameters
    ----------
    pixels
        uint8, shape (height, width), bone bright.
    size
        Side of the network's input, pixels.

    Returns
    -------
    UInt8Array
        uint8, shape (size, size), 0-255. The networks scale it themselves.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f"expected uint8 (height, width), got {pixels.dtype} {pixels.shape}")
    box = letterbox(pixels.shape[1], pixels.shape[0], size)
    square = np.zeros((size, size), np.uint8)
    square[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width] = _resized(
        pixels, box.inner_width, box.inner_height
    )
    return square


def shrunk(stack: UInt8Array, size: int) -> UInt8Array:
    """Return networks' inputs at a smaller side.

    Parameters
    ----------
    stack
        uint8, shape (n, s, s).
    size
        Side of the result, pixels; at most s.

    Returns
    -------
    UInt8Array
        uint8, shape (n, size, size); `stack` itself where it has that size.
    """
    if stack.shape[1] <= size:
        return stack
    return np.stack([_resized(picture, size, size) for picture in stack])


def display_pixels(pixels: UInt8Array, max_side: int = 1280) -> UInt8Array:
    """Shrink a radiograph to what people see: long side at most `max_side`, never enlarged."""
    height, width = pixels.shape
    scale = max_side / max(width, height)
    if scale >= 1:
        return pixels
    return _resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def display_jpeg(pixels: UInt8Array, max_side: int = 1280, quality: int = 88) -> bytes:
    """Encode what people see: grey JPEG, long side at most `max_side`, never enlarged.

    Parameters
    ----------
    pixels
        uint8, shape (height, width).
    quality
        JPEG quality, 1-100.
    """
    done, data = cv2.imencode(".jpg", display_pixels(pixels, max_side), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("the picture could not be encoded as JPEG")
    return bytes(data)
