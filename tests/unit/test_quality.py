"""The gate: colour photographs, blank pictures and pages are refused, radiographs of any tint are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from phantoms.film import make_phantom
from pipeline.quality import (
    coloured_share,
    elongated,
    entropy,
    grade,
    histogram,
    looks_like_a_page,
    percentiles,
    require_radiograph,
    require_size,
    unframed,
    white_share,
)
from pipeline.triage import may_be_negative
from pipeline.types import Rejected, RenderingStep
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode


def refused(picture):
    try:
        require_radiograph(picture)
    except Rejected as error:
        return error.reason is Reason.NOT_A_RADIOGRAPH
    return False


def limb(seed=0, height=400, width=300):
    """A bright limb on a dark ground with noise, uint8."""
    rng = np.random.default_rng(seed)
    across = np.abs(np.linspace(-1, 1, width))[None, :]
    grey = 20 + 120 * (across < 0.5) * np.sqrt(np.maximum(0.25 - across**2, 0)) * 2 + 90 * (across < 0.15)
    return np.clip(grey.repeat(height, 0) + rng.normal(0, 5, (height, width)), 0, 255).astype(np.uint8)


def tinted(grey, blue, green, red, floor=(0, 0, 0)):
    planes = [grey * share + base for share, base in zip((blue, green, red), floor, strict=True)]
    return np.clip(np.dstack(planes), 0, 255).astype(np.uint8)


def photograph(seed):
    """Blobs of many hues in light and shade, like a colour photograph seen from afar."""
    rng = np.random.default_rng(seed)
    hues = cv2.resize(rng.integers(0, 180, (5, 6), np.uint8), (320, 240), interpolation=cv2.INTER_NEAREST)
    value = cv2.resize(rng.integers(60, 255, (9, 9), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(np.dstack([hues, np.full_like(hues, 140), value]), cv2.COLOR_HSV2BGR)


def page(seed=0, lines=30, paper=250, noise=3.0):
    rng = np.random.default_rng(seed)
    sheet = np.full((1100, 850), paper, np.uint8)
    for line in range(lines):
        words = "".join(rng.choice(list("abcdefghijklmnop  "), rng.integers(20, 55)))
        cv2.putText(sheet, words, (60, 60 + 33 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 20, 1, cv2.LINE_AA)
    return np.clip(sheet + rng.normal(0, noise, sheet.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(10))
def test_colour_photographs_are_refused(seed):
    assert refused(photograph(seed))


def test_a_radiograph_passes_grey_inverted_sepia_blue_and_with_a_coloured_mark():
    grey = limb()
    marked = np.dstack([grey] * 3)
    marked[10:50, 10:60] = (0, 0, 255)
    for picture in (
        grey,
        255 - grey,
        np.dstack([grey] * 3),
        tinted(grey, 0.55, 0.8, 1.0),
        tinted(grey, 0.6, 0.6, 0.6, floor=(90, 40, 20)),
        tinted(grey, 0.2, 1.0, 0.3),
        marked,
    ):
        assert not refused(picture)


def test_a_false_colour_map_is_refused_though_brightness_decides_its_colours():
    assert refused(cv2.applyColorMap(limb(), cv2.COLORMAP_JET))


def test_the_coloured_share_by_hand():
    picture = np.full((10, 10, 3), 100, np.uint8)
    assert coloured_share(picture) == 0.0
    picture[:2, :5], picture[2:4, :5] = (100, 100, 220), (220, 100, 100)  # a tenth red, a tenth blue
    assert 0.1 <= coloured_share(picture) <= 0.2


def test_blank_pictures_are_refused():
    for value in (0, 128, 255):
        assert refused(np.full((100, 100), value, np.uint8))
    noise = np.random.default_rng(0).normal(128, 1, (200, 200)).astype(np.uint8)
    assert refused(noise)
    assert not refused((limb() // 3).astype(np.uint8))  # a third of the contrast of a radiograph


@pytest.mark.parametrize("paper", [225, 255])
@pytest.mark.parametrize("lines", [8, 30])
def test_pages_of_text_are_refused(paper, lines):
    assert refused(page(lines=lines, paper=paper))


def test_an_inverted_finger_on_a_white_ground_is_no_page():
    finger = np.full((800, 800), 245, np.uint8)
    cv2.ellipse(finger, (400, 400), (60, 200), 10, 0, 360, 120, -1)
    cv2.putText(finger, "L", (650, 100), cv2.FONT_HERSHEY_SIMPLEX, 2, 10, 4)
    assert not looks_like_a_page(finger, histogram(finger))


def test_sizes():
    require_size(64, 64, 64 * 64)
    for size, reason in (((63, 64), Reason.TOO_SMALL), ((65, 64), Reason.TOO_LARGE)):
        with pytest.raises(Rejected) as error:
            require_size(*size, 64 * 64)
        assert error.value.reason is reason


def test_no_real_radiograph_is_refused(shared_data):
    paths = sorted((shared_data / "fracatlas" / "images").iterdir())[::200]
    for path in paths:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for picture in (grey, 255 - grey, tinted(grey, 0.55, 0.8, 1.0)):
            assert not refused(picture), path.name


# --- grey levels ---------------------------------------------------------------------------------


def graded(picture):
    return grade(picture, require_radiograph(picture))


def test_a_good_film_is_left_as_it_is():
    result = graded(limb())
    assert (result.flags, result.steps) == ((), ())
    np.testing.assert_array_equal(result.pixels, limb())


def test_an_inverted_film_is_turned_round_and_flagged():
    film = make_phantom(2, "hand").pixels
    assert graded(film).flags == ()
    result = graded(255 - film)
    assert result.flags == (Reason.INVERTED_PICTURE,)
    np.testing.assert_array_equal(result.pixels, film)
    assert not may_be_negative(result.flags)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda grey: grey // 8,
        lambda grey: 240 + grey // 16,
        lambda grey: np.where(grey > 60, 255, 0).astype(np.uint8),
        lambda grey: 120 + grey // 6,
    ],
    ids=["nearly black", "nearly white", "black and white", "flat"],
)
def test_a_picture_without_greys_cannot_be_assessed(spoilt):
    flags = graded(spoilt(limb())).flags
    assert Reason.TOO_LITTLE_CONTRAST in flags
    assert not may_be_negative(flags)


def test_a_dark_picture_is_spread_and_never_negative():
    dark = (limb() * 0.4).astype(np.uint8)
    result = graded(dark)
    assert result.flags == (Reason.LOW_CONTRAST,)
    assert 200 <= np.ptp(result.pixels) <= 255
    assert result.steps == (RenderingStep(RenderingCode.CONTRAST_RAISED),)


def test_a_picture_with_much_white_is_never_negative_but_for_white_borders():
    film = make_phantom(3, "hand").pixels
    bright = np.minimum(film.astype(int) * 4, 255).astype(np.uint8)
    assert Reason.SATURATED_PICTURE in graded(bright).flags
    assert not may_be_negative(graded(bright).flags)
    bordered = film.copy()
    bordered[:40] = bordered[:, -40:] = 255
    assert Reason.SATURATED_PICTURE not in graded(bordered).flags
    assert white_share(np.array([[255, 0, 0], [255, 255, 255], [0, 0, 0]], np.uint8)) == 1 / 6


@pytest.mark.parametrize("width", [10, 60])
@pytest.mark.parametrize("grey", [0, 60, 255])
def test_a_frame_around_a_film_does_not_hide_that_it_is_inverted_or_dark(width, grey):
    film = make_phantom(2, "hand").pixels
    framed = np.pad(255 - film, width, constant_values=grey)
    result = graded(framed)
    assert result.flags == (Reason.INVERTED_PICTURE,)
    np.testing.assert_array_equal(result.pixels, 255 - framed)
    assert Reason.TOO_LITTLE_CONTRAST in graded(np.pad(film // 8, width, constant_values=grey)).flags
    assert graded(np.pad(film, width, constant_values=grey)).flags == ()


def test_what_is_cut_off_as_a_frame_by_hand():
    picture = np.arange(64 * 64).reshape(64, 64) % 251
    framed = np.pad(picture.astype(np.uint8), ((3, 5), (7, 0)), constant_values=9)
    judged = unframed(framed, histogram(framed))
    np.testing.assert_array_equal(judged.grey, picture[1:-1, 1:])  # without the lines that touch the frame
    np.testing.assert_array_equal(judged.levels, histogram(judged.grey))
    np.testing.assert_array_equal(judged.cut(framed), picture[1:-1, 1:])
    np.testing.assert_array_equal(judged.cut(framed.repeat(2, 0).repeat(2, 1))[::2, ::2], picture[1:-1, 1:])
    blank = np.full((100, 100), 7, np.uint8)
    assert unframed(blank, histogram(blank)).grey.shape == blank.shape
    evenly_dark = np.pad(np.full((50, 50), 3, np.uint8), 20, constant_values=255)
    assert np.ptp(unframed(evenly_dark, histogram(evenly_dark)).grey) == 0


def test_grey_through_a_wrong_colour_transform_is_refused():
    grey = make_phantom(2, "hand").pixels
    empty = np.full_like(grey, 128)
    assert refused(np.dstack([empty, empty, grey]))  # YCbCr of grey, taken for RGB
    as_ycbcr = np.dstack([grey, grey, grey])  # RGB of grey, taken for YCbCr
    assert refused(cv2.cvtColor(as_ycbcr, cv2.COLOR_YCrCb2BGR))


def test_a_picture_far_longer_than_wide_may_be_squashed():
    film = np.zeros((155, 100), np.uint8)
    assert elongated(film) == elongated(film.T) == ()
    for squashed in (film[:, :99], film.T[:99]):
        assert elongated(squashed) == (Reason.ELONGATED_PICTURE,)
        assert not may_be_negative(elongated(squashed))


def test_entropy_by_hand():
    assert entropy(histogram(np.array([[0, 0], [255, 255]], np.uint8))) == 1.0
    assert entropy(histogram(np.arange(256, dtype=np.uint8).reshape(16, 16))) == 8.0
    assert entropy(histogram(np.zeros((4, 4), np.uint8))) == 0.0


def test_percentiles_are_those_of_numpy():
    for grey in (limb(), limb()[:3, :5], np.array([[7]], np.uint8)):
        found = percentiles(histogram(grey), np.arange(256), 0.5, 1, 50, 99, 99.5)
        np.testing.assert_allclose(found, np.percentile(grey, (0.5, 1, 50, 99, 99.5)))


def test_real_radiographs_are_neither_inverted_nor_without_contrast_and_their_inversions_are_told(
    shared_data,
):
    paths = sorted((shared_data / "fracatlas" / "images").iterdir())[::50]
    found, turned = [], []
    for path in paths:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        found += graded(grey).flags
        turned.append(graded(255 - grey).flags)
    assert Reason.INVERTED_PICTURE not in found
    assert found.count(Reason.PERHAPS_INVERTED) <= 1
    assert Reason.TOO_LITTLE_CONTRAST not in found
    assert found.count(Reason.LOW_CONTRAST) <= 1
    assert np.mean([Reason.INVERTED_PICTURE in flags for flags in turned]) >= 0.65
    told = {Reason.INVERTED_PICTURE, Reason.PERHAPS_INVERTED}
    assert np.mean([not told.isdisjoint(flags) for flags in turned]) >= 0.98
