"""Heat map, attention regions and overlay against arrays worked out by hand."""

import cv2
import numpy as np
import pytest

from pipeline.explain import attention_regions, body_mask, heat_map, overlay_jpeg, share_on_body


def one_hot(rows, columns, row, column, value=3.0):
    cam = np.zeros((rows, columns), np.float16)
    cam[row, column] = value
    return cam


def test_a_square_picture_is_interpolated_between_the_centres_of_cells():
    # two cells over four pixels: centres at 0.5 and 2.5 pixels from the left edge less a half
    heat = heat_map(np.array([[0.0, 2.0], [0.0, 2.0]]), width=4, height=4)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, np.tile([0, 0.25, 0.75, 1], (4, 1)))


def test_the_letterbox_of_a_wide_picture_is_undone():
    # 4 x 2 pixels in a 4 x 4 square: one row of border above and below; two rows of cells
    heat = heat_map(np.array([[0.0, 0.0], [1.0, 1.0]]), width=4, height=2)
    np.testing.assert_allclose(heat, [[0.25] * 4, [0.75] * 4])


def test_the_letterbox_of_a_tall_picture_is_undone():
    heat = heat_map(np.array([[0.0, 1.0], [0.0, 1.0]]), width=2, height=4)
    np.testing.assert_allclose(heat, [[0.25, 0.75]] * 4)


def test_a_map_need_not_be_square():
    heat = heat_map(np.array([[0.0, 0.5, 1.0]]), width=3, height=3)
    np.testing.assert_allclose(heat, np.tile([0, 0.5, 1], (3, 1)))


def test_the_peak_is_one_whatever_the_scale():
    cam = np.arange(49.0).reshape(7, 7)
    np.testing.assert_allclose(
        heat_map(cam, width=50, height=70), heat_map(cam * 1e-3, width=50, height=70), atol=1e-6
    )


@pytest.mark.parametrize("cam", [np.zeros((7, 7)), np.full((7, 7), np.nan), np.full((7, 7), -2.0)])
def test_no_attention_is_an_empty_map_and_no_region(cam):
    heat = heat_map(cam, width=90, height=120)
    assert heat.shape == (120, 90)
    assert not heat.any()
    assert attention_regions(cam, width=90, height=120) == ()


def test_broken_cells_do_not_spread():
    cam = one_hot(7, 7, 3, 3).astype(np.float32)
    cam[0, 0], cam[6, 6], cam[0, 6] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(
        heat_map(cam, width=70, height=70), heat_map(one_hot(7, 7, 3, 3), width=70, height=70)
    )


def test_a_hot_cell_becomes_a_box_of_its_size_at_its_place():
    # 7 cells over 70 pixels: cell (row 2, column 5) spans x 50-59, y 20-29; linear interpolation falls to
    # half at the cell's edge in the middle of each side
    (region,) = attention_regions(one_hot(7, 7, 2, 5), width=70, height=70)
    assert (region.x, region.y, region.width, region.height) == (50, 20, 10, 10)
    heat = heat_map(one_hot(7, 7, 2, 5), width=70, height=70)
    assert region.score == pytest.approx(float(heat[20:30, 50:60].mean()), abs=1e-6)


def test_boxes_are_in_original_pixels_of_a_large_picture():
    # 7 cells over 1400 pixels; the picture is 700 wide, 350 of border left and right
    (region,) = attention_regions(one_hot(7, 7, 3, 3), width=700, height=1400)
    step = 1400 / 256
    assert region.x == pytest.approx(600 - 350, abs=step)
    assert region.y == pytest.approx(600, abs=step)
    assert region.width == pytest.approx(200, abs=2 * step)
    assert region.height == pytest.approx(200, abs=2 * step)


def test_attention_in_the_border_is_no_region():
    assert attention_regions(one_hot(7, 7, 3, 0), width=100, height=1000) == ()


def test_at_most_three_regions_the_hottest_first():
    cam = one_hot(7, 7, 1, 1, 1.0)
    cam[1, 5], cam[5, 1], cam[5, 5] = 0.9, 0.8, 0.75
    regions = attention_regions(cam, width=180, height=180)
    assert len(regions) == 3
    assert [region.score for region in regions] == sorted((r.score for r in regions), reverse=True)
    assert (regions[0].x < 90, regions[0].y < 90) == (True, True)
    assert all(not (r.x > 90 and r.y > 90) for r in regions)  # the weakest is left out


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (1, 1), (4000, 64), (64, 4000), (2900, 2300), (65, 1000)]
)
def test_boxes_lie_inside_the_picture(width, height):
    cam = np.random.default_rng(width).random((7, 7))
    regions = attention_regions(cam, width=width, height=height)
    assert len(regions) <= 3
    for region in regions:
        assert 0 <= region.x < region.x + region.width <= width
        assert 0 <= region.y < region.y + region.height <= height
        assert 0 < region.score <= 1


def test_the_map_covers_the_whole_picture_when_all_is_equally_hot():
    (region,) = attention_regions(np.ones((7, 7)), width=300, height=200)
    assert (region.x, region.y, region.width, region.height, region.score) == (0, 0, 300, 200, 1.0)


@pytest.mark.parametrize("cam", [np.zeros(7), np.zeros((7, 0)), np.zeros((1, 7, 7))])
def test_what_is_no_map_is_refused(cam):
    with pytest.raises(ValueError, match="map of shape"):
        heat_map(cam, width=10, height=10)


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_without_attention_the_overlay_is_the_bare_radiograph():
    display = np.tile(np.arange(128, dtype=np.uint8), (96, 1))
    picture = decoded(overlay_jpeg(display, np.zeros((7, 7)), quality=100))
    assert picture.shape == (96, 128, 3)
    assert np.abs(picture.astype(int) - display[..., None]).max() <= 3


def test_the_overlay_is_coloured_where_hot_and_grey_where_cold():
    picture = decoded(
        overlay_jpeg(np.full((140, 140), 90, np.uint8), one_hot(7, 7, 1, 1), quality=95)
    ).astype(int)
    spread = picture.max(axis=2) - picture.min(axis=2)
    assert spread[30, 30] > 40
    assert spread[100:, 100:].max() <= 4
    # white corners of the region, x and y 20-39, open between them
    for y, x in ((22, 20), (20, 22), (20, 37), (37, 39), (39, 22)):
        assert picture[y, x].min() > 180
    assert picture[30, 20].min() < 100
    assert picture[20, 30].min() < 100


def test_the_smallest_picture_has_an_overlay():
    assert decoded(overlay_jpeg(np.zeros((1, 1), np.uint8), np.ones((7, 7)))).shape == (1, 1, 3)


def film(height=200, width=160):
    """A dark, noisy background with a bright limb down the middle and a letter in a corner."""
    picture = np.random.default_rng(0).integers(8, 16, (height, width)).astype(np.uint8)
    picture[:, 60:100] = 150
    picture[10:18, 140:146] = 255
    return picture


def test_the_body_is_what_is_bright_with_a_margin_and_without_letters():
    body = body_mask(film())
    assert body.shape == (200, 160)
    assert body[:, 58:102].all()
    assert not body[:, :45].any()
    assert not body[:, 115:].any()


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_picture_without_a_background_is_all_body(grey):
    assert body_mask(np.full((90, 120), grey, np.uint8)).all()


def test_attention_off_the_body_is_no_region_and_no_colour():
    picture = film()
    cam = one_hot(10, 10, 5, 1) + one_hot(10, 10, 5, 5)
    assert len(attention_regions(cam, width=160, height=200)) == 2
    (region,) = attention_regions(cam, width=160, height=200, body=body_mask(picture))
    assert 60 <= region.x + region.width / 2 <= 100
    shown = decoded(overlay_jpeg(picture, cam)).astype(int)
    coloured = np.ptp(shown, axis=2) > 40
    assert coloured[:, 60:100].any()
    assert not coloured[:, :40].any()


def test_a_negative_has_the_map_and_no_marks():
    picture, cam = np.full((140, 140), 90, np.uint8), one_hot(7, 7, 1, 1)
    unmarked = decoded(overlay_jpeg(picture, cam, quality=95, marked=False)).astype(int)
    assert unmarked[22, 20].min() < 150
    assert np.ptp(unmarked[30, 30]) > 40


def test_what_share_of_a_box_lies_on_the_body():
    body = np.zeros((10, 20), np.uint8)
    body[:, 10:] = 1
    assert share_on_body(body, 0.0, 0.0, 0.4, 1.0) == 0.0
    assert share_on_body(body, 0.25, 0.2, 0.5, 0.5) == 0.5
    assert share_on_body(body, 0.99, 0.99, 0.001, 0.001) == 1.0


@pytest.mark.parametrize("region", ["hand", "elbow", "shoulder", "hip", "leg"])
def test_fractures_of_phantoms_lie_on_the_body(region):
    from phantoms.film import make_phantom

    for seed in range(6):
        phantom = make_phantom(seed, region, fracture=True)
        assert phantom.box is not None
        height, width = phantom.pixels.shape
        x, y, wide, tall = phantom.box
        on_body = share_on_body(body_mask(phantom.pixels), x / width, y / height, wide / width, tall / height)
        assert on_body > 0.9


@pytest.mark.slow
def test_every_outlined_fracture_of_fracatlas_lies_on_the_body(shared_data, tmp_path):
    from training.datasets import load_pixels, read_fracatlas

    examples = [e for e in read_fracatlas(shared_data / "fracatlas").examples if e.polygons]
    inside = []
    for example, pixels in zip(examples, load_pixels(examples, tmp_path), strict=True):
        body = body_mask(pixels)
        outline = np.zeros_like(body)
        for polygon in example.polygons:
            corners = np.round(np.asarray(polygon) * body.shape[::-1]).astype(np.int32)
            cv2.fillPoly(outline, [corners], 1)
        inside.append(float(body[outline > 0].mean()))
    assert len(inside) > 600
    assert min(inside) >= 0.99
