"""Suspected places: boxes from an evidence map."""

import numpy as np

from pipeline.boxes import MAX_PLACES, drawn_places, overlaps, suspected_places
from pipeline.types import PlaceRules

RULES = PlaceRules(shown=0.2, strong=0.6, smallest=0.0)
NOTHING = np.zeros((0, 0))


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


def cells_drawing(grid, *boxes):
    """Return a map on which the cell in the middle of each box (left, top, right, bottom, logit) draws it."""
    drawn = np.zeros((grid, grid, 5), np.float32)
    drawn[..., 0] = -9
    for left, top, right, bottom, logit in boxes:
        x, y = int((left + right) / 2), int((top + bottom) / 2)
        sides = (x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5)
        drawn[y, x] = logit, *np.log(sides)
    return drawn


def corners(place):
    return [place.left, place.top, place.left + place.width, place.top + place.height]


def test_a_drawn_box_is_where_its_cell_says_in_shares_of_the_picture():
    square = cells_drawing(20, (8, 4, 12, 6, 2.0))
    (place,) = drawn_places(square, NOTHING, 0.0, 400, 400, RULES)
    assert np.allclose(corners(place), [0.4, 0.2, 0.6, 0.3])
    assert np.isclose(place.score, 1 / (1 + np.exp(-2)))
    assert place.strong
    (tall,) = drawn_places(square, NOTHING, 0.0, 200, 400, RULES)  # columns 5 to 15 of the square
    assert np.allclose(corners(tall), [0.3, 0.2, 0.7, 0.3])


def test_the_pictures_logit_and_the_evidence_there_count_as_the_rules_say():
    drawn = cells_drawing(20, (8, 4, 12, 6, 1.0))
    place, *_ = drawn_places(drawn, NOTHING, 3.0, 400, 400, PlaceRules(0.0, 1.0, film=0.5))
    assert np.isclose(place.score, 1 / (1 + np.exp(-2.5)))
    evidence = np.full((10, 10), 1 / (1 + np.exp(3.0)))
    evidence[2, 5] = 1 / (1 + np.exp(-1.0))  # as coarse again; it speaks neither for nor against elsewhere
    place, *_ = drawn_places(drawn, evidence, 0.0, 400, 400, PlaceRules(0.0, 1.0, evidence=0.5))
    assert np.isclose(place.score, 1 / (1 + np.exp(-3.0)))


def test_cells_of_one_fracture_are_one_place_and_the_surest_counts_most():
    drawn = cells_drawing(20, (8, 4, 12, 8, 3.0), (8, 4, 14, 8, 0.0))
    (place,) = drawn_places(drawn, NOTHING, 0.0, 20, 20, RULES)
    assert np.isclose(place.score, 1 / (1 + np.exp(-3)))
    assert 12 < 20 * (place.left + place.width) < 12.5


def test_a_box_in_the_black_border_is_none_and_one_that_reaches_there_ends_with_the_picture():
    drawn = cells_drawing(20, (1, 8, 3, 12, 3.0), (4, 4, 8, 6, 2.0))
    (place,) = drawn_places(drawn, NOTHING, 0.0, 200, 400, RULES)
    assert place.left == 0
    assert np.isclose(place.width, 0.3)


def test_two_boxes_are_two_places_the_surest_first_and_no_more_than_a_few():
    drawn = cells_drawing(20, (1, 1, 3, 3, 0.0), (10, 10, 14, 14, 2.0))
    first, second = drawn_places(drawn, NOTHING, 0.0, 20, 20, RULES)
    assert np.isclose(first.left, 0.5)
    assert second.left < 0.1
    many = cells_drawing(20, *((x, y, x + 2, y + 2, 1.0) for x in (0, 4, 8, 12) for y in (0, 4, 8, 12)))
    assert len(drawn_places(many, NOTHING, 0.0, 20, 20, RULES)) == MAX_PLACES


def test_overlaps_are_intersection_over_union():
    found = overlaps(np.array([[0.0, 0, 2, 2], [5, 5, 6, 6]]), np.array([[1.0, 0, 3, 2], [0, 0, 2, 2]]))
    assert np.allclose(found, [[1 / 3, 1], [0, 0]])
