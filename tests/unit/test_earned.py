"""Negative is said only where it was earned."""

import numpy as np
import pytest

from pipeline.earned import earned, explained, wilson, wilson_lower
from training.earned import cautious_thresholds

FAMILIES = {"wrist": "arm", "elbow": "arm", "hip": "hip"}


def test_the_lower_bound_is_wilsons():
    # Newcombe 1998, table I: 81 of 263 has 0.2553 to 0.3662
    assert np.allclose(wilson(81, 263), (0.2553, 0.3662), atol=1e-4)
    assert wilson_lower(0, 0) == 0


def test_a_part_with_enough_fractures_stands_on_its_own():
    allowed, evidence = earned({"wrist": 40}, {"wrist": 37}, FAMILIES, ("hip",))["wrist"]
    assert allowed
    assert (evidence.fractures, evidence.found) == (40, 37)
    assert not earned({"wrist": 40}, {"wrist": 33}, FAMILIES, ("hip",))["wrist"][0]


def test_a_part_with_few_fractures_needs_a_family_that_vouches_for_it():
    few = earned({"wrist": 90, "elbow": 10}, {"wrist": 88, "elbow": 10}, FAMILIES, ("hip",))
    assert few["elbow"][0]
    worse = earned({"wrist": 90, "elbow": 10}, {"wrist": 80, "elbow": 10}, FAMILIES, ("hip",))
    assert not worse["elbow"][0], "the family's bound is too low"
    own = earned({"wrist": 150, "elbow": 10}, {"wrist": 150, "elbow": 6}, FAMILIES, ("hip",))
    assert own["elbow"][1].family_lower > 0.9
    assert not own["elbow"][0], "its own misses are more than the family's rate explains"


def test_a_part_that_stands_alone_never_says_negative_with_few_fractures():
    allowed, evidence = earned({"hip": 20}, {"hip": 20}, FAMILIES, ("hip",))["hip"]
    assert not allowed
    assert evidence.family_lower is None


def test_misses_are_explained_by_chance_or_not():
    assert explained(0, 10, 0.0)
    assert explained(1, 10, 0.05)  # 0.40
    assert not explained(3, 10, 0.05)  # 0.012


@pytest.mark.parametrize("count", [20, 60, 400])
def test_the_low_threshold_keeps_its_lower_bound(count):
    rng = np.random.default_rng(count)
    positive = np.arange(3 * count) < count
    probabilities = np.clip(rng.normal(0.3 + 0.4 * positive, 0.15), 0, 1)
    cuts = cautious_thresholds(probabilities, positive)
    found = int((probabilities[positive] >= cuts.low).sum())
    if count < 35:
        assert found == count, "too few for the bound: none may be missed"
    else:
        assert wilson_lower(found, count) >= 0.9
        assert found / count >= 0.95
    assert (probabilities[~positive] < cuts.high).mean() >= 0.9 - 1e-9 or cuts.high == cuts.low
