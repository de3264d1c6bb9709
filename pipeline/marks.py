"""The marks of an attention region: its corners, open so that nobody takes them for an outline."""

from __future__ import annotations

from typing import TypeAlias

Point: TypeAlias = tuple[float, float]


def corner_lines(
    left: float, top: float, right: float, bottom: float, longest: float
) -> list[tuple[Point, Point, Point]]:
    """Return a line of three points about each corner, in the unit of its arguments.

    Parameters
    ----------
    left, top, right, bottom
        The region's edges.
    longest
        How long an arm may be; it never takes more than a third of an edge.
    """
    arm = min(longest, (right - left) / 3, (bottom - top) / 3)
    return [
        ((x + dx, y), (x, y), (x, y + dy))
        for x, dx in ((left, arm), (right, -arm))
        for y, dy in ((top, arm), (bottom, -arm))
    ]
