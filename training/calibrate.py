"""Calibration and operating points, fitted on validation; the reference for feature distances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from models.scorer import Reference
from pipeline.types import Float32Array, Platt, Thresholds

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SENSITIVITY = 0.95
SPECIFICITY = 0.90
#: So many of the true limbs of validation may lie nearer to being refused.
_LIMBS_REFUSED = 0.005


def fit_platt(logits: npt.ArrayLike, labels: BoolArray) -> Platt:
    """Fit ``p = sigmoid(slope * logit + intercept)`` by Newton's method.

    Slope and intercept: class balancing in training shifts the prior, which a temperature cannot undo.
    Targets are softened as in Platt (1999), so that separable data stay finite.

    Raises
    ------
    ValueError
        One of the two classes is empty.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError(f"calibration needs both classes, got {positives} positive, {negatives} negative")
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.column_stack([np.asarray(logits, np.float64), np.ones(len(labels))])
    weights = np.array([1.0, 0.0])
    for _ in range(100):
        p = 1 / (1 + np.exp(-inputs @ weights))
        curvature = inputs.T @ (inputs * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (p - targets))
        weights -= step * min(1.0, 5.0 / np.abs(step).max(initial=1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Platt(float(weights[0]), float(weights[1]), positives / len(labels))


def operating_points(probabilities: FloatArray, labels: BoolArray) -> Thresholds:
    """Cut for sensitivity and for specificity; `low` is the smaller cut, `high` the larger.

    Parameters
    ----------
    probabilities
        Calibrated, 0-1, shape (n,).
    """
    positives = np.sort(probabilities[labels])[::-1]
    negatives = np.sort(probabilities[~labels])
    sensitive = float(positives[int(np.ceil(SENSITIVITY * len(positives))) - 1])
    index = int(np.ceil(SPECIFICITY * len(negatives)))
    below = float(negatives[index - 1])
    above = float(negatives[index]) if index < len(negatives) else 1.0
    specific = (below + above) / 2
    return Thresholds(min(sensitive, specific), max(sensitive, specific))


def refused_from(others: npt.ArrayLike) -> float:
    """Return from which probability of anything else on a picture is refused.

    Ten times as much as 99.5% of validation's limbs have; never from less than 0.05 on, since limbs of other
    origins look less familiar, and always from 0.5 on.

    Parameters
    ----------
    others
        That probability for the limbs of validation.
    """
    return float(np.clip(10 * np.quantile(np.asarray(others), 1 - _LIMBS_REFUSED), 0.05, 0.5))


def fit_reference(
    features: Float32Array, classes: npt.NDArray[np.int_], *, components: int = 64, images: bool = False
) -> Reference:
    """Summarise training features for distances.

    Parameters
    ----------
    features
        float32 (n, d) of training images.
    classes
        (n,) region numbers; each class has its mean, all share one covariance.
    components
        Principal components kept; each is scaled to unit variance within classes.
    images
        Compare with every training image (5th nearest) instead of with the class means.
    """
    if not np.isfinite(features).all():
        raise ValueError("the features are not finite: the region network has diverged")
    # one thread: OpenBLAS's threaded products were seen to spin for ever in a process that had trained before
    with threadpool_limits(1, "blas"):
        return _fitted(features, classes, components, images)


def _fitted(
    features: Float32Array, classes: npt.NDArray[np.int_], components: int, images: bool
) -> Reference:
    labels = np.unique(classes)
    means = np.stack([features[classes == label].mean(axis=0) for label in labels])
    within = features - means[np.searchsorted(labels, classes)]
    mean = features.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((features - mean).T.astype(np.float64)))
    basis = vectors[:, np.argsort(values)[::-1][:components]]
    spread = np.cov((within @ basis).T) + 1e-6 * np.eye(basis.shape[1])
    projection = (basis @ np.linalg.inv(np.linalg.cholesky(spread)).T).astype(np.float32)
    centres = ((features if images else means) - mean) @ projection
    return Reference(mean.astype(np.float32), projection, centres.astype(np.float32), 5 if images else 1)
