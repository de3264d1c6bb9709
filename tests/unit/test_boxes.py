"""Suspected places: boxes from an evidence map."""

import numpy as np

from pipeline.boxes import MAX_PLACES, suspected_places
from pipeline.types import PlaceRules

RULES = PlaceRules(shown=0.2, strong=0.6, smallest=0.0)


def test_a_place_spans_its_cells_and_has_its_peak_for_a_score():
    evidence = np.zeros((20, 20), np.float16)
    evidence[4:8, 10:12] = 0.5
    evidence[5, 10] = 0.75
    (place,) = suspected_places(evidence, 400, 400, RULES)
    assert (place.left, place.top, place.width, place.height) == (0.5, 0.2, 0.1, 0.2)
    assert (place.score, place.strong) == (0.75, True)


def test_places_are_shares_of_the_picture_and_not_of_the_square():
    evidence = np.zeros((20, 20), np.float16)
    evidence[5:7, 10:12] = 0.5  # the picture is half as wide as high: columns 5 to 15
    (place,) = suspected_places(evidence, 200, 400, RULES)
    assert (place.left, place.top, place.width, place.height) == (0.5, 0.25, 0.2, 0.1)
    assert not place.strong


def test_nothing_is_suspected_in_the_black_border_or_below_the_rule():
    evidence = np.zeros((20, 20), np.float16)
    evidence[:, :5] = 0.9  # left of the picture
    evidence[5, 10] = 0.19
    assert suspected_places(evidence, 200, 400, RULES) == ()


def test_two_peaks_are_two_places_the_surest_first_and_a_slope_is_none():
    evidence = np.zeros((20, 20), np.float16)
    evidence[2, 2], evidence[2, 3] = 0.3, 0.25
    evidence[15, 15], evidence[15, 16] = 0.9, 0.3
    scores = [place.score for place in suspected_places(evidence, 20, 20, RULES)]
    assert np.allclose(scores, [0.9, 0.3], atol=1e-3)


def test_a_map_that_finds_something_everywhere_gives_few_places():
    evidence = np.zeros((20, 20), np.float16)
    evidence[::3, ::3] = 0.9
    assert len(suspected_places(evidence, 20, 20, RULES)) == MAX_PLACES


def test_a_small_place_is_widened_to_what_a_reader_can_see():
    evidence = np.zeros((20, 20), np.float16)
    evidence[0, 10] = 0.5
    (place,) = suspected_places(evidence, 20, 20, PlaceRules(0.2, 0.6, smallest=0.2))
    assert np.isclose(place.width, 0.2)
    assert place.top == 0, "it stays inside the picture"
    assert place.height < 0.2
