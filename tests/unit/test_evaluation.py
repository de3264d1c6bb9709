"""Figures by study and by image, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from pipeline import evaluation, metrics
from pipeline.evaluation import Record, Score
from pipeline.types import Platt, RegionModel, Thresholds


def record(name, study, label, p, *, patient=None, region="hand", read=True, seen="hand", others=None):
    score = None if p is None else Score(seen, p, 0.2, 0.8, read)
    return Record(name, f"{hash(name):064x}", study, patient or study, region, label, seen, score, others)


def many(n=300, seed=1):
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = bool(i % 3 == 0)
        p = float(np.clip(rng.normal(0.6 if label else 0.4, 0.2), 0.01, 0.99))
        yield record(f"{i:04d}", f"s{i // 2}", label if i % 2 == 0 else None, p, patient=f"p{i // 5}")


def test_a_study_is_the_mean_of_its_images_abnormal_above_half():
    studies = evaluation.studies_of(
        [record("a", "s1", True, 0.9), record("b", "s1", True, 0.2), record("c", "s2", False, 0.5)]
    )
    assert [(s.study, s.probability, s.n_images) for s in studies] == [("s1", 0.55, 2), ("s2", 0.5, 1)]
    assert evaluation.prediction_lines(studies) == ["s1/,1", "s2/,0"]


def test_figures_agree_with_scikit_learn():
    studies = evaluation.studies_of(many())
    found = evaluation.figures_of(studies, rounds=50)
    y = np.array([s.label for s in studies])
    p = np.array([s.probability for s in studies])
    figures = {name: figure["value"] for name, figure in found["figures"].items()}
    assert figures["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)
    assert figures["kappa"] == pytest.approx(sk.cohen_kappa_score(y, p > 0.5), abs=1e-12)
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(y, p > 0.5), abs=1e-12)
    assert figures["recall"] == pytest.approx(sk.recall_score(y, p > 0.5), abs=1e-12)
    tn, fp, fn, tp = sk.confusion_matrix(y, p > 0.5).ravel()
    assert found["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    low, high = found["figures"]["auc"]["interval"]
    assert low < figures["auc"] < high
    fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
    assert np.trapezoid([t for _, t in found["roc"]], [x for x, _ in found["roc"]]) == pytest.approx(
        sk.auc(fpr, tpr), abs=0.01
    )


def test_the_bootstrap_over_patients_is_scipy_s():
    """A figure that is a mean of patients' sums lets scipy resample the patients themselves."""
    rng = np.random.default_rng(4)
    patients = [rng.normal() + rng.normal(size=2) for _ in range(150)]
    values = np.concatenate(patients)
    names = [f"p{i}" for i, of in enumerate(patients) for _ in of]
    found = metrics.bootstrap(lambda k: {"mean": float(values[k].mean())}, names, rounds=4000)["mean"]
    expected = stats.bootstrap(
        (np.array([of.mean() for of in patients]),), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.015)


def test_an_unreadable_study_counts_as_an_error_and_coverage_says_so():
    records = [
        record("a", "s1", True, 0.9),
        record("b", "s2", True, None),
        record("c", "s3", False, 0.1, read=False),
        record("d", "s4", False, None),
    ]
    found = evaluation.evaluate(records, rounds=10)
    pooled = found["study"]["pooled"]
    assert pooled["confusion"] == {"tp": 1, "fp": 1, "fn": 1, "tn": 1}
    assert pooled["figures"]["auc"]["value"] == 0.25
    coverage = found["coverage"]
    assert [coverage[k] for k in ("images", "read", "forced", "unscored", "studies_unscored")] == [
        4,
        1,
        1,
        2,
        2,
    ]
    assert found["image"]["pooled"]["n"] == 2  # by image only what was scored


def test_identical_images_in_different_studies_keep_their_rows():
    twin = Record("x/1.png", "a" * 64, "x", "x", "hand", True, "hand", Score("hand", 0.9, 0.2, 0.8, True))
    other = Record("y/1.png", "a" * 64, "y", "y", "hand", False, "hand", Score("hand", 0.9, 0.2, 0.8, True))
    found = evaluation.evaluate([twin, other], rounds=10)
    assert found["coverage"]["studies"] == 2
    assert found["study"]["pooled"]["n"] == 2


def test_figures_do_not_depend_on_the_order_of_the_records():
    records = list(many())
    assert evaluation.evaluate(records, rounds=20) == evaluation.evaluate(records[::-1], rounds=20)


MODELS = {
    "hand": RegionModel("hand", "hand", Platt(1, 0, 0.5), Thresholds(0.1, 0.6), False),
    "leg": RegionModel("leg", "pooled", Platt(2, 0, 0.5), Thresholds(0.2, 0.7), True),
}


def test_an_image_is_scored_by_force_by_the_most_probable_region_that_is_read():
    seen = {"skull": 0.9, "leg": 0.06, "hand": 0.04}
    assert evaluation.forced_region(MODELS, seen) == "leg"
    score, others = evaluation.scores_of(MODELS, seen, {"pooled": 0.0}, read=False, region="skull")
    assert score == Score("leg", 0.5, 0.2, 0.7, False)
    assert others == {}


def test_the_routing_study_scores_each_way():
    score, others = evaluation.scores_of(
        MODELS, {"hand": 0.3, "leg": 0.7}, {"pooled": 1.0, "hand": -1.0}, read=True, region="hand"
    )
    assert score is not None
    assert (others["predicted"], others["pooled"]) == (score, score)
    assert others["true"].region == "hand"
    assert others["true"].probability < 0.5 < score.probability
    rows = [
        record(f"{i}", f"s{i}", i % 2 == 0, score.probability, others=others, seen="leg") for i in range(6)
    ]
    found = evaluation.evaluate(rows, rounds=10)
    assert found["routing"]["images"] == 6
    assert found["routing"]["ways"]["true"]["confusion"]["tn"] == 3
    assert found["region_confusion"] == {"hand": {"leg": 6}}


def test_the_worst_image_rule_and_the_cuts_of_the_curve() -> None:
    rows = [
        Record(
            f"{n}.png",
            "",
            f"s{n // 2}",
            f"p{n // 2}",
            "hand",
            n < 4,
            "hand",
            Score("hand", p, 0.2, 0.6, True),
            None,
        )
        for n, p in enumerate((0.9, 0.1, 0.3, 0.4, 0.6, 0.0, 0.2, 0.1))
    ]
    mean = {s.study: s.probability for s in evaluation.studies_of(rows)}
    worst = {s.study: s.probability for s in evaluation.studies_of(rows, worst=True)}
    assert mean == pytest.approx({"s0": 0.5, "s1": 0.35, "s2": 0.3, "s3": 0.15})
    assert worst == {"s0": 0.9, "s1": 0.4, "s2": 0.6, "s3": 0.2}
    found = evaluation.evaluate(rows, rounds=10)
    assert found["study"]["pooled"]["figures"]["auc"]["value"] == 1.0
    assert found["study_worst"]["figures"]["auc"]["value"] == 0.75
    assert found["study_worst"]["roc_cuts"] == [1.0, 0.9, 0.6, 0.4, 0.2]
    assert found["study_worst"]["roc"] == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
