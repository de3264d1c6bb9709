"""How wrong a network is about boxes: of how sure its cells are, and of the sides that they draw."""

from __future__ import annotations

from typing import Any

from models import architectures  # noqa: F401  first: it chooses the backend of keras

from keras import ops  # isort: skip

from training.box_targets import FURTHEST, IN_BOX, LEAST_SIDE

#: A picture without a fracture counts as if it had cells of this weight in a box.
_EMPTY = 4.0


def entropy(target: Any, logit: Any) -> Any:
    """Return the cross-entropy of logits with targets 0-1."""
    return ops.softplus(logit) - target * logit


def sides_loss(wanted: Any, said: Any) -> Any:
    """Return how wrong boxes are, by their overlap and by the logarithms of their distances.

    Parameters
    ----------
    wanted
        (..., 4), distances from a cell's middle to left, top, right and bottom of its box, in cells.
    said
        (..., 4), the logarithms of those.

    Returns
    -------
    Any
        (...): 1 less the intersection over union, plus 0.3 times the mean error of the logarithms.
    """
    told = ops.clip(said, -FURTHEST, FURTHEST)
    reach, wanted = ops.exp(told), ops.maximum(wanted, LEAST_SIDE)
    shared = ops.minimum(reach, wanted)
    joined = (shared[..., 0] + shared[..., 2]) * (shared[..., 1] + shared[..., 3])
    areas = [(r[..., 0] + r[..., 2]) * (r[..., 1] + r[..., 3]) for r in (reach, wanted)]
    overlap = joined / (areas[0] + areas[1] - joined)
    return (1 - overlap) + 0.3 * ops.mean(ops.abs(told - ops.log(wanted)), axis=-1)


def box_loss(sure: Any, sides: Any, said: Any, drawn: Any) -> Any:
    """Return the loss of whole maps of boxes.

    How sure cells are counts by a quality focal loss (Li et al. 2020), sides where a cell lies in a box.

    Parameters
    ----------
    sure, sides
        (n, grid, grid) and (n, grid, grid, 4), see `box_targets`.
    said
        (n, grid, grid, 5), the network's: logit and logarithms of the distances.
    drawn
        (n, 1, 1): 0 for a picture whose fractures have no outline, which says nothing; else 1.
    """
    logit = said[..., 0]
    in_box = ops.where(sure > IN_BOX, sure, 0.0) * drawn
    wrong = ops.square(ops.abs(sure - ops.sigmoid(logit))) * entropy(sure, logit) * drawn
    all_sides = ops.sum(sides_loss(sides, said[..., 1:]) * in_box)
    return ops.sum(wrong) / (ops.sum(in_box) + _EMPTY) + all_sides / (ops.sum(in_box) + 1)
