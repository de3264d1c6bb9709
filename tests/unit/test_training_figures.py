"""Figures of merit and calibration against values worked out by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as theirs

from pipeline import metrics
from training.calibrate import fit_platt, fit_reference, operating_points


@pytest.fixture
def scored():
    rng = np.random.default_rng(1)
    labels = rng.random(400) < 0.2
    scores = np.round(1 / (1 + np.exp(-(rng.normal(size=400) + 2 * labels - 1.5))), 2)  # rounded: ties
    return scores, labels


def test_ranking_figures_agree_with_scikit_learn(scored):
    scores, labels = scored
    assert metrics.auc(scores, labels) == pytest.approx(theirs.roc_auc_score(labels, scores))
    assert metrics.average_precision(scores, labels) == pytest.approx(
        theirs.average_precision_score(labels, scores)
    )


def test_figures_at_a_cut_agree_with_scikit_learn(scored):
    scores, labels = scored
    said, found = scores >= 0.5, metrics.at_cut(scores, labels, 0.5)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(labels, said))
    assert found["precision"] == pytest.approx(theirs.precision_score(labels, said))
    assert found["recall"] == pytest.approx(theirs.recall_score(labels, said))
    assert found["f1"] == pytest.approx(theirs.f1_score(labels, said))
    assert found["kappa"] == pytest.approx(theirs.cohen_kappa_score(labels, said))


def test_one_class_alone_has_no_auc():
    assert np.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([False, False])))


def test_calibration_error_by_hand():
    probabilities = np.array([0.25, 0.25, 0.95, 0.95])
    labels = np.array([False, True, True, True])
    # half the images say 0.25 where 0.5 is true, half say 0.95 where 1 is
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)


def test_the_bootstrap_keeps_groups_together():
    seen = []

    def figures(numbers):
        seen.append(np.bincount(numbers, minlength=4))
        return {"share": float(len(numbers))}

    metrics.bootstrap(figures, ["a", "a", "b", "c"], rounds=50)
    assert all(counts[0] == counts[1] for counts in seen)
    assert any(counts[0] != counts[2] for counts in seen)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).random(400) < 0.3
    groups = [str(i) for i in range(400)]
    low, high = metrics.bootstrap(lambda k: {"mean": float(values[k].mean())}, groups)["mean"]
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)


def test_platt_scaling_finds_slope_and_intercept_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000) * 2
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(0.7 * logits - 1.2)))
    found = fit_platt(logits, labels)
    assert (found.slope, found.intercept) == (pytest.approx(0.7, abs=0.04), pytest.approx(-1.2, abs=0.05))
    assert found.prevalence == pytest.approx(labels.mean())


def test_platt_scaling_stays_finite_on_separable_data_and_needs_both_classes():
    found = fit_platt([-3.0, -2.0, 2.0, 3.0], np.array([False, False, True, True]))
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.slope > 0
    with pytest.raises(ValueError, match="both classes"):
        fit_platt([1.0, 2.0], np.array([True, True]))


def test_operating_points_by_hand():
    labels = np.array([True] * 20 + [False] * 10)
    # the 19th of 20 positives is cut at 0.31; nine of ten negatives lie below 0.5
    p = np.concatenate([[0.1], np.linspace(0.31, 0.95, 19), np.linspace(0.02, 0.4, 9), [0.6]])
    cuts = operating_points(p, labels)
    assert cuts.low == pytest.approx(0.31)
    assert cuts.high == pytest.approx((0.4 + 0.6) / 2)
    assert (p[labels] >= cuts.low).mean() >= 0.95
    assert (p[~labels] < cuts.high).mean() >= 0.9


def test_when_the_cuts_cross_low_is_still_the_smaller():
    labels = np.array([True, True, False, False])
    cuts = operating_points(np.array([0.8, 0.9, 0.1, 0.2]), labels)
    assert cuts.low < cuts.high
    assert cuts.high == pytest.approx(0.8)


@pytest.mark.parametrize("images", [False, True])
def test_features_of_another_kind_lie_far_off(images):
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 200)
    near = lambda k: (rng.normal(size=(len(k), 12)) + 6 * np.eye(12)[k]).astype(np.float32)  # noqa: E731
    reference = fit_reference(near(classes), classes, components=6, images=images)
    usual = reference.distances(near(classes))
    strange = reference.distances(near(classes) - 20 * np.eye(12, dtype=np.float32)[0])
    assert np.quantile(usual, 0.99) < strange.min()


def test_predictive_values_at_the_sites_prevalence_by_hand():
    # of 1,000 patients 100 are ill: 90 found, 10 missed; of 900 well ones 180 false alarms
    assert metrics.predictive_values(0.9, 0.8, 0.1) == (pytest.approx(90 / 270), pytest.approx(720 / 730))
    labels = np.array([True] * 10 + [False] * 10)
    p = np.concatenate([np.linspace(0.3, 0.9, 10), np.linspace(0.1, 0.5, 10)])
    cuts = np.full(20, 0.4), np.full(20, 0.6)
    own = metrics.figures_of_merit(p, labels, *cuts)
    assert own["ppv_at_high"] == pytest.approx(theirs.precision_score(labels, p >= 0.6))
    assert metrics.figures_of_merit(p, labels, *cuts, 0.05)["ppv_at_low"] < own["ppv_at_low"]
