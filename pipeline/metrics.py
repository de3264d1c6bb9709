"""Figures of merit from plain arrays, bootstrap intervals over groups; training and service share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def auc(scores: FloatArray, labels: BoolArray) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half (Mann-Whitney)."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: FloatArray, labels: BoolArray) -> float:
    """Mean precision over the recalls at which a positive is found."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(labels[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # ties count together
    precision, recall = (found / np.arange(1, len(found) + 1))[last], found[last] / found[-1]
    return float((precision * np.diff(recall, prepend=0)).sum())


def expected_calibration_error(probabilities: FloatArray, labels: BoolArray, bins: int = 10) -> float:
    """Mean gap of stated and true share over `bins` equal steps of probability (Guo et al. 2017)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        (place == b).mean() * abs(probabilities[place == b].mean() - labels[place == b].mean())
        for b in np.unique(place)
    ]
    return float(sum(gaps))


def at_cut(probabilities: FloatArray, labels: BoolArray, cut: float) -> dict[str, float]:
    """Return accuracy, precision, recall, specificity, F1 and Cohen's kappa for ``probability >= cut``."""
    said = probabilities >= cut
    tp, fp = float((said & labels).sum()), float((said & ~labels).sum())
    fn, tn = float((~said & labels).sum()), float((~said & ~labels).sum())
    total, nan = tp + fp + fn + tn, float("nan")
    chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    accuracy = (tp + tn) / total
    return {
        "accuracy": accuracy,
        "precision": tp / (tp + fp) if tp + fp else nan,
        "recall": tp / (tp + fn) if tp + fn else nan,
        "specificity": tn / (tn + fp) if tn + fp else nan,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else nan,
        "kappa": (accuracy - chance) / (1 - chance) if chance < 1 else nan,
    }


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return PPV and NPV where `prevalence` of the images are positive, by Bayes' rule."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    kept, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    nan = float("nan")
    return (
        right / (right + wrong) if right + wrong else nan,
        kept / (kept + missed) if kept + missed else nan,
    )


def figures_of_merit(
    probabilities: FloatArray,
    labels: BoolArray,
    lows: FloatArray,
    highs: FloatArray,
    prevalence: float | None = None,
) -> dict[str, float]:
    """Return every figure of a set of images or studies.

    Parameters
    ----------
    probabilities
        Calibrated, 0-1.
    lows, highs
        The operating points that hold for each image.
    prevalence
        Of the site that predictive values are stated for; that of `labels` if None.
    """
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    at_low, at_high = _rates(probabilities >= lows, labels), _rates(probabilities >= highs, labels)
    site = float(labels.mean()) if prevalence is None else prevalence
    ppv_low, npv_low = predictive_values(*at_low, site)
    ppv_high, npv_high = predictive_values(*at_high, site)
    return {
        "images": float(len(labels)),
        "positives": float(labels.sum()),
        "auc": auc(probabilities, labels),
        "average_precision": average_precision(probabilities, labels),
        "loss": float(-np.where(labels, np.log(p), np.log(1 - p)).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        **at_cut(probabilities, labels, 0.5),
        "sensitivity_at_low": at_low[0],
        "specificity_at_low": at_low[1],
        "ppv_at_low": ppv_low,
        "npv_at_low": npv_low,
        "sensitivity_at_high": at_high[0],
        "specificity_at_high": at_high[1],
        "ppv_at_high": ppv_high,
        "npv_at_high": npv_high,
    }


def _rates(said: BoolArray, labels: BoolArray) -> tuple[float, float]:
    """Return sensitivity and specificity."""
    nan = float("nan")
    return (
        float(said[labels].mean()) if labels.any() else nan,
        float(1 - said[~labels].mean()) if not labels.all() else nan,
    )


def bootstrap(
    figures: Callable[[npt.NDArray[np.intp]], Mapping[str, float]],
    groups: Sequence[str],
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return 95% percentile intervals of `figures`, resampling whole groups with replacement.

    Parameters
    ----------
    figures
        Takes image numbers, which may repeat.
    groups
        Of each image: near-duplicates and images of one patient move together.
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    rng = np.random.default_rng(seed)
    drawn = [
        figures(np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))]))
        for _ in range(rounds)
    ]
    return {
        key: (
            float(np.nanpercentile([d[key] for d in drawn], 2.5)),
            float(np.nanpercentile([d[key] for d in drawn], 97.5)),
        )
        for key in drawn[0]
        if not all(np.isnan(d[key]) for d in drawn)
    }
