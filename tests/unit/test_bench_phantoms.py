"""The middle grey of a body: its own, whatever the empty field around it is, at any size."""

import numpy as np
import pytest

from bench.phantoms import greys_table, middle_grey, phantom_greys


def limb(grey, side=300):
    """A limb of one grey, a little noisy, across a dark field."""
    picture = np.random.default_rng(0).normal(8, 1, (side, side))
    picture[:, side // 3 : side // 2] += grey - 8
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [300, 1200])
def test_the_field_around_a_limb_does_not_count(side):
    assert middle_grey(limb(120, side)) == pytest.approx(120, abs=2)
    assert np.median(limb(120, side)) < 20


def test_phantoms_stand_beside_the_films_of_their_part(monkeypatch):
    monkeypatch.setattr("bench.phantoms.SHOWN", ("knee",))
    phantoms = phantom_greys(2)
    assert list(phantoms) == ["knee"]
    assert all(20 < grey < 200 for grey in phantoms["knee"])
    row = greys_table({"knee": [60.0, 70.0, 80.0], "foot": [1.0]}, {"knee": [50.0, 60.0]}).splitlines()[-1]
    assert row == "| knee | 3 | 70 (65-75) | 2 | 55 (52-58) |"
