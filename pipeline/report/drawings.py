"""The report's own drawings as SVG text: the probability's scale, and the marks on the attention map."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.types import AttentionRegion, Thresholds

#: Size of the scale in millimetres, and how far 0 and 100% stand from its ends.
SCALE_WIDTH, SCALE_HEIGHT, SCALE_END = 102.0, 10.0, 1.0
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

    shapes = []
    zones = (
        (0.0, thresholds.low, "negative", "#fff"),
        (thresholds.low, thresholds.high, "in doubt", "#d9dfe4"),
        (thresholds.high, 1.0, "positive", "#98a4ae"),
    )
    for start, end, name, fill in zones:
        x, width = at(start), at(end) - at(start)
        shapes.append(
            f'<rect x="{x:.2f}" y="3" width="{width:.2f}" height="3" fill="{fill}" stroke="{LINE}" '
            'stroke-width="0.2"/>'
        )
        if width > 14:
            shapes.append(
                f'<text x="{x + width / 2:.2f}" y="9.4" font-size="2.3" text-anchor="middle" '
                f'fill="{LINE}">{name}</text>'
            )
    low, high, here = at(thresholds.low), at(thresholds.high), at(probability)
    shapes.append(f'<path d="M{low:.2f} 2.3V7M{high:.2f} 2.3V7" stroke="{INK}" stroke-width="0.35"/>')
    shapes.append(f'<path d="M{here:.2f} 3.2l-1.3-2.7h2.6z" fill="{INK}"/>')
    shapes.append(f'<path d="M{here:.2f} 1V6" stroke="{INK}" stroke-width="0.5"/>')
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
    corners, labels = [], []
    for number, region in enumerate(regions, 1):
        left, top = region.x * scale, region.y * scale
        right, bottom = left + region.width * scale, top + region.height * scale
        arm = min(2.5, (right - left) / 3, (bottom - top) / 3)
        for x, dx in ((left, arm), (right, -arm)):
            for y, dy in ((top, arm), (bottom, -arm)):
                corners.append(f"M{x + dx:.2f} {y:.2f}H{x:.2f}V{y + dy:.2f}")
        box = 3.2 if number < 10 else 4.6
        labels.append(
            f'<rect x="{left:.2f}" y="{top:.2f}" width="{box}" height="3.2" fill="#fff"/>'
            f'<text x="{left + box / 2:.2f}" y="{top + 2.5:.2f}" font-size="2.5" font-weight="600" '
            f'text-anchor="middle" fill="#000">{number}</text>'
        )
    path = "".join(corners)
    strokes = [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thickness}"/>'
        for colour, thickness in (("#000", 0.8), ("#fff", 0.35))
    ]
    return _svg(width, height, [*strokes, *labels])
