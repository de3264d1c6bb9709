"""Pictures to model input and to display, against hand-computed arrays."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preprocess import display_jpeg, letterbox, model_input


def test_a_wide_picture_lies_in_the_middle_of_a_black_square():
    square = model_input(np.full((50, 100), 200, np.uint8), 40)
    assert square.shape == (40, 40)
    assert square.dtype == np.uint8
    assert (square[10:30] == 200).all()
    assert (square[:10] == 0).all()
    assert (square[30:] == 0).all()


def test_shrinking_averages_so_that_thin_lines_survive():
    picture = np.zeros((400, 400), np.uint8)
    picture[:, 201] = 200
    square = model_input(picture, 40)
    assert square[:, 20].tolist() == [20] * 40
    assert square.sum() == 20 * 40


def test_a_square_of_the_right_size_passes_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert (model_input(picture, 64) == picture).all()


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([7, 224, 320]))
def test_the_letterbox_holds_the_whole_picture_in_proportion(width, height, size):
    box = letterbox(width, height, size)
    assert max(box.inner_width, box.inner_height) == size
    assert abs(box.inner_width - width * box.scale) <= 1
    assert abs(box.inner_height - height * box.scale) <= 1
    for before, inner in ((box.left, box.inner_width), (box.top, box.inner_height)):
        after = size - before - inner
        assert 0 <= after - before <= 1


@pytest.mark.parametrize("wrong", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)])
def test_a_wrong_array_is_refused(wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        model_input(wrong, 8)


def test_no_side_may_be_empty():
    with pytest.raises(ValueError, match="at least 1"):
        letterbox(0, 10, 10)


def test_the_display_picture_is_never_enlarged_nor_larger_than_asked():
    for shape, expected in (((100, 50), (100, 50)), ((2000, 1000), (1280, 640))):
        data = display_jpeg(np.zeros(shape, np.uint8))
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert shown.shape == expected
