"""Can this picture be read, and is it a radiograph at all? A first, simple gate.

The figures of real films behind each threshold stand in docs/picture.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Rejected, RenderingStep, UInt8Array
from pipeline.window import CLIPPED_PERCENT, stretch
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

Counts = npt.NDArray[np.int64]

#: The shorter side that a picture must have, in pixels.
MIN_SIDE = 64
#: Longer side to the shorter one from which a picture may be squashed: half a film of 24 x 30 is at 1.6.
MAX_ELONGATION = 1.55
#: The longer side, in pixels, at which a picture is judged.
_SIDE = 384
#: Grey levels between the 1st and the 99th percentile. Below the first the picture is blank, below the second
#: it cannot be assessed, below the third it is read with its levels spread, and never negative.
BLANK_CONTRAST = 8
MIN_CONTRAST = 60
LOW_CONTRAST = 90
#: Bits of a pixel: fewer have pictures without greys.
MIN_ENTROPY = 1.8
#: Share of pixels that are black or white, within two levels.
MAX_CLIPPED = 0.92
#: Share of pixels that are white, within two levels, from which bone may be hidden among them. Lines that are
#: white from end to end do not count: they lie outside the collimated beam.
MAX_WHITE, WHITE, WHITE_LINE = 0.03, 253, 0.9
#: An inverted film: its middle pixel has at least this grey, and lies so far up between the 1st and the 99th
#: percentile, and thin structures are darker than what is around them.
INVERTED_MEDIAN, INVERTED_PLACE, INVERTED_RIDGES = 150, 0.85, -0.05
#: Perhaps inverted: thin structures are darker, or they are hardly brighter and the middle pixel is bright.
PERHAPS_RIDGES, PERHAPS_MEDIAN, PERHAPS_FAINT_RIDGES = -0.1, 130, 0.05
#: No inverted film has a middle pixel as dark as this.
NEVER_INVERTED_MEDIAN = 100
_RIDGE_SIDE = 256
#: Grey levels by which a line of a frame around a film may vary, and the least side of a film within one.
_EVEN_LINE, _MIN_FRAMED, _BLOCK = 8, 32, 16
#: Pixels of a large picture that are counted, in even steps: for its grey levels, its entropy and its clipped
#: share.
_SAMPLE = 60_000
_LEVELS = np.arange(256)
_RIDGE = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
#: Share of pixels whose colour is not the tint of their brightness, and how far off they must be.
MAX_COLOURED = 0.10
COLOUR_DISTANCE = 16.0
#: Of grey through a wrong colour transform: levels that rounding leaves, share of pixels that show it, and
#: share of those that must not be clipped.
_COLOUR_ERROR, _COLOUR_SHARE, _MIN_UNCLIPPED = 6, 0.9, 0.05
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


def elongated(picture: npt.NDArray[Any]) -> tuple[Reason, ...]:
    """Flag a picture whose proportions few films have, where nothing states those of its pixels."""
    height, width = picture.shape[:2]
    return (Reason.ELONGATED_PICTURE,) if max(height, width) > MAX_ELONGATION * min(height, width) else ()


@dataclass(frozen=True)
class Judged:
    """A picture's greys at the size at which pictures are judged, without an even frame around it.

    Attributes
    ----------
    grey
        uint8, shape (h, w).
    levels
        How often each of 256 levels occurs in it, in every line or in even steps.
    frame
        Where it begins and ends in the picture, as shares of its height and of its width.
    """

    grey: UInt8Array
    levels: Counts
    frame: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)

    def cut(self, picture: UInt8Array) -> UInt8Array:
        """Return the same part of a picture of any size."""
        height, width = picture.shape[:2]
        top, bottom, left, right = self.frame
        return picture[
            round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ]


def require_radiograph(picture: npt.NDArray[Any]) -> Judged:
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
    small = _reduced(picture)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False) if small.ndim == 3 else small
    if small.ndim == 3 and coloured_share(small) > MAX_COLOURED:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a picture in colour")
    if small.ndim == 3 and is_wrongly_transformed(small):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "grey whose colours are coded otherwise than stated")
    step = max(1, round(grey.size / _SAMPLE))
    levels = histogram(grey[::step])
    if contrast(levels) < BLANK_CONTRAST:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a blank picture")
    if looks_like_a_page(grey, levels):
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a page of text")
    return unframed(grey, levels, step)


def unframed(grey: UInt8Array, levels: Counts, step: int = 1) -> Judged:
    """Leave out lines at the edges that are even from end to end: a frame, or what lies beside the beam.

    Within a white frame a dark film would seem to have contrast, and within a black one an inverted film a
    dark background.

    Parameters
    ----------
    grey
        uint8 array of shape (h, w).
    levels
        `histogram` of every `step`-th of its lines.
    """
    top, bottom, left, right = 0, grey.shape[0], 0, grey.shape[1]
    for _ in range(2):  # a frame at two sides alone is even once the other two are gone
        before = top, bottom, left, right
        first, behind = _frame_ends(grey[top:bottom, left:right])
        top, bottom = top + first, top + behind
        first, behind = _frame_ends(grey[top:bottom, left:right].T)
        left, right = left + first, left + behind
        if before == (top, bottom, left, right):
            break
    if (bottom - top, right - left) == grey.shape or min(bottom - top, right - left) < _MIN_FRAMED:
        return Judged(grey, levels)
    film = np.ascontiguousarray(grey[top:bottom, left:right])
    height, width = grey.shape
    counted, first, last = grey[::step], -(-top // step), -(-bottom // step)
    inside = counted[first:last]
    beside = counted[:first], counted[last:], inside[:, :left], inside[:, right:]
    for lines in beside:  # most frames are thin: what is left out is counted, and not the film again
        if lines.size:
            levels = levels - histogram(lines)
    return Judged(film, levels, (top / height, bottom / height, left / width, right / width))


def _frame_ends(lines: UInt8Array) -> tuple[int, int]:
    """Return the first line behind a frame of one grey, and the first of the frame behind the last line."""
    first, last = _frame_lines(lines), _frame_lines(lines[::-1])
    return (first, len(lines) - last) if first + last + _MIN_FRAMED <= len(lines) else (0, len(lines))


def _frame_lines(lines: UInt8Array) -> int:
    """Return how many of the first lines are a frame's, by blocks: most films have none, or a thin one."""
    some = lines.item(0, 0), lines.item(0, lines.shape[1] // 2), lines.item(0, lines.shape[1] - 1)
    if max(some) - min(some) > _EVEN_LINE:  # tells most lines, for a tenth of what the whole one costs
        return 0
    low, high = int(lines[0].min()), int(lines[0].max())
    if high - low > _EVEN_LINE:
        return 0
    level, found = low + high, len(lines)  # twice the middle
    for start in range(0, len(lines), _BLOCK):
        block = lines[start : start + _BLOCK]
        lows, highs = block.min(axis=1).astype(np.int16), block.max(axis=1)
        uneven = highs - lows > _EVEN_LINE
        other = (uneven | (np.abs(highs + lows - level) > 2 * _EVEN_LINE)).nonzero()[0]
        if other.size:
            found = start + int(other[0])
            break
    return found + 1 if found else 0  # the line between frame and film is a mixture of both


def _reduced(picture: npt.NDArray[Any]) -> UInt8Array:
    """Shrink a picture to the size at which it is judged, by halves first: that is several times faster."""
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    while min(picture.shape[:2]) > 1 and max(picture.shape[:2]) >= 2 * _SIDE:
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * height, : 2 * width]
        picture = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Graded:
    """A picture after its grey levels were looked at: perhaps turned round or spread, and why."""

    pixels: UInt8Array
    flags: tuple[Reason, ...] = ()
    steps: tuple[RenderingStep, ...] = ()


def grade(pixels: UInt8Array, judged: Judged) -> Graded:
    """Turn an inverted picture round, spread one of low contrast, and tell which cannot be assessed.

    Parameters
    ----------
    pixels
        The picture that the networks get, uint8 (h, w).
    judged
        The same at the size at which pictures are judged.
    """
    flags: list[Reason] = []
    steps: list[RenderingStep] = []
    levels = judged.levels
    inverted = inversion(judged.grey, levels)
    if inverted is Inversion.YES:
        pixels, levels = np.invert(pixels), levels[::-1]
        flags.append(Reason.INVERTED_PICTURE)
        steps.append(RenderingStep(RenderingCode.INVERTED))
    elif inverted is Inversion.PERHAPS:
        flags.append(Reason.PERHAPS_INVERTED)
    sample = sampled(pixels, judged)
    counts = histogram(sample)
    if counts[WHITE:].sum() > MAX_WHITE * sample.size and white_share(sample) > MAX_WHITE:
        flags.append(Reason.SATURATED_PICTURE)
    spread = contrast(levels)
    if spread < MIN_CONTRAST or entropy(counts) < MIN_ENTROPY or clipped_share(counts) > MAX_CLIPPED:
        flags.append(Reason.TOO_LITTLE_CONTRAST)
    elif spread < LOW_CONTRAST:
        low, high = percentiles(levels, _LEVELS, CLIPPED_PERCENT, 100 - CLIPPED_PERCENT)
        pixels = stretch(_LEVELS, low, high)[pixels]
        flags.append(Reason.LOW_CONTRAST)
        steps.append(RenderingStep(RenderingCode.CONTRAST_RAISED))
    return Graded(pixels, tuple(flags), tuple(steps))


def sampled(pixels: UInt8Array, judged: Judged) -> UInt8Array:
    """Return pixels of a film in even steps, without a frame around it.

    They are not averaged: pictures of black and white alone stay so.
    """
    film = judged.cut(pixels)
    step = max(1, round((film.size / _SAMPLE) ** 0.5))
    return film[::step, ::step]


def clipped_share(counts: Counts) -> float:
    """Share of the pixels that are black or white, within two levels."""
    return float((counts[:3].sum() + counts[WHITE:].sum()) / max(int(counts.sum()), 1))


def white_share(pixels: UInt8Array) -> float:
    """Share of the pixels that are white, but for lines that are white from end to end."""
    white = pixels >= WHITE
    inside = white[white.mean(axis=1) < WHITE_LINE][:, white.mean(axis=0) < WHITE_LINE]
    return float(inside.mean()) if inside.size else 0.0


class Inversion(Enum):
    """Whether a film of a limb is shown black on white."""

    NO = "no"
    PERHAPS = "perhaps"
    YES = "yes"


def inversion(grey: npt.NDArray[Any], levels: Counts) -> Inversion:
    """Tell whether a film is shown black on white.

    Air makes most of a limb's film, so that its middle pixel is dark; but where the beam was collimated, or
    the trunk fills the film, it may be bright. Bone is told by its cortex and trabeculae: thin, and brighter
    than what is around them, unless the film is inverted.
    """
    low, middle, high = percentiles(levels, _LEVELS, 1, 50, 99)
    if middle < NEVER_INVERTED_MEDIAN:
        return Inversion.NO
    found = ridges(grey)
    place = (middle - low) / max(high - low, 1.0)
    if middle >= INVERTED_MEDIAN and place > INVERTED_PLACE and found < INVERTED_RIDGES:
        return Inversion.YES
    if found < PERHAPS_RIDGES or (middle >= PERHAPS_MEDIAN and found < PERHAPS_FAINT_RIDGES):
        return Inversion.PERHAPS
    return Inversion.NO


def ridges(grey: npt.NDArray[Any]) -> float:
    """Tell whether thin structures are brighter (towards 1) or darker (towards -1) than what is around them.

    The balance of the white and the black top-hat (Meyer 1979) with a disc of 5 pixels, at 256 pixels.
    """
    scale = min(1.0, _RIDGE_SIDE / max(grey.shape))
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    bright = float(cv2.morphologyEx(small, cv2.MORPH_TOPHAT, _RIDGE).mean())
    dark = float(cv2.morphologyEx(small, cv2.MORPH_BLACKHAT, _RIDGE).mean())
    return (bright - dark) / max(bright + dark, 1e-3)


def histogram(grey: npt.NDArray[Any]) -> Counts:
    """Return how many pixels have each of the 256 grey levels of a uint8 picture."""
    counts = cv2.calcHist([np.ascontiguousarray(grey)], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def percentiles(counts: Counts, values: npt.NDArray[Any], *percents: float) -> list[float]:
    """Return percentiles of values that occur so often; between two of them linearly, as `numpy.percentile`.

    Parameters
    ----------
    counts
        How often each of `values` occurs; once at least in all.
    values
        In rising order.
    """
    reached = np.cumsum(counts)
    found = []
    for percent in percents:
        place = percent / 100 * float(reached[-1] - 1)
        below, above = (
            float(values[reached.searchsorted(n, side="right")]) for n in (int(place), math.ceil(place))
        )
        found.append(below + (place - int(place)) * (above - below))
    return found


def entropy(counts: Counts) -> float:
    """Bits a pixel, of 8, that the shares of the grey levels amount to (Shannon 1948)."""
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log2(shares)).sum())


def contrast(counts: Counts) -> float:
    """Grey levels between the 1st and the 99th percentile."""
    low, high = percentiles(counts, _LEVELS, 1, 99)
    return high - low


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


def is_wrongly_transformed(picture: UInt8Array) -> bool:
    """Tell whether a picture is grey that was taken for YCbCr, or YCbCr of grey that was taken for RGB.

    No film base and no monitor gives such tints. Where nothing is clipped, the transform can be undone.

    Parameters
    ----------
    picture
        uint8 array of shape (h, w, 3), blue-green-red.
    """
    colours = picture.reshape(-1, 3)
    as_coded = np.abs(colours[:, :2].astype(np.int16) - 128).max(axis=1) <= _COLOUR_ERROR
    if float(as_coded.mean()) > _COLOUR_SHARE and float(np.ptp(colours[:, 2])) > _COLOUR_ERROR:
        return True
    whole = colours[((colours > 0) & (colours < 255)).all(axis=1)]
    if len(whole) < _MIN_UNCLIPPED * len(colours):
        return False
    coded = cv2.cvtColor(whole[None], cv2.COLOR_BGR2YCrCb)[0]
    grey = np.ptp(coded, axis=1) <= _COLOUR_ERROR
    return float(grey.mean()) > _COLOUR_SHARE and float(np.ptp(coded[:, 0])) > 4 * _COLOUR_ERROR


def looks_like_a_page(grey: UInt8Array, levels: Counts) -> bool:
    """Tell whether small dark pieces stand on paper, where an inverted radiograph shows one body part.

    Parameters
    ----------
    grey
        uint8 array of shape (h, w).
    levels
        Its `histogram`, of all lines or of some.
    """
    paper = PAPER_GREY + int(levels[PAPER_GREY:].argmax())
    darkest_paper = paper - 24
    if not (levels[paper] and 0 < levels[:darkest_paper].sum() < (1 - MIN_PAPER) * levels.sum()):
        return False
    ink = (grey < darkest_paper).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    return bool(stats[1:, cv2.CC_STAT_AREA].max() < MAX_PIECE * ink.sum())
