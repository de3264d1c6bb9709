"""Grey values of any depth to 8 bits: percentile window, DICOM windows, colour to grey."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import UInt8Array

#: Share of pixels, in percent, that may saturate at each end of a percentile window.
CLIPPED_PERCENT = 0.5
#: Share of the contrast that must be left where a picture is laid on black by its transparency.
MIN_SHARE_UNDER_ALPHA = 0.5
_SAMPLE = 1_000_000

Values = npt.NDArray[Any]


def percentile_range(values: Values) -> tuple[float, float]:
    """Return the grey values between which all but `CLIPPED_PERCENT` at each end lie.

    Parameters
    ----------
    values
        Array of any shape; of a large one every n-th row and column is looked at.

    Returns
    -------
    tuple of float
        ``(low, high)``; the full range where the percentiles fall together.
    """
    step = max(1, int((values.size / _SAMPLE) ** 0.5))
    sample = values[::step, ::step] if values.ndim > 1 else values
    low, high = (float(v) for v in np.percentile(sample, (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT)))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def stretch(values: Values, low: float, high: float) -> UInt8Array:
    """Map `low` to 0 and `high` to 255, linearly, and clip; all zero where the range is empty."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def dicom_window(values: Values, centre: float, width: float, function: str = "LINEAR") -> UInt8Array:
    """Apply a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3) with an output range of 0-255.

    Parameters
    ----------
    values
        Values after the Modality LUT.
    centre, width
        Window Center and Window Width.
    function
        ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Raises
    ------
    ValueError
        The width is not positive (less than 1 for LINEAR), or a number is not finite.
    """
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0) or (function == "LINEAR" and width < 1):
        raise ValueError("window without a positive width")
    x = values.astype(np.float64)
    if function == "SIGMOID":
        y = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        y = (x - centre) / width + 0.5
    elif width == 1:
        y = (x > centre - 0.5).astype(np.float64)
    else:
        y = (x - (centre - 0.5)) / (width - 1.0) + 0.5
    return np.clip(np.rint(y * 255.0), 0, 255).astype(np.uint8)


def flatten(picture: Values) -> tuple[Values, bool]:
    """Lay a picture on black where it is transparent, or leave the transparency out if that hides it.

    Parameters
    ----------
    picture
        uint8 or uint16 array of shape (h, w), (h, w, 3) or (h, w, 4), alpha last.

    Returns
    -------
    tuple
        The picture of one or three channels; whether an alpha was left out that hides most of its greys.
    """
    if picture.ndim != 3 or picture.shape[2] != 4:
        return picture, False
    colours, alpha = picture[..., :3], picture[..., 3]
    full = np.iinfo(picture.dtype).max
    if alpha.min() == full:
        return colours, False
    laid = np.rint(colours.astype(np.float32) * (alpha.astype(np.float32) / full)[..., None])
    step = max(1, int((alpha.size / 250_000) ** 0.5))
    low, high = np.percentile(colours[::step, ::step, 1], (1, 99))
    left_low, left_high = np.percentile(laid[::step, ::step, 1], (1, 99))
    if left_high - left_low < MIN_SHARE_UNDER_ALPHA * (high - low):
        return colours, True
    return laid.astype(picture.dtype), False


def grey8(picture: Values) -> UInt8Array:
    """Turn a decoded picture into 8-bit grey.

    Parameters
    ----------
    picture
        uint8 or uint16 array of shape (h, w) or (h, w, 3) blue-green-red. 16 bits are cut to their percentile
        window, 8 bits are taken as they are.

    Returns
    -------
    UInt8Array
        Shape (h, w), 0-255.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    table = stretch(np.arange(65536), *percentile_range(picture))
    return table[picture]


def colour8(picture: Values) -> UInt8Array:
    """Return the colours of a picture of 3 channels as uint8 (h, w, 3), cut as in `grey8`."""
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    return stretch(np.arange(65536), *percentile_range(picture))[picture]
