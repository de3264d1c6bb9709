"""Stored grey values to an 8-bit picture: modality LUT, VOI LUT or window, photometric interpretation."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
)

from pipeline.dicom.header import element_values
from pipeline.dicom.terms import (
    NATIVE,
)
from pipeline.quality import MIN_CONTRAST, contrast
from pipeline.types import Reason, Rejected, UInt8Array
from pipeline.window import dicom_window, percentile_range, stretch


def render(values: npt.NDArray[Any], clean: Dataset) -> UInt8Array:
    """Turn stored grey values into 8 bits with bone bright.

    Modality LUT (or rescale), then VOI LUT or window, then MONOCHROME1 turned round, all in one table over
    the at most 65,536 stored values. Without a usable window, or with one that shows nothing, the
    percentile window is taken. Padding becomes black.
    """
    stored_bits, signed = clean.BitsStored, clean.PixelRepresentation == 1
    mask = (1 << stored_bits) - 1
    native = clean.file_meta.TransferSyntaxUID in NATIVE
    if native or signed or values.dtype.kind == "i":
        wide = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16, copy=False).view(np.uint16)
        index = (wide >> (clean.HighBit + 1 - stored_bits if native else 0)) & mask
    else:
        index = np.minimum(values.astype(np.uint16, copy=False), mask)  # a lossy decoder may overshoot
    stored = np.arange(mask + 1, dtype=np.int32)
    if signed:
        stored[(mask + 1) // 2 :] -= mask + 1
    padding = _padding(stored, clean)
    modality = _modality(stored, clean)
    step = max(1, int((index.size / 1_000_000) ** 0.5))
    seen = index[::step, ::step]
    seen = seen[~padding[seen]]
    if not seen.size:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a blank picture")
    table = _voi(modality, clean)
    if table is None or contrast(table[seen]) < MIN_CONTRAST:
        table = stretch(modality, *percentile_range(modality[seen]))
    if clean.PhotometricInterpretation == "MONOCHROME1":
        table = np.invert(table)
    table[padding] = 0
    return cast(UInt8Array, table[index])


def _padding(stored: npt.NDArray[np.int32], clean: Dataset) -> npt.NDArray[np.bool_]:
    first = clean.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(stored.shape, np.bool_)
    last = clean.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (stored >= low) & (stored <= high)


def _modality(stored: npt.NDArray[np.int32], clean: Dataset) -> npt.NDArray[Any]:
    if clean.get("ModalityLUTSequence"):
        return _lut(stored, clean.ModalityLUTSequence[0], clean)
    slope, intercept = clean.get("RescaleSlope"), clean.get("RescaleIntercept")
    if isinstance(slope, int | float) and isinstance(intercept, int | float) and slope != 0:
        return stored * float(slope) + float(intercept)
    return stored


def _voi(values: npt.NDArray[Any], clean: Dataset) -> UInt8Array | None:
    """Return the values through the first VOI LUT, or else the first window; None without a usable one."""
    try:
        if clean.get("VOILUTSequence"):
            shown = _lut(values, clean.VOILUTSequence[0], clean)
            return stretch(shown, float(shown.min()), float(shown.max()))
        centres, widths = element_values(clean, "WindowCenter"), element_values(clean, "WindowWidth")
        if centres and widths:
            function = clean.get("VOILUTFunction") or "LINEAR"
            return dicom_window(values, float(centres[0]), float(widths[0]), function)
    except ValueError:
        return None
    return None


def _lut(values: npt.NDArray[Any], item: Dataset, clean: Dataset) -> npt.NDArray[Any]:
    """Look values up in a Modality or VOI LUT (DICOM PS3.3 C.11.1.1.1); ends are held.

    Raises
    ------
    ValueError
        The table is missing, or shorter than its descriptor says.
    """
    descriptor, data = element_values(item, "LUTDescriptor"), element_values(item, "LUTData")
    if len(descriptor) != 3 or not data:
        raise ValueError("LUT without a descriptor or data")
    entries, first = descriptor[0] & 0xFFFF or 65536, descriptor[1]
    if isinstance(data[0], bytes):
        order = ">" if clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        packed = descriptor[2] <= 8 and len(data[0]) < 2 * entries  # two 8-bit entries a word
        table = np.frombuffer(data[0], "u1" if packed else order + "u2")
    else:
        table = np.asarray(data, np.uint16)
    if not 1 <= entries <= table.size:
        raise ValueError("LUT shorter than its descriptor says")
    places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return cast(npt.NDArray[Any], table.astype(np.int32)[places])
