"""The shipped bundle that names parts: whole, small enough, and it leaves alone what it cannot read."""

import numpy as np
import pytest

from models.bundle import load_bundle
from models.scorer import open_scorer
from pipeline.decode import decode
from pipeline.preprocess import model_input
from pipeline.triage import calibrate, triage
from tests.routes import routes
from training.datasets.parts import FAMILY, PARTS
from training.experiment import ROOT

NAME = "fracatlas-4"


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "models" / "bundles" / NAME)


@pytest.fixture(scope="module")
def scorer(bundle):
    return open_scorer(bundle)


def test_it_is_whole_and_says_what_it_is(bundle):
    assert bundle.regions == (*PARTS, "other")
    assert bundle.families == FAMILY
    assert bundle.label_meaning == "fractured"
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 60e6
    assert "## Figures" in bundle.card


def test_negative_is_said_only_on_evidence(bundle):
    for part, model in bundle.models.items():
        assert model.evidence is not None
        if part in {"hip", "shoulder"}:
            assert not model.may_say_negative
        if model.may_say_negative:
            own = model.evidence.fractures >= 30 and model.evidence.lower >= 0.8
            assert own or (model.evidence.family_lower or 0) >= 0.9


def test_its_card_is_what_its_manifest_says(bundle):
    from training.reading_card import card

    said = card(bundle.name, bundle.networks, bundle.models, bundle.manifest, bundle.manifest["command"])
    assert said == bundle.card, "also when its networks were taken over file by file"


@pytest.mark.slow
def test_a_chest_is_refused_by_its_picture_and_a_lower_leg_read(scorer, shared_data):
    found = {}
    for name in ("RG1_J2KI.dcm", "RG3_J2KI.dcm"):
        path = shared_data / "dicom" / name
        radiograph = decode(path.read_bytes(), max_pixels=10**8, pseudonymise=lambda text: text)
        (found[name],) = routes(scorer, [radiograph.pixels])
    assert found["RG1_J2KI.dcm"].not_assessable is not None
    assert found["RG3_J2KI.dcm"].not_assessable is None
    assert FAMILY[found["RG3_J2KI.dcm"].region] == "leg"


@pytest.mark.slow
def test_kept_out_pictures_are_refused_and_true_limbs_are_read(scorer, shared_data, tmp_path):
    from training.reading_data import read_films

    split = ROOT / "training" / "splits" / "fracatlas.csv"
    test = read_films(shared_data, split, tmp_path, 0, 0)["test"]
    films, pixels = test.films[::2], test.pixels[::2]  # the card has all of them
    found = routes(scorer, pixels)
    refused = np.array([r.not_assessable is not None for r in found])
    negative = np.array([f.source == "negative" for f in films])
    limbs = np.array([f.source == "film" and f.main.sum() > 0 for f in films])
    assert refused[negative].mean() >= 0.95
    assert refused[limbs].mean() <= 0.02


@pytest.mark.slow
def test_both_backends_agree_to_1e_4_and_in_every_triage(bundle, scorer):
    from phantoms.film import make_phantom

    other = open_scorer(bundle, backend="tensorflow")
    for part, region in (("hand", "hand"), ("shoulder", "shoulder"), ("hip", "hip"), ("foot", "leg")):
        model, size = bundle.models[part], bundle.input_size(bundle.models[part].network)
        pictures = [make_phantom(seed, region).pixels for seed in range(6)]
        stack = np.stack([model_input(p, bundle.region_input_size) for p in pictures])
        said = [s.classify(stack).probabilities for s in (scorer, other)]
        assert np.abs(said[0] - said[1]).max() < 1e-4
        stack = np.stack([model_input(p, size) for p in pictures])
        logits = [s.detect(model.network, stack).logits for s in (scorer, other)]
        probabilities = [[calibrate(float(g), model.calibration) for g in some] for some in logits]
        assert np.abs(np.subtract(*probabilities)).max() < 1e-4
        assert [triage(p, model.thresholds) for p in probabilities[0]] == [
            triage(p, model.thresholds) for p in probabilities[1]
        ]
