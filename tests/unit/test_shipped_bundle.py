"""The shipped bundle: whole, small enough, and it reads what it should and leaves alone the rest."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.bundle import load_bundle
from models.scorer import open_scorer
from pipeline.decode import decode
from tests.routes import routes
from training.experiment import ROOT
from vocabulary.reasons import Reason

NAME = "fracatlas-1"


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "models" / "bundles" / NAME)


@pytest.fixture(scope="module")
def scorer(bundle):
    return open_scorer(bundle)


def test_it_is_whole_and_says_what_it_is(bundle):
    assert set(bundle.models) == {"hand", "hip", "leg", "shoulder"}
    assert bundle.label_meaning == "fractured"
    assert {r for r, m in bundle.models.items() if m.pooled} == {"hip", "shoulder"}
    assert "## Figures on the test part" in bundle.card
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 30e6
    assert bundle.manifest["metrics"]["fitted_on_overlap"] == 0


def test_only_a_region_that_has_shown_it_says_negative(bundle):
    assert {r: m.may_say_negative for r, m in bundle.models.items()} == {
        "hand": True,
        "hip": False,  # 3 fractures in the test part
        "leg": False,  # 30 of 36 found: the interval reaches down to 0.68
        "shoulder": False,  # 6 fractures
    }
    leg = bundle.models["leg"].evidence
    assert (leg.fractures, leg.found) == (36, 30)
    assert leg.lower == pytest.approx(0.681, abs=1e-3)


@pytest.mark.slow
def test_real_dicom_images_are_read_only_where_the_bundle_can(scorer, shared_data):
    found = {}
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        radiograph = decode(path.read_bytes(), max_pixels=10**8, pseudonymise=lambda text: text)
        (found[path.name],) = routes(scorer, [radiograph.pixels], radiograph.facts.body_part)
    assert found["RG1_J2KI.dcm"].not_assessable is Reason.REGION_UNSUPPORTED  # a chest, says the header
    assert found["CR-ModalitySequenceLUT.dcm"].not_assessable is not None  # a dental film without a header
    for name in ("RG3_J2KI.dcm", "RG3_J2KR.dcm"):
        assert (found[name].region, found[name].not_assessable) == ("leg", None)


@pytest.mark.slow
@pytest.mark.parametrize("region", ["hand", "hip", "leg", "shoulder", "elbow"])
def test_phantoms_of_known_regions_are_read_and_most_elbows_are_not(scorer, region):
    """It was taught with phantoms that were less like films: elbows that are more like them pass for legs."""
    from phantoms.film import make_phantom

    found = routes(scorer, [make_phantom(seed, region).pixels for seed in range(30)])
    read = [r for r in found if r.not_assessable is None]
    if region == "elbow":
        assert len(read) <= 6
    else:
        assert len(read) >= 28
        assert all(r.region == region for r in read)


@pytest.mark.slow
def test_at_most_two_percent_of_real_test_radiographs_are_not_read(scorer, shared_data, tmp_path):
    from training.datasets import load_pixels, read_fracatlas, read_split

    dataset = read_fracatlas(shared_data / "fracatlas")
    examples = read_split(ROOT / "training" / "splits" / "fracatlas.csv", dataset.examples)["test"]
    found = routes(scorer, load_pixels(examples, tmp_path))
    assert np.mean([r.not_assessable is not None for r in found]) <= 0.02
    assert np.mean([r.region in e.regions for r, e in zip(found, examples, strict=True)]) >= 0.98


@pytest.mark.slow
def test_the_ten_lines_of_the_page_run(tmp_path, monkeypatch, capsys):
    from phantoms.files import encode_phantom
    from phantoms.film import make_phantom

    page = (ROOT / "docs" / "library.md").read_text()
    (lines,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 10
    monkeypatch.chdir(tmp_path)
    Path("hand.png").write_bytes(encode_phantom(make_phantom(7, "hand"), "png"))
    exec(compile(lines, "docs/library.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("hand 0.")
    assert Path("hand-map.jpg").read_bytes().startswith(b"\xff\xd8")
