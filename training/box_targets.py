"""What the cells of a map are to say of the boxes around fractures."""

from __future__ import annotations

import numpy as np

from pipeline.types import Float32Array

#: From this target on a cell learns the sides of the box, and is not drawn as one without a fracture.
IN_BOX = 0.35
#: The longest side that is told is `exp` of this, in cells, and the shortest this.
FURTHEST, LEAST_SIDE = 3.2, 0.06
#: How wide the target falls off, as a share of the box and in cells at least.
_SPREAD, _LEAST_SPREAD = 0.28, 0.5


def box_targets(boxes: Float32Array, grid: int) -> tuple[Float32Array, Float32Array]:
    """Return what the cells of a (grid, grid) map are to say of boxes (n, 4) in cells.

    Returns
    -------
    Float32Array
        (grid, grid), 0-1: 1 in the middle of a box, falling off like a bell towards its sides.
    Float32Array
        (grid, grid, 4): distances from a cell's middle to left, top, right and bottom of the box that it
        belongs to most, in cells.
    """
    y, x = np.mgrid[:grid, :grid] + 0.5
    sure, sides = np.zeros((grid, grid), np.float32), np.ones((grid, grid, 4), np.float32)
    for left, top, right, bottom in boxes:
        wide = max((right - left) * _SPREAD, _LEAST_SPREAD)
        tall = max((bottom - top) * _SPREAD, _LEAST_SPREAD)
        away = ((x - (left + right) / 2) / wide) ** 2 + ((y - (top + bottom) / 2) / tall) ** 2
        bell = np.exp(-away / 2).astype(np.float32)
        mine = bell > sure
        sure[mine] = bell[mine]
        sides[mine] = np.stack([x - left, y - top, right - x, bottom - y], axis=-1)[mine]
    return sure, sides
