"""The report's own drawings as SVG text: the probability's scale, and the marks on the attention map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.marks import corner_lines
from pipeline.report.types import Mark
from pipeline.types import AttentionRegion, SuspectedBox, Thresholds
from vocabulary.words import percents, scale_place

#: Size of the scale in millimetres, and how far 0 and 100% stand from its ends.
SCALE_WIDTH, SCALE_HEIGHT, SCALE_END = 102.0, 10.0, 1.0
#: About how wide a zone's name and a digit are: a text with an anchor in its middle costs a group of its own.
NAME_WIDTH, DIGIT_WIDTH = 9.4, 1.6
#: How long the arms of a mark may be, in millimetres.
ARM = 2.5
#: Height of the plate with a mark's number or letter, and how far it stands from the mark.
PLATE_HEIGHT, PLATE_GAP = 3.2, 0.5
#: Suspected places have letters, attention regions numbers.
PLACE_LETTERS = "ABCDE"
INK, LINE = "#14202b", "#4d5a66"


def _svg(width: float, height: float, shapes: Sequence[str]) -> bytes:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.2f}mm" height="{height:.2f}mm" '
        f'viewBox="0 0 {width:.2f} {height:.2f}" font-family="Inter">{"".join(shapes)}</svg>'
    ).encode()


def probability_scale(probability: float, thresholds: Thresholds) -> bytes:
    """Draw where `probability` (0-1) stands; both thresholds stand at fixed places, with what they are below.

    Between them the scale is linear: `vocabulary.words.scale_place`.
    """

    def at(share: float) -> float:
        return SCALE_END + share * (SCALE_WIDTH - 2 * SCALE_END)

    low, high = at(1 / 3), at(2 / 3)
    here = at(scale_place(probability, thresholds.low, thresholds.high))
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
    ]
    texts = percents([probability, thresholds.low, thresholds.high])[1:]
    shapes += [
        f'<text x="{x - len(text) * DIGIT_WIDTH / 2:.2f}" y="9.4" font-size="2.5" font-weight="600" '
        f'fill="{INK}">{text.replace("<", "&lt;")}</text>'
        for x, text in zip((low, high), texts, strict=True)
    ]
    marks = f"M{low:.2f} 2.3V7M{high:.2f} 2.3V7M{here:.2f} 3.2l-1.3-2.7h2.6zV6"
    shapes.append(f'<path d="{marks}" fill="{INK}" stroke="{INK}" stroke-width="0.4"/>')
    return _svg(SCALE_WIDTH, SCALE_HEIGHT, shapes)


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _plate(
    marked: _Box, others: Sequence[_Box], wide: float, size: tuple[float, float]
) -> tuple[float, float]:
    """Return where the plate of a mark stands: beside it, on the picture, if it can be on no other mark.

    Where a mark fills the picture its plate stands in the corner, as small as it is.
    """
    width, height = size
    columns = marked.left, marked.right - wide, marked.left - wide - PLATE_GAP, marked.right + PLATE_GAP
    rows = marked.top - PLATE_HEIGHT - PLATE_GAP, marked.bottom + PLATE_GAP
    level = marked.top, marked.bottom - PLATE_HEIGHT
    places = [(x, y) for y in rows for x in columns] + [(x, y) for x in columns[2:] for y in level]
    found = [
        (x, y) for x, y in places if x >= 0 and y >= 0 and x + wide <= width and y + PLATE_HEIGHT <= height
    ]

    def box(place: tuple[float, float]) -> _Box:
        return _Box(place[0], place[1], place[0] + wide, place[1] + PLATE_HEIGHT)

    free = [place for place in found if not any(box(place).meets(other) for other in others)]
    fallback = max(0.0, min(marked.left, width - wide)), max(0.0, min(marked.top, height - PLATE_HEIGHT))
    return (free or found or [fallback])[0]


def _box_of(region: AttentionRegion | SuspectedBox, scale: float) -> _Box:
    left, top = region.x * scale, region.y * scale
    return _Box(left, top, left + region.width * scale, top + region.height * scale)


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
    boxes = [_box_of(region, scale) for region in regions]
    for number, box in enumerate(boxes, 1):
        left, top, right, bottom = box.left, box.top, box.right, box.bottom
        for (x, y), (corner_x, _), (_, end_y) in corner_lines(left, top, right, bottom, ARM):
            corners.append(f"M{x:.2f} {y:.2f}H{corner_x:.2f}V{end_y:.2f}")
        wide = len(str(number)) * DIGIT_WIDTH + 1.6
        x, y = _plate(box, boxes, wide, (width, height))
        plates.append(f"M{x:.2f} {y:.2f}h{wide:.1f}v{PLATE_HEIGHT}h-{wide:.1f}z")
        at = f'x="{x + 0.8:.2f}" y="{y + 2.5:.2f}"'
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
    boxes = [_box_of(place, scale) for place in places]
    for letter, place, box in zip(PLACE_LETTERS, places, boxes, strict=False):
        x, y = box.left, box.top
        wide, tall = box.right - box.left, box.bottom - box.top
        path = f"M{x:.2f} {y:.2f}h{wide:.2f}v{tall:.2f}h{-wide:.2f}z"
        dots = "" if place.strong else ' stroke-dasharray="0.01 1.2" stroke-linecap="round"'
        shapes += [
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"{dots}/>'
            for colour, thickness in (("#000", 0.9), ("#fff", 0.5))
        ]
        left, top = _plate(box, boxes, 2.6, (width, height))
        shapes.append(f'<path d="M{left:.2f} {top:.2f}h2.6v{PLATE_HEIGHT}h-2.6z" fill="#fff"/>')
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
