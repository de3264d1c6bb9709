"""The report's own drawings as SVG text: the probability's scale, and the marks on the attention map."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.marks import corner_lines
from pipeline.report.types import Mark
from pipeline.types import AttentionRegion, SuspectedBox, Thresholds

#: Size of the scale in millimetres, and how far 0 and 100% stand from its ends.
SCALE_WIDTH, SCALE_HEIGHT, SCALE_END = 102.0, 10.0, 1.0
#: About how wide a zone's name and a digit are: a text with an anchor in its middle costs a group of its own.
NAME_WIDTH, DIGIT_WIDTH = 9.4, 1.6
#: How long the arms of a mark may be, in millimetres.
ARM = 2.5
#: Suspected places have letters, attention regions numbers.
PLACE_LETTERS = "ABCDE"
INK, LINE = "#14202b", "#4d5a66"


def _svg(width: float, height: float, shapes: Sequence[str]) -> bytes:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.2f}mm" height="{height:.2f}mm" '
        f'viewBox="0 0 {width:.2f} {height:.2f}" font-family="Inter">{"".join(shapes)}</svg>'
    ).encode()


def probability_scale(probability: float, thresholds: Thresholds) -> bytes:
    """Draw where `probability` (0-1) stands from 0 to 100%, with both thresholds marked."""

    def at(value: float) -> float:
        return SCALE_END + value * (SCALE_WIDTH - 2 * SCALE_END)

    low, high, here = at(thresholds.low), at(thresholds.high), at(probability)
    zones = (
        (at(0), low, "negative", "#fff"),
        (low, high, "in doubt", "#d9dfe4"),
        (high, at(1), "positive", "#98a4ae"),
    )
    shapes = [
        f'<rect x="{start:.2f}" y="3" width="{end - start:.2f}" height="3" fill="{fill}" stroke="{LINE}" '
        'stroke-width="0.2"/>'
        for start, end, _, fill in zones
    ]
    shapes += [
        f'<text x="{(start + end - NAME_WIDTH) / 2:.2f}" y="9.4" font-size="2.3" fill="{LINE}">{name}</text>'
        for start, end, name, _ in zones
        if end - start > 14
    ]
    marks = f"M{low:.2f} 2.3V7M{high:.2f} 2.3V7M{here:.2f} 3.2l-1.3-2.7h2.6zV6"
    shapes.append(f'<path d="{marks}" fill="{INK}" stroke="{INK}" stroke-width="0.4"/>')
    return _svg(SCALE_WIDTH, SCALE_HEIGHT, shapes)


def region_marks(regions: Sequence[AttentionRegion], pixels: int, width: float, height: float) -> bytes:
    """Draw numbered corner marks, open so that nobody takes them for an outline.

    Parameters
    ----------
    pixels
        Width of the original, to which the regions refer.
    width, height
        Size of the picture on the page in millimetres.
    """
    scale = width / pixels
    corners, plates, numbers = [], [], []
    for number, region in enumerate(regions, 1):
        left, top = region.x * scale, region.y * scale
        right, bottom = left + region.width * scale, top + region.height * scale
        for (x, y), (corner_x, _), (_, end_y) in corner_lines(left, top, right, bottom, ARM):
            corners.append(f"M{x:.2f} {y:.2f}H{corner_x:.2f}V{end_y:.2f}")
        digits = len(str(number)) * DIGIT_WIDTH
        plates.append(f"M{left:.2f} {top:.2f}h{digits + 1.6:.1f}v3.2h-{digits + 1.6:.1f}z")
        at = f'x="{left + 0.8:.2f}" y="{top + 2.5:.2f}"'
        numbers.append(f'<text {at} font-size="2.5" font-weight="600">{number}</text>')
    strokes = [
        f'<path d="{"".join(corners)}" fill="none" stroke="{colour}" stroke-width="{thickness}"/>'
        for colour, thickness in (("#000", 0.8), ("#fff", 0.35))
    ]
    plate = f'<path d="{"".join(plates)}" fill="#fff"/>'
    return _svg(width, height, [*strokes, plate, *numbers])


def place_boxes(places: Sequence[SuspectedBox], pixels: int, width: float, height: float) -> bytes:
    """Draw suspected places: a solid box from the bundle's upper score on, a dotted one below; with letters.

    Parameters
    ----------
    pixels
        Width of the original, to which the places refer.
    width, height
        Size of the picture on the page in millimetres.
    """
    scale = width / pixels
    shapes = []
    for letter, place in zip(PLACE_LETTERS, places, strict=False):
        x, y = place.x * scale, place.y * scale
        wide, tall = place.width * scale, place.height * scale
        path = f"M{x:.2f} {y:.2f}h{wide:.2f}v{tall:.2f}h{-wide:.2f}z"
        dots = "" if place.strong else ' stroke-dasharray="0.01 1.2" stroke-linecap="round"'
        shapes += [
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"{dots}/>'
            for colour, thickness in (("#000", 0.9), ("#fff", 0.5))
        ]
        left, top = min(x, width - 2.6), max(0.0, y - 3.2)
        shapes.append(f'<path d="M{left:.2f} {top:.2f}h2.6v3.2h-2.6z" fill="#fff"/>')
        at = f'x="{left + 0.5:.2f}" y="{top + 2.5:.2f}"'
        shapes.append(f'<text {at} font-size="2.5" font-weight="600">{letter}</text>')
    return _svg(width, height, shapes)


def reader_mark(mark: Mark, pixels: int, width: float, height: float) -> bytes:
    """Draw what a reader marked: a closed frame, or a cross for a point; the model's marks are open corners.

    Parameters
    ----------
    pixels
        Width of the original, to which the mark refers.
    width, height
        Size of the picture on the page in millimetres.
    """
    scale = width / pixels
    x, y = mark.x * scale, mark.y * scale
    if mark.width or mark.height:
        path = (
            f"M{x:.2f} {y:.2f}h{mark.width * scale:.2f}v{mark.height * scale:.2f}h{-mark.width * scale:.2f}z"
        )
    else:
        path = f"M{x - ARM:.2f} {y:.2f}h{2 * ARM:.2f}M{x:.2f} {y - ARM:.2f}v{2 * ARM:.2f}"
    return _svg(
        width,
        height,
        [
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"/>'
            for colour, thickness in (("#000", 1.1), ("#fff", 0.6))
        ],
    )
