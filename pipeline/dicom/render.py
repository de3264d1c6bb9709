"""Stored grey values to an 8-bit picture: modality LUT, VOI LUT or window, photometric interpretation.

Everything up to the picture is one table over the at most 65,536 stored values. A VOI LUT or window of the
header is used if it shows about as much as a window cut from the values themselves would; what is measured,
and why at these figures, stands in docs/picture.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from pipeline.depth import FullDepth, from_tables
from pipeline.dicom.header import element_values
from pipeline.dicom.stream import values_of, wraps
from pipeline.dicom.terms import NATIVE
from pipeline.quality import WHITE, Counts, contrast, entropy, percentiles
from pipeline.types import Rejected, RenderingStep, UInt8Array
from pipeline.window import CLIPPED_PERCENT, dicom_window, stretch
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

#: Share of the contrast, and of the entropy, of the values' own window that one of the header must leave.
MIN_SHARE_OF_CONTRAST = 0.45
MIN_SHARE_OF_ENTROPY = 0.4
#: Share of the pixels that a window may leave white beyond those that the values' own window does.
MAX_WHITE_BEYOND = 0.25
#: Padding is believed if the values beside it lie further from it than this share of the picture's range ...
MIN_PADDING_STEP = 0.05
#: ... and so many times as far as the next ones lie from those (saturated bone is approached by degrees) ...
MIN_PADDING_EDGE = 2.0
#: ... and if it leaves at least this share of the pixels.
MIN_UNPADDED = 0.02
#: Share of its range by which up to so many entries of a LUT may lie off those beside them.
MAX_OUTLIER = 0.1
_FEW_ENTRIES = np.ones((1, 5), np.uint8)
#: Times its range that a LUT may go up and down in all; one that only rises goes once.
MAX_UPS_AND_DOWNS = 3.0


def render(
    values: npt.NDArray[Any], clean: Dataset
) -> tuple[UInt8Array, tuple[Reason, ...], list[RenderingStep]]:
    """Turn stored grey values into 8 bits with bone bright.

    Returns
    -------
    tuple
        The picture, what a person must know of it, and the steps by which it came about.
    """
    index = _stored_bits(values, clean)
    stored = values_of(clean.BitsStored, signed=clean.PixelRepresentation == 1)
    steps: list[RenderingStep] = []
    flags: tuple[Reason, ...] = ()
    try:
        modality = _modality(stored, clean, steps)
    except ValueError:  # a window is meant for values after the LUT
        for word in ("ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth"):
            if word in clean:
                del clean[word]
        modality, flags = stored, (Reason.HEADER_VALUE_UNREADABLE,)
        steps.append(RenderingStep(RenderingCode.VALUE_DROPPED, "ModalityLUTSequence"))
    if wraps(index, stored):
        flags += (Reason.HEADER_CONTRADICTS_PICTURE,)
    padding = _padding(stored, index, clean, steps)
    step = max(1, int((index.size / 1_000_000) ** 0.5))
    seen = np.bincount(index[::step, ::step].ravel(), minlength=stored.size)
    seen[padding] = 0
    if not seen.any():
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a blank picture")
    table, more = _voi(modality, seen, clean, steps)
    if clean.PhotometricInterpretation == "MONOCHROME1":
        table = np.invert(table)
        steps.append(RenderingStep(RenderingCode.MONOCHROME1))
    table[padding] = 0
    return table[index], flags + more, steps


def full_depth(values: npt.NDArray[Any], clean: Dataset) -> FullDepth:
    """Return stored grey values as they are, with every window of the header and the values' own.

    The first window is the one that `render` chooses. `clean` is what `render` has left of the header.
    """
    index = _stored_bits(values, clean)
    signed = clean.PixelRepresentation == 1
    stored = np.arange(1 << clean.BitsStored, dtype=np.int32)
    if signed:  # in the order of what they mean
        half = stored.size // 2
        index = ((index + half) & (stored.size - 1)).astype(np.uint16)
        stored -= half
    modality = _modality(stored, clean, [])
    padding = _padding(stored, index, clean, [])
    step = max(1, int((index.size / 1_000_000) ** 0.5))
    seen = np.bincount(index[::step, ::step].ravel(), minlength=stored.size)
    seen[padding] = 0
    chosen, _ = _voi(modality, seen, clean, [])
    tables = [("As the AI read it", chosen)]
    tables += [
        (f"Header's {'LUT' if s.code is RenderingCode.VOI_LUT else 'window'} {s.detail}", table)
        for s, table in _header_windows(modality, clean)
    ]
    tables.append(("The values' own", stretch(modality, *_range(modality, seen))))
    if clean.PhotometricInterpretation == "MONOCHROME1":
        tables = [(name, np.invert(table)) for name, table in tables]
    return from_tables(index, clean.BitsStored, tables, padding)


def _stored_bits(values: npt.NDArray[Any], clean: Dataset) -> npt.NDArray[np.uint16]:
    """Return the stored bits of each value as an unsigned number: PS3.5, 8.1.1."""
    stored_bits, mask = clean.BitsStored, (1 << clean.BitsStored) - 1
    native = clean.file_meta.TransferSyntaxUID in NATIVE
    if native or clean.PixelRepresentation == 1 or values.dtype.kind == "i":
        wide = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16, copy=False).view(np.uint16)
        shift = clean.HighBit + 1 - stored_bits if native else 0
        return cast(npt.NDArray[np.uint16], (wide >> shift) & mask)
    return cast(
        npt.NDArray[np.uint16], np.minimum(values.astype(np.uint16, copy=False), mask)
    )  # a lossy decoder may overshoot


def _padding(
    stored: npt.NDArray[np.int32], index: npt.NDArray[np.uint16], clean: Dataset, steps: list[RenderingStep]
) -> npt.NDArray[np.bool_]:
    """Tell which stored values are padding (PS3.3 C.7.5.1.1.2).

    Some systems name a value as padding that stands in the picture itself: the highest one, to which bone is
    saturated, or the lowest of a dark background. Real padding ends in a step; such values do not.
    """
    nothing = np.zeros(stored.shape, np.bool_)
    first = clean.get("PixelPaddingValue")
    if not isinstance(first, int):
        return nothing
    last = clean.get("PixelPaddingRangeLimit")
    low, high = sorted(_of_sign(n, stored) for n in (first, last if isinstance(last, int) else first))
    padding = (stored >= low) & (stored <= high)
    # whole lines and whole columns, some of them: neighbours must stay neighbours
    across = index[:: max(1, index.shape[0] // 256)]
    down = index[:, :: max(1, index.shape[1] // 256)].T
    if not padding[across].any() and not padding[down].any():
        return nothing
    believed = bool(np.count_nonzero(~padding[across]) >= MIN_UNPADDED * across.size)
    edges, beside = np.concatenate([_steps_at_edges(n, padding, stored) for n in (across, down)], axis=1)
    if believed and edges.size:
        bottom, top = np.percentile(stored[across], (1, 99))
        least = max(MIN_PADDING_STEP * max(float(top - bottom), 1.0), MIN_PADDING_EDGE * np.median(beside))
        believed = bool(np.median(edges) >= least)
    steps.append(RenderingStep(RenderingCode.PADDING_BLACK if believed else RenderingCode.PADDING_IGNORED))
    return padding if believed else nothing


def _of_sign(number: int, values: npt.NDArray[Any]) -> int:
    """Return a number of 16 bits with the sign of the values that it is meant for.

    An implicit data set does not say which it has, and some writers say it wrongly.
    """
    if number >= 1 << 15 and values.min() < 0:
        return number - (1 << 16)
    return number + (1 << 16) if number < 0 <= values.min() else number


def _steps_at_edges(
    lines: npt.NDArray[np.uint16], padding: npt.NDArray[np.bool_], stored: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return by how much values differ where padding and picture are neighbours on a line, and beside that.

    Returns
    -------
    array
        Of shape (2, n): from the padding to the picture's first pixel, and from that to its second.
    """
    padded = padding[lines]
    found = []
    for line, edge in ((lines, padded), (lines[:, ::-1], padded[:, ::-1])):
        begins = edge[:, :-2] & ~edge[:, 1:-1] & ~edge[:, 2:]
        last, first, second = (stored[line[:, n : line.shape[1] - 2 + n][begins]] for n in (0, 1, 2))
        found.append(np.abs(np.stack([last - first, first - second])))
    return cast(npt.NDArray[np.int32], np.concatenate(found, axis=1))


def _modality(stored: npt.NDArray[np.int32], clean: Dataset, steps: list[RenderingStep]) -> npt.NDArray[Any]:
    if clean.get("ModalityLUTSequence"):
        values = _lut(stored, clean.ModalityLUTSequence[0], clean)
        steps.append(RenderingStep(RenderingCode.MODALITY_LUT))
        return values
    slope, intercept = clean.get("RescaleSlope"), clean.get("RescaleIntercept")
    if isinstance(slope, int | float) and isinstance(intercept, int | float):
        if (slope, intercept) != (1, 0):
            steps.append(RenderingStep(RenderingCode.RESCALE))
        return stored * float(slope) + float(intercept)
    return stored


def _voi(
    values: npt.NDArray[Any], seen: Counts, clean: Dataset, steps: list[RenderingStep]
) -> tuple[UInt8Array, tuple[Reason, ...]]:
    """Return the values through the first VOI LUT or window of the header that shows the picture.

    One that cannot be applied is passed over; so is one that leaves much less of the picture than the
    values' own window does, which is flagged, as are VOI LUTs and windows of which none can be applied.
    """
    bright = slice(0, 3) if clean.PhotometricInterpretation == "MONOCHROME1" else slice(WHITE, 256)
    own = stretch(values, *_range(values, seen))
    shown = _levels(own, seen)
    most_white = shown[bright].sum() + MAX_WHITE_BEYOND * shown.sum()
    least_contrast = MIN_SHARE_OF_CONTRAST * contrast(shown)
    least_entropy = MIN_SHARE_OF_ENTROPY * entropy(shown)
    passed_over = False
    for step, table in _header_windows(values, clean):
        shown = _levels(table, seen)
        leaves_greys = contrast(shown) >= least_contrast and entropy(shown) >= least_entropy
        if leaves_greys and shown[bright].sum() <= most_white:
            steps.append(step)
            return table, (Reason.WINDOW_REPLACED,) if passed_over else ()
        passed_over = True
    if passed_over:
        steps.append(RenderingStep(RenderingCode.WINDOW_REPLACED))
        return own, (Reason.WINDOW_REPLACED,)
    unusable = [word for word in ("VOILUTSequence", "WindowWidth") if element_values(clean, word)]
    steps += [RenderingStep(RenderingCode.VALUE_DROPPED, word) for word in unusable]
    flags = (Reason.HEADER_VALUE_UNREADABLE,) if unusable else ()
    steps.append(RenderingStep(RenderingCode.PERCENTILE_WINDOW))
    return own, flags


def _range(values: npt.NDArray[Any], seen: Counts) -> tuple[float, float]:
    """Return `percentile_range` of values that occur so often."""
    order = np.argsort(values, kind="stable")
    rising, counts = values[order], seen[order]
    low, high = percentiles(counts, rising, CLIPPED_PERCENT, 100 - CLIPPED_PERCENT)
    if high > low:
        return low, high
    there = rising[counts > 0]
    return float(there[0]), float(there[-1])


def _levels(table: UInt8Array, seen: Counts) -> Counts:
    """Return the histogram of a picture whose values occur so often, seen through a table."""
    return np.bincount(table, weights=seen, minlength=256).astype(np.int64)


def _header_windows(values: npt.NDArray[Any], clean: Dataset) -> Iterator[tuple[RenderingStep, UInt8Array]]:
    """Yield the values through each VOI LUT and window of the header that can be applied, in its order."""
    for number, item in enumerate(clean.get("VOILUTSequence") or (), 1):
        try:
            shown = _lut(values, item, clean)
        except ValueError:
            continue
        table = stretch(shown, float(shown.min()), float(shown.max()))
        yield RenderingStep(RenderingCode.VOI_LUT, str(number)), table
    centres, widths = element_values(clean, "WindowCenter"), element_values(clean, "WindowWidth")
    function = clean.get("VOILUTFunction") or "LINEAR"
    for number, (centre, width) in enumerate(zip(centres, widths, strict=False), 1):
        try:
            table = dicom_window(values, float(centre), float(width), function)
        except ValueError:
            continue
        yield RenderingStep(RenderingCode.HEADER_WINDOW, str(number)), table


def _is_irregular(table: npt.NDArray[Any]) -> bool:
    """Tell whether a LUT has outliers or is not monotonic."""
    some = table[:: max(1, table.size // 256)].astype(np.int32)
    if np.abs(np.diff(some)).sum() > MAX_UPS_AND_DOWNS * np.ptp(some):
        return True
    line = np.ascontiguousarray(table, np.uint16)[None]
    above = cv2.morphologyEx(line, cv2.MORPH_TOPHAT, _FEW_ENTRIES)
    below = cv2.morphologyEx(line, cv2.MORPH_BLACKHAT, _FEW_ENTRIES)
    return bool(max(above.max(), below.max()) > MAX_OUTLIER * np.ptp(line))


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
    first = _of_sign(first, values)
    if isinstance(data[0], bytes):
        order = ">" if clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        packed = descriptor[2] <= 8 and len(data[0]) < 2 * entries  # two 8-bit entries a word
        table = np.frombuffer(data[0], "u1" if packed else order + "u2")
    else:
        table = np.asarray(data, np.uint16)
    if not 1 <= entries <= table.size:
        raise ValueError("LUT shorter than its descriptor says")
    if _is_irregular(table[:entries]):
        raise ValueError("LUT with entries that stand out of their neighbours")
    places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return cast(npt.NDArray[Any], table.astype(np.int32)[places])
