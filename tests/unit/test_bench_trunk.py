"""The region head on a shared trunk: shares of classes, weights of phantoms, the choice on val."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.trunk import chosen_head, fit_head, fracture_rows, region_rows, region_shares, shares_of_phantoms
from training.datasets import Example


def _example(name: str, regions: tuple[str, ...], positive: bool = False, phantom: bool = False) -> Example:
    return Example(name, Path(name), regions, positive, name, "", (), {"phantom": "1"} if phantom else {})


def _clouds(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 2
    features = rng.normal(size=(n, 5)).astype(np.float32)
    features[:, 0] += 20 * classes
    return features, np.eye(3, dtype=np.float32)[classes]


def test_phantoms_weigh_as_much_as_in_training() -> None:
    examples = [_example(str(i), ("hand",), phantom=i < 2) for i in range(10)]
    weights = shares_of_phantoms(examples, 0.4)
    assert np.isclose(weights.sum(), 10)
    assert np.isclose(weights[:2].sum(), 4)


def test_an_image_of_two_regions_counts_half_for_each() -> None:
    features, targets = _clouds(60, 0)
    middle = np.zeros((40, 5), np.float32)
    middle[:, 0] = 10
    both = np.tile(np.float32([0.5, 0.5, 0]), (40, 1))
    head = fit_head(np.concatenate([features, middle]), np.concatenate([targets, both]), np.ones(100), 1.0)
    shares = region_shares(head, middle[:1], 3)
    assert np.allclose(shares, [[0.5, 0.5, 0]], atol=0.1)


def test_a_class_never_shown_has_no_share_and_val_chooses() -> None:
    features, targets = _clouds(60, 1)
    head, _ = chosen_head((features, targets, np.ones(60)), _clouds(40, 2))
    found, truth = _clouds(40, 3)
    shares = region_shares(head, found, 3)
    assert (shares.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.9
    assert (shares[:, 2] == 0).all()


def test_rows_compare_the_second_way_with_the_first() -> None:
    examples = [
        _example(str(i), ("hand",) if i % 2 else ("leg", "hip"), positive=i % 4 < 2) for i in range(40)
    ]
    right = [e.regions[0] for e in examples]
    rows = region_rows({"a": right, "b": ["hand"] * 40}, {"a": 1.0, "b": 0.0}, examples)
    assert rows["a"]["region accuracy"] == "1.000 (1.000 to 1.000)"
    assert rows["difference"]["region accuracy"].startswith("-0.500")
    assert rows["b"]["images of one region"].startswith("1.000")

    truth = np.array([float(e.positive) for e in examples])
    routed = ["hand" if e.regions == ("hand",) else "leg" for e in examples]
    rows = fracture_rows({"a": truth, "b": 1 - truth}, routed, examples)
    assert rows["a"]["AUC, all"] == "1.000 (1.000 to 1.000)"
    assert rows["difference"]["AUC, leg"].startswith("-1.000")
