"""Measuring a bundle: the pointing game by hand, figures that JSON can hold, files that never differ."""

import json
import re

import numpy as np
import pytest

from pipeline.types import Route
from training.datasets import Example, phantom_examples
from training.evaluate import Reading, evaluate, pointing, summary
from training.experiment import ROOT

UPPER_LEFT = np.float32([[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]])


def reading(name, peak):
    """A fractured image outlined in its upper left quarter, with attention in one of 4 x 4 cells."""
    cam = np.zeros((4, 4), np.float16)
    cam[peak] = 1
    example = Example(name, ROOT, ("hand",), True, name, "", (UPPER_LEFT,))
    return Reading(example, Route("hand", 1.0, None), 0.0, 0.5, cam)


def test_the_pointing_game_by_hand():
    readings = [reading("inside", (1, 1)), reading("outside", (3, 3)), reading("also inside", (0, 0))]
    found = pointing(readings, {r.example.name: np.zeros((80, 80), np.uint8) for r in readings})
    assert found["images"] == 3
    assert found["peak_in_fracture"] == found["peak_in_box"] == pytest.approx(2 / 3)
    assert found["chance"] == pytest.approx(0.25, abs=0.02)
    assert 0 < found["iou"] < 0.67


def test_an_image_without_outlines_does_not_play():
    example = Example("normal", ROOT, ("hand",), False, "g", "")
    alone = [Reading(example, Route("hand", 1.0, None), 0.0, 0.5, np.ones((4, 4), np.float16))]
    assert pointing(alone, {"normal": np.zeros((8, 8), np.uint8)})["images"] == 0


def test_a_bundle_is_measured_as_the_service_reads(tiny_bundle, tmp_path):
    from models.scorer import open_scorer

    examples, pixels = phantom_examples(["hand", "leg"], 12, 500)
    scorer = open_scorer(tiny_bundle, backend="tensorflow")
    figures = evaluate(tiny_bundle, scorer, examples, pixels)
    assert json.loads(json.dumps(figures, allow_nan=False))["images"] == 24
    assert figures["fitted_on_overlap"] == 0
    assert figures["attention"]["images"] == 12
    low, high = figures["overall"]["auc"]["interval"]
    assert low <= figures["overall"]["auc"]["value"] <= high
    assert "overall (12 fractured of 24)" in summary(figures)
    again = phantom_examples(["hand"], 4, 0)  # those that it was trained on
    assert evaluate(tiny_bundle, scorer, *again)["fitted_on_overlap"] == 4


def test_the_page_shows_every_figure_and_the_worst_errors(tiny_bundle):
    from models.scorer import open_scorer
    from training.evaluate import figures_of, read_all
    from training.report_page import report_page

    examples, pixels = phantom_examples(["hand", "leg"], 12, 500)
    readings = read_all(open_scorer(tiny_bundle, backend="tensorflow"), examples, pixels)
    by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
    page = report_page(figures_of(tiny_bundle, readings, pixels), readings, by_name)
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)  # a picture's letters may spell anything
    for word in ("sensitivity at low", "Pointing game", "Missed fractures", "without implants", "nan"):
        assert (word in words) is (word != "nan")
    assert page.count("data:image/svg+xml") == 5
    assert page.count("<figcaption>") == 24
    assert 'src="http' not in page


def test_the_same_network_is_saved_as_the_same_bytes(tmp_path):
    from models.architectures import fracture_network
    from training.export import save_compact

    network = fracture_network("custom_cnn", 64, width=8)
    for name in ("one", "two"):
        save_compact(network, tmp_path / f"{name}.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
