"""Pixels that are not square: the picture is resampled to the proportions that the header states."""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset

from pipeline.dicom.header import element_values
from pipeline.quality import Graded
from pipeline.types import RenderingStep, UInt8Array
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

#: Height and width of a pixel, in the order in which they are believed: PS3.3 10.7.1.1 and C.7.6.3.1.7. The
#: aspect ratio is stated only where no spacing is.
_STATED = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
#: Ratio of the sides up to which a pixel counts as square, and beyond which it is not believed.
_SQUARE, _ABSURD = 1.02, 4.0


def square(pixels: UInt8Array, header: Dataset) -> Graded:
    """Resample a picture to square pixels: the side of which there is too little is enlarged.

    What is measured in the picture then, such as attention regions, is measured in the resampled one.
    """
    for word in _STATED:
        sides = element_values(header, word)
        if len(sides) == 2 and all(isinstance(s, int | float) and s > 0 for s in sides):
            break
    else:
        return Graded(pixels)
    ratio = float(sides[0]) / float(sides[1])  # height of a pixel to its width
    if max(ratio, 1 / ratio) <= _SQUARE:
        return Graded(pixels)
    if max(ratio, 1 / ratio) > _ABSURD:
        return Graded(pixels, (Reason.NON_SQUARE_PIXELS,))
    height, width = pixels.shape
    if ratio > 1:
        height = round(height * ratio)
    else:
        width = round(width / ratio)
    resized = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return Graded(resized, (), (RenderingStep(RenderingCode.SQUARE_PIXELS, word),))
