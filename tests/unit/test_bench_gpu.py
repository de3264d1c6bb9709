"""What a GPU is measured with gives the processor's answers in every form, on the processor too."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import in_half_precision, measure_form
from models.bundle import load_bundle
from models.traced import load_network
from tests.bundles import write_untrained_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_untrained_bundle(folder)
    return folder


@pytest.mark.parametrize("form", ["float32, XLA", "float16"])
def test_a_form_gives_the_processors_answers(form: str, bundle_folder: Path) -> None:
    rows = measure_form(bundle_folder, "pooled", form, (3,), 0.0, (None, 0), time.time() + 600)
    (cells,) = rows.values()
    assert cells["furthest probability"] < (0.05 if "float16" in form else 1e-4)
    assert cells["same triage"].split()[0] == cells["same triage"].split()[2]
    assert cells["images/s"].median > 0


def test_half_precision_computes_in_halves_and_answers_in_float32(bundle_folder: Path) -> None:
    network = load_network(load_bundle(bundle_folder), "pooled")
    half = in_half_precision(network)
    computed = {layer.compute_dtype for layer in half.layers if layer.weights}
    assert "float16" in computed
    assert {value.dtype for value in half.output.values()} == {"float32"}
    for ours, theirs in zip(half.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_there_is_no_time_for_is_told(bundle_folder: Path) -> None:
    rows = measure_form(bundle_folder, "pooled", "float32", (3, 5), 0.0, (None, 0), time.time() - 1)
    assert [cells["images/s"] for cells in rows.values()] == ["no time left", "no time left"]
