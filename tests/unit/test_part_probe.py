"""A head fitted to features tells their classes, with shares for targets."""

import numpy as np

from training.part_probe import fit_head, loss_of, told


def test_a_head_tells_classes_that_lie_apart_and_keeps_what_is_unsure():
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 4, (3, 6))
    classes = rng.integers(0, 3, 300)
    features = (centres[classes] + rng.normal(0, 0.5, (300, 6))).astype(np.float32)
    shares = np.eye(3, dtype=np.float32)[classes]
    shares[classes == 2] = (0, 0.25, 0.75)  # readers differ about these
    kernel, bias = fit_head(features, shares, 1e-4)
    p = told(features, kernel, bias)
    assert np.allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == classes).mean() > 0.98
    assert np.allclose(p[classes == 2].mean(axis=0), (0, 0.25, 0.75), atol=0.03)


def test_a_penalty_draws_the_answers_together():
    rng = np.random.default_rng(2)
    features = rng.normal(0, 1, (60, 40)).astype(np.float32)
    shares = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
    free, bound = (fit_head(features, shares, penalty) for penalty in (1e-4, 1.0))
    assert loss_of(features, shares, *free) < loss_of(features, shares, *bound)
    assert np.abs(free[0]).max() > np.abs(bound[0]).max()
