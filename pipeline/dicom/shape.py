"""Pixels that are not square: the picture is resampled to the proportions that the header states."""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset

from pipeline.dicom.header import element_values
from pipeline.quality import Graded, elongated
from pipeline.types import RenderingStep, UInt8Array
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

#: Height and width of a pixel, in the order in which they are believed: PS3.3 10.7.1.1 and C.7.6.3.1.7. The
#: aspect ratio is stated only where no spacing is.
_STATED = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
#: Ratio of the sides up to which a pixel counts as square, and beyond which it is not believed.
_SQUARE, _ABSURD = 1.02, 4.0


def square(pixels: UInt8Array, header: Dataset) -> Graded:
    """Resample a picture of 8 or 16 bits to square pixels: the shorter side is enlarged.

    What is measured in the picture then, such as attention regions, is measured in the resampled one.
    """
    ratios: dict[str, float] = {}  # height of a pixel to its width
    for stated in _STATED:
        sides = element_values(header, stated)
        if len(sides) == 2 and all(isinstance(s, int | float) and s > 0 for s in sides):
            ratios[stated] = float(sides[0]) / float(sides[1])
    if not ratios:
        return Graded(pixels, elongated(pixels))
    word, ratio = next(iter(ratios.items()))
    apart = max(ratios.values()) / min(ratios.values()) > _SQUARE
    flags = (Reason.NON_SQUARE_PIXELS,) if apart or max(ratio, 1 / ratio) > _ABSURD else ()
    if max(ratio, 1 / ratio) <= _SQUARE or max(ratio, 1 / ratio) > _ABSURD:
        return Graded(pixels, flags)
    height, width = pixels.shape
    if ratio > 1:
        height = round(height * ratio)
    else:
        width = round(width / ratio)
    resized = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), pixels.dtype)
    return Graded(resized, flags, (RenderingStep(RenderingCode.SQUARE_PIXELS, word),))


def spacing(header: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return height and width of a pixel of the squared picture in millimetres, and where they were measured.

    ``"calibrated"``: in the plane of the body part, as Pixel Spacing (0028,0030) is where it differs from
    Imager Pixel Spacing (PS3.3, 10.7.1.3); ``"detector"``: larger than the body part by the magnification;
    ``"film"``: of a digitised one.
    """
    found: dict[str, tuple[float, float]] = {}
    for word in _STATED[:3]:
        sides = element_values(header, word)
        if len(sides) == 2 and all(isinstance(s, int | float) and s > 0 for s in sides):
            found[word] = float(sides[0]), float(sides[1])
    if not found:
        return None, ""
    word, size = next(iter(found.items()))
    plane = "film" if word == "NominalScannedPixelSpacing" else "detector"
    if word == "PixelSpacing" and found.get("ImagerPixelSpacing", size) != size:
        plane = "calibrated"
    ratio = size[0] / size[1]
    if max(ratio, 1 / ratio) > _ABSURD:
        return None, ""
    return ((min(size), min(size)) if max(ratio, 1 / ratio) > _SQUARE else size), plane
