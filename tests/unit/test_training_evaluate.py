"""Measuring a bundle: the pointing game by hand, figures that JSON can hold, files that never differ."""

import json
import re

import numpy as np
import pytest

from pipeline.types import Route
from training.attention import attention_figures, best_overlap
from training.datasets import Example, phantom_examples
from training.experiment import ROOT
from training.figures import by_part, figures_of, summary
from training.readings import Reading, read_all

UPPER_LEFT = np.float32([[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]])


def reading(name, peak):
    """A fractured image outlined in its upper left quarter, with attention in one of 4 x 4 cells."""
    cam = np.zeros((4, 4), np.float16)
    cam[peak] = 1
    example = Example(name, ROOT, ("hand",), True, name, "", (UPPER_LEFT,))
    return Reading(example, Route("hand", 1.0, None), 0.0, 0.5, cam)


def test_the_pointing_game_by_hand():
    readings = [reading("inside", (1, 1)), reading("outside", (3, 3)), reading("also inside", (0, 0))]
    found = attention_figures(readings, {r.example.name: np.zeros((80, 80), np.uint8) for r in readings})
    assert found["images"] == 3
    assert found["peak_in_fracture"]["value"] == found["peak_in_box"]["value"] == pytest.approx(2 / 3)
    assert found["peak_in_fracture"]["interval"] == (0, 1)
    assert found["chance"]["value"] == pytest.approx(0.25, abs=0.02)
    assert 0 < found["chance_iou"]["value"] < found["iou"]["value"] < 0.67


def test_overlaps_by_hand():
    boxes, others = np.float64([[0, 0, 2, 2], [8, 8, 9, 9]]), np.float64([[1, 0, 3, 2], [20, 20, 30, 30]])
    assert best_overlap(boxes, others) == pytest.approx(2 / 6)
    assert best_overlap(boxes[1:], others) == 0
    assert best_overlap(boxes[:0], others) == 0


def test_an_image_without_outlines_does_not_play():
    example = Example("normal", ROOT, ("hand",), False, "g", "")
    alone = [Reading(example, Route("hand", 1.0, None), 0.0, 0.5, np.ones((4, 4), np.float16))]
    assert attention_figures(alone, {"normal": np.zeros((8, 8), np.uint8)})["images"] == 0


def measured(bundle, examples, pixels, **asked):
    from models.scorer import open_scorer

    readings = read_all(open_scorer(bundle, backend="tensorflow"), examples, pixels)
    return figures_of(bundle, readings, pixels, **asked), readings


def test_a_bundle_is_measured_as_the_service_reads(tiny_bundle):
    examples, pixels = phantom_examples(["hand", "leg"], 12, 500)
    figures, _ = measured(tiny_bundle, examples, pixels)
    assert json.loads(json.dumps(figures, allow_nan=False))["images"] == 24
    assert figures["fitted_on_overlap"] == 0
    assert figures["attention"]["images"] == 12
    assert figures["studies"] is None
    low, high = figures["overall"]["auc"]["interval"]
    assert low <= figures["overall"]["auc"]["value"] <= high
    assert "overall (12 positive of 24)" in summary(figures)
    again = phantom_examples(["hand"], 4, 0)  # those that it was trained on
    assert measured(tiny_bundle, *again)[0]["fitted_on_overlap"] == 4


def spoken_for(study, patient, positive, probability):
    example = Example(
        f"{study}-{probability}", ROOT, ("hand",), positive, "g", "-", study=study, patient=patient
    )
    return Reading(example, Route("hand", 1.0, None), 0.0, probability, None)


def test_studies_are_read_by_their_worst_image_and_by_the_mean(tiny_bundle):
    """A study with one loud image is found by the clinical rule and lost in the mean."""
    readings = [
        *(spoken_for("loud", "1", True, p) for p in (0.9, 0.1, 0.1)),
        *(spoken_for("quiet", "2", False, p) for p in (0.3, 0.2)),
        spoken_for("plain", "3", True, 0.8),
        *(spoken_for("calm", "3", False, p) for p in (0.4, 0.45)),
    ]
    pixels = [np.zeros((8, 8), np.uint8)] * len(readings)
    figures = figures_of(tiny_bundle, readings, pixels, prevalence=0.1, label_meaning="abnormal")
    studies = figures["studies"]
    assert studies["studies"] == 4
    assert studies["worst image"]["positives"]["value"] == 2
    assert studies["worst image"]["recall"]["value"] == 1
    assert studies["worst image"]["auc"]["value"] == 1
    assert studies["mean of images"]["recall"]["value"] == 0.5
    assert studies["mean of images"]["auc"]["value"] == 0.75  # 0.37 lies below the calm study's 0.425
    assert figures["patients_known"]
    assert figures["prevalence"] == 0.1
    assert figures["overall"]["images"]["value"] == 8


def test_the_bootstrap_draws_patients(tiny_bundle):
    """Two patients of one kind each: most draws have both classes or one alone, and no interval is narrow."""
    readings = [spoken_for(f"s{i}", str(i % 2), i % 2 == 0, 0.2 + 0.05 * i) for i in range(12)]
    pixels = [np.zeros((8, 8), np.uint8)] * len(readings)
    accuracy = figures_of(tiny_bundle, readings, pixels)["overall"]["accuracy"]
    kinds = [np.mean([(r.probability >= 0.5) == r.example.positive for r in readings[k::2]]) for k in (0, 1)]
    assert accuracy["interval"] == pytest.approx((min(kinds), max(kinds)))


def test_the_page_shows_every_figure_and_the_worst_errors(tiny_bundle):
    from training.report_page import report_page

    examples, pixels = phantom_examples(["hand", "leg"], 12, 500)
    figures, readings = measured(tiny_bundle, examples, pixels, label_meaning="abnormal")
    by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
    page = report_page(figures, readings, by_name, {"pooled": {"training": [0.9, 0.5]}})
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)  # a picture's letters may spell anything
    for word in ("sensitivity at low", "npv at high", "pointing game", "Missed", "by chance", "nan"):
        assert (word in words) is (word != "nan")
    assert "positive means fractured, the data set's abnormal" in words
    assert page.count("data:image/svg+xml") == 6
    assert page.count("<figcaption>") == 24
    assert 'src="http' not in page


def test_the_same_network_is_saved_as_the_same_bytes(tmp_path):
    from models.architectures import fracture_network
    from training.export import save_compact

    network = fracture_network("custom_cnn", 64, width=8)
    for name in ("one", "two"):
        save_compact(network, tmp_path / f"{name}.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_the_part_to_measure_is_the_splits_or_the_publishers(tmp_path):
    from training.datasets import Dataset, DatasetError, Split, write_split
    from training.evaluate import chosen_part

    of = lambda name, part: Example(name, ROOT, ("hand",), True, name, "-", part=part)  # noqa: E731
    dataset = Dataset("d", (of("a", "train"), of("b", "valid"), of("c", "valid")), {})
    names = lambda split, part: [e.name for e in chosen_part(dataset, split, part)]  # noqa: E731
    assert names(None, None) == ["a", "b", "c"]
    assert names(None, "valid") == ["b", "c"]
    write_split(tmp_path / "split.csv", Split({"a": "test", "b": "val", "c": "train"}))
    assert names(tmp_path / "split.csv", None) == ["a"]
    assert names(tmp_path / "split.csv", "val") == ["b"]
    with pytest.raises(DatasetError, match="there are: train, valid"):
        names(None, "test")


def test_the_table_of_parts_tells_figures_where_there_are_any():
    keys = ("images", "positives", "accuracy", "precision", "recall", "f1", "loss", "auc")
    values = dict(zip(keys, (31, 5, 0.875, None, 0.5, 0.25, 0.125, 0.75), strict=True))
    told = {key: {"value": value, "interval": None} for key, value in values.items()}
    told["auc"]["interval"] = (0.6, 0.9)
    table = by_part({"overall": told, "regions": {"hip": {"images": 2, "positives": 0}}}, "abnormal")
    assert table.splitlines() == [
        "| part | films | abnormal | accuracy | precision | recall | F1 | loss | AUC |",
        "|---|---|---|---|---|---|---|---|---|",
        "| all | 31 | 5 | 0.875 | none | 0.500 | 0.250 | 0.125 | 0.750 (0.600-0.900) |",
        "| hip | 2 | 0 |  |  |  |  |  |  |",
    ]
