"""A/B statistics, against published examples, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline import comparison, metrics
from pipeline.evaluation import Record, Score

#: 43 patients with ovarian cancer: albumin, total protein, K-G score, outcome (DeLong et al. 1988, as printed
#: in the SAS/STAT User's Guide, "Comparing Receiver Operating Characteristic Curves").
_TABLE = """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
"""
OVARIAN = np.array(_TABLE.split(), float).reshape(-1, 4)


@pytest.mark.parametrize(
    ("column", "auc", "difference", "se", "p"),
    [(0, 0.7366, 0.0108, 0.0953, 0.9102), (1, 0.6478, -0.0780, 0.1046, 0.4561)],
)
def test_delong_gives_the_published_figures(column, auc, difference, se, p):
    labels, kg = OVARIAN[:, 3] == 1, 10 - OVARIAN[:, 2]
    assert metrics.auc(kg, labels) == pytest.approx(0.7258, abs=5e-5)
    assert metrics.auc(OVARIAN[:, column], labels) == pytest.approx(auc, abs=5e-5)
    found = comparison.delong(kg, OVARIAN[:, column], labels)
    assert found["difference"] == pytest.approx(difference, abs=5e-5)
    assert found["se"] == pytest.approx(se, abs=5e-5)
    assert found["p"] == pytest.approx(p, abs=5e-5)


def test_delong_is_its_definition_where_scores_are_tied():
    """The structural components pair by pair (DeLong et al. 1988, equations 3 to 6)."""
    rng = np.random.default_rng(11)
    y = rng.random(60) < 0.4
    scores = [np.round(rng.normal(size=60) + strength * y, 1) for strength in (0.5, 1.0)]

    def kernel(x, z):
        return 1.0 if z < x else 0.5 if z == x else 0.0

    pairs = [np.array([[kernel(x, z) for z in s[~y]] for x in s[y]]) for s in scores]
    m, n = pairs[0].shape
    aucs = [p.mean() for p in pairs]
    v10, v01 = [p.mean(axis=1) for p in pairs], [p.mean(axis=0) for p in pairs]

    def covariance(r, s):
        return (
            sum((v10[r][i] - aucs[r]) * (v10[s][i] - aucs[s]) for i in range(m)) / (m - 1) / m
            + sum((v01[r][j] - aucs[r]) * (v01[s][j] - aucs[s]) for j in range(n)) / (n - 1) / n
        )

    se = (covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1)) ** 0.5
    found = comparison.delong(*scores, y)
    assert found["difference"] == pytest.approx(aucs[1] - aucs[0], abs=1e-12)
    assert found["se"] == pytest.approx(se, rel=1e-9)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(aucs[1] - aucs[0]) / se), rel=1e-9)


def test_mcnemar_is_the_binomial_test_of_scipy():
    for b, c in ((0, 0), (1, 0), (10, 20), (59, 6), (400, 420)):
        expected = stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0
        assert comparison.mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_holm_corrects_step_by_step():
    raw = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert comparison.holm(raw) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_the_paired_bootstrap_agrees_with_delong_on_independent_cases():
    rng = np.random.default_rng(5)
    y = rng.random(400) < 0.4
    base = rng.normal(size=400) + y
    a, b = base + rng.normal(size=400), base + 0.5 * rng.normal(size=400)
    found = comparison.paired_difference(a, b, y, [str(i) for i in range(400)], rounds=2000)
    classical = comparison.delong(a, b, y)
    assert found["difference"] == pytest.approx(classical["difference"], abs=1e-12)
    assert found["interval"] == pytest.approx(classical["interval"], abs=0.01)
    expected = stats.bootstrap(
        (a, b, y),
        lambda a, b, y: metrics.auc(b, y > 0) - metrics.auc(a, y > 0),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=3,
    ).confidence_interval
    assert found["interval"] == pytest.approx((expected.low, expected.high), abs=0.01)


def records(scores, labels):
    return [
        Record(
            f"{i:04d}.png",
            f"{i:064x}",
            f"study{i}",
            f"patient{i // 2}",
            ("hand", "leg")[i % 2],
            bool(label),
            "hand",
            Score("hand", float(p), 0.2, 0.8, True),
        )
        for i, (p, label) in enumerate(zip(scores, labels, strict=True))
    ]


def sample(strength, n=240, seed=2):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    return 1 / (1 + np.exp(-(rng.normal(size=n) + strength * (labels - 0.4)))), labels


def test_the_verdicts():
    (weak, labels), (strong, _) = sample(0.3), sample(4.0)
    a, b = records(weak, labels), records(strong, labels)
    better = comparison.compare(a, b, margin=0.02, rounds=200)
    assert better["verdict"] == "better"
    assert set(better["regions"]) == {"hand", "leg"}
    assert all(r["p_holm"] >= r["p"] for r in better["regions"].values())
    assert better["secondary"]["studies"] == 120  # one a patient
    assert comparison.compare(b, a, margin=0.02, rounds=200)["verdict"] == "worse"
    same = comparison.compare(a, a, margin=0.02, rounds=200)
    assert same["verdict"] == "not distinguishable, non-inferior"
    assert (same["pooled"]["difference"], same["pooled"]["p"], same["changed"]) == (0, 1, 0)


def test_a_loss_within_chance_but_beyond_the_margin_is_not_called_non_inferior():
    assert comparison.verdict((-0.05, 0.04), 0.02) == "not distinguishable"
    assert comparison.verdict((-0.01, 0.04), 0.02) == "not distinguishable, non-inferior"


def test_studies_that_a_bundle_was_fitted_on_are_named_and_set_apart():
    scores, labels = sample(1.0)
    a = records(scores, labels)
    found = comparison.compare(
        a, a, margin=0.02, fitted_on={"0000.png": "file", "0002.png": "look"}, rounds=20
    )
    assert found["overlap"] == {
        "images": 2,
        "studies": 2,
        "by_file": 1,
        "by_look": 1,
        "named": ["0000.png"],
        "named_alike": ["0002.png"],
        "without_look": 240,
    }
    assert found["studies"] == 238


def test_changed_images_come_by_the_size_of_their_change():
    a = records([0.9, 0.4, 0.6, 0.2], [1, 1, 0, 0])
    b = records([0.8, 0.6, 0.1, 0.3], [1, 1, 0, 0])
    changed = comparison.changed_side(a, b)
    assert [(c["name"], c["right"]) for c in changed] == [("0002.png", True), ("0001.png", True)]
