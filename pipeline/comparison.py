"""Two bundles on the same labelled studies: which is better, by how much, and whether that is chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline import metrics
from pipeline.evaluation import CUT, ROUNDS, Record, StudyRecord, studies_of

#: How many changed images, and images that a bundle was fitted on, a comparison names.
MAX_NAMED = 500


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979)."""
    corrected, worst = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = worst
    return corrected


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) for two counts of disagreement."""
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))


def delong(
    a: metrics.FloatArray, b: metrics.FloatArray, labels: metrics.BoolArray
) -> dict[str, float | tuple[float, float]]:
    """Compare two correlated AUCs (DeLong, DeLong and Clarke-Pearson 1988) of independent cases.

    Returns
    -------
    dict
        `difference` (b - a), its standard error `se`, 95% `interval`, two-sided `p`.
    """
    components = [_placements(scores, labels) for scores in (a, b)]
    aucs = [float(positive.mean()) for positive, _ in components]
    of_positives, of_negatives = (
        np.cov(np.stack([c[side] for c in components])) / len(components[0][side]) for side in (0, 1)
    )
    covariance = of_positives + of_negatives
    difference = aucs[1] - aucs[0]
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    se = math.sqrt(max(variance, 0.0))
    p = math.erfc(abs(difference) / se / math.sqrt(2)) if se > 0 else float(difference == 0)
    return {
        "difference": difference,
        "se": se,
        "interval": (difference - 1.959964 * se, difference + 1.959964 * se),
        "p": p,
    }


def _placements(
    scores: metrics.FloatArray, labels: metrics.BoolArray
) -> tuple[metrics.FloatArray, metrics.FloatArray]:
    """Return DeLong's structural components of the positives and of the negatives, ties half."""
    positive, negative = scores[labels], scores[~labels]
    return _share_below(positive, np.sort(negative)), 1 - _share_below(negative, np.sort(positive))


def _share_below(values: metrics.FloatArray, ordered: metrics.FloatArray) -> metrics.FloatArray:
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((below + up_to) / 2 / len(ordered), np.float64)


def paired_difference(
    a: metrics.FloatArray,
    b: metrics.FloatArray,
    labels: metrics.BoolArray,
    patients: Sequence[str],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return both AUCs and their difference b - a, resampling patients with all their studies.

    Returns
    -------
    dict
        `a`, `b`, `difference`, 95% percentile `interval`, two-sided bootstrap `p`.
    """
    drawn: list[float] = []

    def difference(k: Any) -> dict[str, float]:
        value = metrics.auc(b[k], labels[k]) - metrics.auc(a[k], labels[k])
        drawn.append(value)
        return {"difference": value}

    intervals = metrics.bootstrap(difference, patients, rounds=rounds, seed=seed)
    there = np.array([d for d in drawn if not math.isnan(d)])
    tail = min(int((there <= 0).sum()), int((there >= 0).sum())) + 1
    auc_a, auc_b = metrics.auc(a, labels), metrics.auc(b, labels)
    return {
        "a": auc_a,
        "b": auc_b,
        "difference": auc_b - auc_a,
        "interval": intervals.get("difference"),
        "p": min(1.0, 2 * tail / (len(there) + 1)),
    }


def _pairs(a: Sequence[StudyRecord], b: Sequence[StudyRecord]) -> list[tuple[StudyRecord, StudyRecord]]:
    of_b = {row.study: row for row in b}
    return [(row, of_b[row.study]) for row in a if row.study in of_b and row.label is not None]


def _arrays(
    pairs: Sequence[tuple[StudyRecord, StudyRecord]],
) -> tuple[metrics.FloatArray, metrics.FloatArray, metrics.BoolArray, list[str]]:
    """Return both bundles' scores, labels and patients; what was not scored is as wrong as can be."""
    y = np.array([bool(a.label) for a, _ in pairs])
    wrong = np.where(y, 0.0, 1.0)
    scores = [
        np.array(
            [w if row.probability is None else row.probability for row, w in zip(rows, wrong, strict=True)]
        )
        for rows in ([a for a, _ in pairs], [b for _, b in pairs])
    ]
    return scores[0], scores[1], y, [a.patient for a, _ in pairs]


def _decidable(pairs: Sequence[tuple[StudyRecord, StudyRecord]]) -> bool:
    positives = sum(bool(a.label) for a, _ in pairs)
    return 0 < positives < len(pairs)


def _one_a_patient(
    pairs: Sequence[tuple[StudyRecord, StudyRecord]], seed: int
) -> list[tuple[StudyRecord, StudyRecord]]:
    """Choose one study of each patient by chance: the classical tests want independent cases."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = {pairs[i][0].patient: pairs[i] for i in order}
    return [chosen[patient] for patient in sorted(chosen)]


def secondary(pairs: Sequence[tuple[StudyRecord, StudyRecord]], seed: int = 0) -> dict[str, Any] | None:
    """Return DeLong's and McNemar's tests on one study a patient, or None where one label is absent."""
    chosen = _one_a_patient(pairs, seed)
    positives = sum(bool(a.label) for a, _ in chosen)
    if not 1 < positives < len(chosen) - 1:  # a variance needs two of each
        return None
    a, b, y, _ = _arrays(chosen)
    right_a, right_b = (a > CUT) == y, (b > CUT) == y
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        "studies": len(chosen),
        "delong": delong(a, b, y),
        "mcnemar": {"only_a_right": only_a, "only_b_right": only_b, "p": mcnemar(only_a, only_b)},
    }


def verdict(interval: tuple[float, float] | None, margin: float) -> str:
    """Return *better*, *worse* or *not distinguishable* for b against a; with the margin, *non-inferior*."""
    if interval is None:
        return "not distinguishable"
    low, high = interval
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not distinguishable, non-inferior" if low > -margin else "not distinguishable"


def changed_side(a: Sequence[Record], b: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the images that lie on the other side of 0.5 for b, the largest change first."""
    of_b = {record.name: record for record in b}
    changed = []
    for record in a:
        other = of_b.get(record.name)
        if record.score is None or other is None or other.score is None:
            continue
        before, after = record.score.probability, other.score.probability
        if (before > CUT) != (after > CUT):
            changed.append(
                {
                    "name": record.name,
                    "region": record.region,
                    "label": record.label,
                    "a": before,
                    "b": after,
                    "right": None if record.label is None else (after > CUT) == record.label,
                }
            )
    return sorted(changed, key=lambda c: (-abs(c["b"] - c["a"]), c["name"]))


def compare(
    a: Sequence[Record],
    b: Sequence[Record],
    *,
    margin: float,
    fitted_on: Mapping[str, str] = MappingProxyType({}),
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Compare bundle b with bundle a on the studies that both were asked about.

    Parameters
    ----------
    margin
        The loss of study-level AUC that b may have and still count as no worse; chosen beforehand.
    fitted_on
        Names of images that either bundle was fitted on, and how each was found (``"file"``, ``"look"``):
        their studies are set apart.
    """
    a, b = sorted(a, key=lambda r: r.name), sorted(b, key=lambda r: r.name)
    pairs = _pairs(studies_of(a), studies_of(b))
    known = [record for record in a if record.name in fitted_on]
    apart = {record.study for record in known}
    clean = [pair for pair in pairs if pair[0].study not in apart]
    overlap = {how: [r.name for r in known if fitted_on[r.name] == how] for how in ("file", "look")}
    changed = changed_side(a, b)
    answer: dict[str, Any] = {
        "margin": margin,
        "rounds": rounds,
        "studies": len(clean),
        "patients": len({pair[0].patient for pair in clean}),
        "overlap": {
            "images": len(known),
            "studies": len(pairs) - len(clean),
            "by_file": len(overlap["file"]),
            "by_look": len(overlap["look"]),
            "named": overlap["file"][:MAX_NAMED],
            "named_alike": overlap["look"][:MAX_NAMED],
            "without_look": sum(record.look is None for record in a),
        },
        "changed": len(changed),
        "changed_images": changed[:MAX_NAMED],
        "pooled": None,
        "regions": {},
        "secondary": None,
        "verdict": "not distinguishable",
    }
    if not _decidable(clean):
        return answer
    answer["pooled"] = paired_difference(*_arrays(clean), rounds=rounds)
    regions = {}
    for region in sorted({pair[0].region for pair in clean if pair[0].region}):
        part = [pair for pair in clean if pair[0].region == region]
        if _decidable(part):
            regions[region] = {"studies": len(part), **paired_difference(*_arrays(part), rounds=rounds)}
    corrected = holm({region: figures["p"] for region, figures in regions.items()})
    answer["regions"] = {r: {**figures, "p_holm": corrected[r]} for r, figures in regions.items()}
    answer["secondary"] = secondary(clean)
    answer["verdict"] = verdict(answer["pooled"]["interval"], margin)
    return answer
