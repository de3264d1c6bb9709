"""A bundle is whole and unaltered, or is not loaded."""

import json
import shutil

import pytest

from models.bundle import BundleError, load_bundle


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.folder, tmp_path / "copy")
    return tmp_path / "copy"


def changed(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


def test_a_bundle_tells_how_each_region_is_read(tiny_bundle):
    assert tiny_bundle.label_meaning == "fractured"
    assert tiny_bundle.regions == ("hand", "leg")
    assert tiny_bundle.input_sizes == (64,)
    assert tiny_bundle.region_input_size == tiny_bundle.input_size("fracture") == 64
    assert tiny_bundle.networks["fracture"].map_size == 4
    model = tiny_bundle.model_for("hand")
    assert model is not None
    assert (model.network, model.pooled) == ("fracture", True)
    assert 0 <= model.thresholds.low <= model.thresholds.high <= 1
    assert tiny_bundle.model_for("skull") is None


def test_its_hash_is_that_of_the_manifest_and_the_same_wherever_it_lies(tiny_bundle, copy):
    assert load_bundle(copy).sha256 == tiny_bundle.sha256
    changed(copy, lambda m: m.update(trained_on="other data"))
    assert load_bundle(copy).sha256 != tiny_bundle.sha256


@pytest.mark.parametrize(
    "name", ["fracture.keras", "region.keras", "reference.npz", "card.md", "fitted_on.txt", "looks.bin"]
)
def test_an_altered_file_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        load_bundle(copy)


def test_a_missing_file_is_found(copy):
    (copy / "fracture.keras").unlink()
    with pytest.raises(BundleError, match=r"fracture\.keras is missing"):
        load_bundle(copy)


def set_file(manifest):
    manifest["networks"]["fracture"]["file"] = "../secret.keras"


def unknown_network(manifest):
    manifest["models"]["hand"]["network"] = "none"


def its_own_partner(manifest):
    manifest["networks"]["fracture"]["partner"] = "fracture"


def crossed(manifest):
    manifest["models"]["hand"]["thresholds"] = {"low": 0.9, "high": 0.1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m.pop("label_meaning"), "incomplete"),
        (lambda m: m.update(region_network="none"), "region network is not"),
        (set_file, "outside itself"),
        (unknown_network, "unknown network"),
        (its_own_partner, "no other plain network"),
        (crossed, "low <= high"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, sentence):
    with pytest.raises(BundleError, match=sentence):
        load_bundle(changed(copy, change))


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="manifest"):
        load_bundle(tmp_path)


def test_a_region_whose_bundle_says_nothing_of_its_negative_may_not_say_it(copy):
    def forget(manifest):
        manifest["format"] = 1
        for model in manifest["models"].values():
            del model["may_say_negative"], model["evidence"]

    assert not any(m.may_say_negative for m in load_bundle(changed(copy, forget)).models.values())

    def figures(found, of, counted="positives"):
        return {counted: {"value": float(of)}, "sensitivity_at_low": {"value": found / of}}

    regions = {"hand": figures(29, 30, "fractured"), "leg": figures(27, 30)}
    models = load_bundle(changed(copy, lambda m: m.update(metrics={"regions": regions}))).models
    assert {name: model.may_say_negative for name, model in models.items()} == {"hand": True, "leg": False}
    assert (models["leg"].evidence.fractures, models["leg"].evidence.found) == (30, 27)

    only_counted = {"images": 12, "positives": 0}
    models = load_bundle(
        changed(copy, lambda m: m.update(metrics={"regions": {"hand": only_counted}}))
    ).models
    assert not any(model.may_say_negative for model in models.values())
