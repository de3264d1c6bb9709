"""Header values that the grey values depend on: repaired where unambiguous, else dropped.

For a fact of the study an unreadable value is as good as an absent one. For the picture it is not: a window
is meant for values after the rescale, so one without the other shows something else than its maker meant.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from pipeline.dicom.header import element_values
from pipeline.dicom.terms import LUTS
from pipeline.types import Rejected, RenderingStep
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

_RESCALE = ("RescaleSlope", "RescaleIntercept")
_WINDOW = ("WindowCenter", "WindowWidth")
_SHAPE = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
#: How many values they have.
_COUNTS = dict.fromkeys(_RESCALE, 1) | dict.fromkeys(_SHAPE, 2)
_VOI = (*_WINDOW, "VOILUTSequence")
#: What a decoder, or the rendering, does otherwise without.
_WHOLE = (
    "SamplesPerPixel", "PlanarConfiguration", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "PixelPaddingValue", "PixelPaddingRangeLimit", "VOILUTFunction", "ModalityLUTSequence",
    "VOILUTSequence",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: A decimal comma, unless it may as well part the thousands.
_COMMA = re.compile(r"[+-]?(\d+),(\d+)")


def repair_pixel_values(raw: Dataset) -> tuple[tuple[Reason, ...], list[RenderingStep]]:
    """Mend the numbers in `raw` that the picture depends on, or leave them out.

    Returns
    -------
    tuple
        What a person must know, and what was done.
    """
    found = {word: _numbers(raw, word) for word in (*_RESCALE, *_WINDOW, *_SHAPE)}
    for word, count in _COUNTS.items():  # of several values none is the one that is meant
        if len(found[word][0]) not in {0, count}:
            found[word] = found[word][0], RenderingCode.VALUE_DROPPED
    if found["RescaleSlope"][0] == [0.0]:  # all values would be one
        found["RescaleSlope"] = [0.0], RenderingCode.VALUE_DROPPED
    empty = [word for word in LUTS if _is_stated(raw, word) and not element_values(raw, word)]
    steps = [RenderingStep(RenderingCode.VALUE_DROPPED, word) for word in empty]
    steps += [RenderingStep(how, word) for word, (_, how) in found.items() if how is not None]
    for word, (numbers, how) in found.items():
        if how is RenderingCode.COMMA_REPAIRED:
            raw.add_new(word, dictionary_VR(word), numbers)
        elif how is RenderingCode.VALUE_DROPPED:
            del raw[word]
    # PS3.3, C.11.1.1: neither goes without the other
    alone = sum(bool(found[word][0]) for word in _RESCALE) == 1
    dropped = RenderingCode.VALUE_DROPPED in (found[word][1] for word in _RESCALE)
    if alone or dropped or "ModalityLUTSequence" in empty:
        for word in (*_RESCALE, *_VOI):
            if word in raw:
                del raw[word]
    elif (
        RenderingCode.VALUE_DROPPED in (found[word][1] for word in _WINDOW)
        or len({len(found[word][0]) for word in _WINDOW}) > 1
    ):
        pairs = list(zip(*(found[word][0] for word in _WINDOW), strict=False))
        whole = [pair for pair in pairs if all(map(math.isfinite, pair))]
        for place, word in enumerate(_WINDOW):
            if whole:
                raw.add_new(word, "DS", [pair[place] for pair in whole])
            elif word in raw:
                del raw[word]
    elif not empty and all(found[word][1] is not RenderingCode.VALUE_DROPPED for word in _SHAPE):
        return (), steps
    return (Reason.HEADER_VALUE_UNREADABLE,), steps


def flag_unreadable(raw: Dataset, clean: Dataset) -> tuple[tuple[Reason, ...], list[RenderingStep]]:
    """Tell which elements that the picture depends on are there and were not taken over: see `_WHOLE`.

    Raises
    ------
    Rejected
        DICOM_PIXEL_FORMAT: a Photometric Interpretation that there is none of for a film. DICOM_CORRUPT: a
        Pixel Representation that cannot be read.
    """
    if "PhotometricInterpretation" not in clean and _is_stated(raw, "PhotometricInterpretation"):
        raise Rejected(Reason.DICOM_PIXEL_FORMAT, "an unknown photometric interpretation")
    lost = [word for word in _WHOLE if word not in clean and _is_stated(raw, word)]
    if "BitsStored" not in clean and "BitsStored" not in lost and clean.get("BitsAllocated") == 16:
        lost.append("BitsStored")  # its depth is what windows are meant for
    steps = [RenderingStep(RenderingCode.VALUE_DROPPED, word) for word in lost]
    if "PixelRepresentation" in lost:  # it decides over the sign of other values, too
        raise Rejected(Reason.DICOM_CORRUPT, "an unreadable pixel representation")
    for word in _VOI if "ModalityLUTSequence" in lost else ():
        if word in clean:  # meant for values after the LUT
            del clean[word]
    return ((Reason.HEADER_VALUE_UNREADABLE,) if lost else ()), steps


def _is_stated(raw: Dataset, word: str) -> bool:
    tag = tag_for_keyword(word)
    if tag is None or tag not in raw:
        return False
    value: Any = raw.get_item(tag).value
    return bool(value.strip() if isinstance(value, str | bytes) else value)


def _numbers(raw: Dataset, word: str) -> tuple[list[float], RenderingCode | None]:
    """Return an element's numbers, NaN for one that cannot be read, and what had to be done to read them."""
    tag = tag_for_keyword(word)
    if tag is None or tag not in raw:
        return [], None
    read = element_values(raw, word)
    if read and all(isinstance(n, int | float) and math.isfinite(n) for n in read):
        return [float(n) for n in read], None
    if read:  # pydicom leaves text that is no number as it is, or gives up on it
        texts = [str(value) for value in read]
    else:
        value: Any = raw.get_item(tag).value
        texts = value.decode("latin-1").split("\\") if isinstance(value, bytes) else []
    if not any(text.strip(" \0") for text in texts):
        return [], None
    numbers, how = [], None
    for text in texts:
        number, comma = _number(text.strip(" \0"))
        numbers.append(number)
        if math.isnan(number):
            how = RenderingCode.VALUE_DROPPED
        elif comma and how is None:
            how = RenderingCode.COMMA_REPAIRED
    return numbers, how


def _number(text: str) -> tuple[float, bool]:
    """Return a number, NaN where it cannot be told, and whether it was written with a decimal comma."""
    if _NUMBER.fullmatch(text):
        value = float(text)
        return (value if math.isfinite(value) else math.nan), False
    found = _COMMA.fullmatch(text)
    if found is None:
        return math.nan, False
    whole, decimals = found.groups()
    if len(decimals) == 3 and whole != "0" and len(whole) <= 3 and set(decimals) != {"0"}:
        return math.nan, False  # 1,024 may be a thousand and twenty-four
    return float(text.replace(",", ".")), True
