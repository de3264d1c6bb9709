"""Boxes that a network learns to draw: their figures, their targets, and the network that says the same."""

import numpy as np
import pytest

from pipeline.boxes import SuspectedPlace
from training.places_figures import FilmPlaces, average_precision, earned, places_figures


def place(left, top, right, bottom, score):
    return SuspectedPlace(left, top, right - left, bottom - top, score, strong=False)


def film(truth, *places, group="a"):
    return FilmPlaces(group, np.array(truth, np.float64).reshape(-1, 4), places, (100, 100))


def values(*films):
    return {k: v["value"] if isinstance(v, dict) else v for k, v in places_figures(films, rounds=0).items()}


def test_figures_counted_by_hand():
    fracture = (0.2, 0.2, 0.4, 0.4)
    found = values(
        film([fracture], place(*fracture, 0.9), place(0.6, 0.6, 0.8, 0.8, 0.7)),
        film([], place(0.1, 0.1, 0.2, 0.2, 0.8)),
        # the middle lies inside, the overlap is a ninth: found, but not precisely
        film([fracture], place(0.27, 0.27, 0.33, 0.33, 0.6)),
        film([]),
    )
    assert (found["films"], found["fractured"], found["fractures"]) == (4, 2, 2)
    assert found["peak in box"] == 1
    assert found["sensitivity at 0.25 false places a film"] == 0.5, "one false place in four films"
    assert found["sensitivity at 0.5 false places a film"] == 1
    assert found["AP50"] == 0.5


def test_a_second_place_in_one_fracture_is_a_false_one():
    fracture = (0.2, 0.2, 0.4, 0.4)
    found = values(film([fracture], place(*fracture, 0.9), place(0.21, 0.2, 0.4, 0.4, 0.8)))
    assert found["AP50"] == 1, "it comes after the true one"
    found = values(
        film([fracture], place(0.2, 0.21, 0.4, 0.4, 0.9), place(*fracture, 0.8)),
        film([fracture], place(*fracture, 0.7)),
    )
    assert np.isclose(found["AP50"], 0.5 + 0.5 * 2 / 3)


def test_overlap_is_measured_in_pixels_of_the_picture():
    wide = FilmPlaces("a", np.array([[0.0, 0.0, 0.5, 0.5]]), (place(0.0, 0.0, 0.5, 0.5, 0.5),), (10, 1000))
    assert values(wide)["AP50"] == 1


def test_precision_never_falls_with_recall():
    assert np.isclose(average_precision(np.array([False, True, True]), 2), 2 / 3)
    assert average_precision(np.zeros(0, bool), 2) == 0


def test_intervals_move_groups_together_and_places_are_earned_by_all_figures():
    fracture = (0.2, 0.2, 0.4, 0.4)
    pair = [film([fracture], place(*fracture, 0.9)), film([])]
    found = places_figures(pair * 5, rounds=50)
    assert found["AP50"] == {"value": 1.0, "interval": (1.0, 1.0)}, "one group: always the same films"
    apart = [film([fracture], group="b"), *pair * 2]
    low, high = places_figures(apart, rounds=50)["AP50"]["interval"]
    assert low < 0.5 < high
    assert earned(found)
    assert not earned({**found, "AP50": {"value": 0.41, "interval": None}})
    assert not earned({"films": 3})


def test_targets_are_one_in_the_middle_and_tell_the_sides():
    from training.box_targets import box_targets

    sure, sides = box_targets(np.array([[4, 4, 9, 7]], np.float32), 12)
    assert np.unravel_index(sure.argmax(), sure.shape) == (5, 6)
    assert sure[5, 6] == 1
    assert np.allclose(sides[5, 6], [2.5, 1.5, 2.5, 1.5])
    assert sure[0, 0] < 0.01


def test_a_drawn_view_keeps_its_fracture_and_moves_its_box_along():
    from training.places import drawn_view, plain_view

    picture = np.zeros((120, 80), np.uint8)
    picture[50:70, 30:50] = 255
    outline = np.array([[30, 50], [50, 50], [50, 70], [30, 70]], np.float32) / [80, 120]
    plain = plain_view(picture, [outline], 96)
    assert np.allclose(plain.boxes, [[16 + 24, 40, 16 + 40, 56]])
    for seed in range(5):
        view = drawn_view(picture, [outline], 96, np.random.default_rng(seed))
        (left, top, right, bottom) = np.clip(view.boxes[0], 0, 96)
        assert (right - left) * (bottom - top) > 50


@pytest.fixture(scope="module")
def trunk():
    import keras

    from models import architectures
    from training.places import Trunk

    keras.utils.set_random_seed(1)
    return Trunk(architectures.reading_network("custom_cnn", 64, 3, 2, width=8), "custom_cnn")


def test_the_network_draws_what_its_cells_have_learned(trunk):
    from training.places import cell_network, look

    picture = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    *maps, _ = trunk.maps([picture])
    seen = np.concatenate([look(m[0], trunk.grid, np.arange(trunk.grid**2)) for m in maps], axis=1)
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + np.float32(0.05)
    cells = cell_network(seen.shape[1], 16, seed=2)
    said = np.asarray(cells.predict_on_batch((seen - mean) / spread))
    network = trunk.with_boxes(cells, mean, spread)
    drawn = network.predict_on_batch(picture[None, ..., None].astype(np.float32))
    assert np.allclose(drawn["boxes"].reshape(-1, 5), said, atol=1e-3)
    plain = trunk.network.predict_on_batch(picture[None, ..., None].astype(np.float32))
    assert all(np.allclose(drawn[name], rows, atol=1e-5) for name, rows in plain.items())


def test_cells_learn_to_draw_a_box(trunk):
    from training.places import View, fitted

    rng, views = np.random.default_rng(0), []
    for _ in range(24):
        picture = rng.integers(0, 40, (64, 64)).astype(np.uint8)
        left, top = rng.integers(4, 36, 2)
        picture[top : top + 16, left : left + 20] = 250
        views.append(View(picture, np.array([[left, top, left + 20, top + 16]], np.float32)))
    seen, wanted = trunk.cells(views, rng)
    cells, mean, spread = fitted(seen, wanted, width=16, epochs=1, seed=0, batch=64)
    before = np.asarray(cells.predict_on_batch((seen - mean) / spread))
    cells, mean, spread = fitted(seen, wanted, width=16, epochs=20, seed=0, batch=64)
    after = np.asarray(cells.predict_on_batch((seen - mean) / spread))
    inside = wanted[:, 0] > 0.35

    def off(said):
        return np.abs(said[inside, 1:] - np.log(wanted[inside, 1:])).mean()

    assert off(after) < 0.7 * off(before)
    assert after[inside, 0].mean() > after[~inside, 0].mean() + 1


def _said(sure, sides):
    """What a network says that is right: sure where it should be, sides to the point."""
    logit = np.where(sure > 0.35, 8.0, -8.0)
    return np.concatenate([logit[..., None], np.log(np.maximum(sides, 0.1))], axis=-1)[None].astype(
        np.float32
    )


def test_boxes_that_are_right_cost_less_than_wrong_ones_and_unknown_ones_nothing():
    from training.box_loss import box_loss
    from training.box_targets import box_targets

    sure, sides = box_targets(np.array([[2, 2, 7, 6]], np.float32), 12)
    known, unknown = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)

    def loss(said, drawn=known):
        return float(box_loss(sure[None], sides[None], said, drawn))

    right = _said(sure, sides)
    small, elsewhere = right.copy(), np.roll(right, 4, axis=1)
    small[..., 1:] -= 0.7
    assert loss(right) < loss(small) < loss(elsewhere)
    assert loss(elsewhere, unknown) == 0


def test_a_batch_in_pieces_has_all_of_it_in_order():
    from dataclasses import fields

    from training.reading_data import Batch

    count = 5
    batch = Batch(*(np.arange(count, dtype=np.float32) + 10 * n for n, _ in enumerate(fields(Batch))))
    pieces = batch.pieces(2)
    assert [len(piece.image) for piece in pieces] == [2, 2, 1]
    for field in fields(Batch):
        whole = np.concatenate([getattr(piece, field.name) for piece in pieces])
        assert np.array_equal(whole, getattr(batch, field.name))


def test_boxes_move_with_their_picture():
    from training.travel import moved_boxes

    outline = np.array([[0.25, 0.5], [0.5, 0.5], [0.5, 0.75]])
    mirrored = np.array([[-1.0, 0, 100], [0, 2.0, 10]])
    assert moved_boxes([outline], mirrored, 100, 40).tolist() == [[50, 50, 75, 70]]
    assert moved_boxes([], mirrored, 100, 40).shape == (0, 4)


def test_new_boxes_start_unsure_and_small():
    from models import architectures
    from training.reading import settle_boxes

    network = architectures.reading_network("custom_cnn", 64, 3, 1)
    network = architectures.with_boxes(network, "custom_cnn", width=8)
    pictures = np.random.default_rng(1).integers(0, 255, (4, 64, 64, 1), np.uint8)
    settle_boxes(network, architectures.BOX_SOURCES["custom_cnn"], pictures)
    boxes = np.asarray(network.predict_on_batch(pictures)[architectures.BOXES])
    assert np.abs(boxes[..., 0] + 3).max() < 0.5
    assert np.abs(boxes[..., 1:] - 0.5).max() < 0.5
