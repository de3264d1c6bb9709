"""Copies of the images that a bundle was fitted on are found by what they look like."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.lookalikes import COPIES
from models import fitted_on as fitted_on_module
from models.bundle import BundleError, load_bundle
from models.fitted_on import FittedOn, FoundBy, fitted_on
from phantoms.film import make_phantom
from pipeline.decode.picture import decode
from pipeline.lookalikes import ALIKE, LOOK_BYTES, look_of, nearest
from training.experiment import ROOT

BUNDLES = ROOT / "models" / "bundles"
SAVED_AGAIN = ("JPEG 70", "half the size", "a quarter of the size", "brighter", "darker")


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    regions = ("hand", "leg", "hip", "shoulder", "wrist", "elbow")
    return [make_phantom(seed, region, size=(400, 400)).pixels for seed in range(3) for region in regions]


@pytest.mark.parametrize("copy", SAVED_AGAIN)
def test_a_copy_that_was_saved_again_looks_like_its_film(films, copy):
    known = [look_of(film) for film in films]
    again = [look_of(COPIES[copy](film)) for film in films]
    assert max(nearest([look], [own])[0] for look, own in zip(again, known, strict=True)) <= ALIKE


def test_another_film_does_not(films):
    looks = [look_of(film) for film in films]
    for number, look in enumerate(looks):
        assert nearest([look], looks[:number] + looks[number + 1 :])[0] > ALIKE


def test_the_nearest_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    asked, known = ([rng.bytes(LOOK_BYTES) for _ in range(n)] for n in (700, 90))
    bits = [
        np.unpackbits(np.frombuffer(b"".join(each), np.uint8).reshape(-1, LOOK_BYTES), axis=1)
        for each in (asked, known)
    ]
    assert nearest(asked, known).tolist() == (bits[0][:, None] != bits[1]).sum(axis=2).min(axis=1).tolist()
    assert nearest(asked[:2], []).tolist() == [257, 257]
    assert nearest([], known).tolist() == []


def test_the_file_s_hash_comes_first_and_an_unknown_look_finds_nothing():
    look, other = b"\x0f" * LOOK_BYTES, b"\xf0" * LOOK_BYTES
    known = FittedOn(frozenset({"ab" * 6}), (look,))
    images = [("ab" * 32, look), ("cd" * 32, look), ("cd" * 32, other), ("cd" * 32, None)]
    assert known.find(images) == [FoundBy.FILE, FoundBy.LOOK, None, None]
    assert known.has_all_looks
    assert not FittedOn(frozenset({"ab" * 6}), ()).has_all_looks


@pytest.mark.parametrize("name", ["fracatlas-1", "fracatlas-3", "fracatlas-4"])
def test_the_shipped_bundles_know_what_their_images_look_like(name):
    assert fitted_on(load_bundle(BUNDLES / name)).has_all_looks


def test_a_new_bundle_holds_the_looks_itself(tiny_bundle):
    known = fitted_on(tiny_bundle)
    assert known.has_all_looks
    assert len(known.digests) == 48


def test_altered_looks_of_the_shipped_bundles_are_refused(monkeypatch, tmp_path):
    data = bytearray((BUNDLES / "looks.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "looks.bin").write_bytes(data)
    monkeypatch.setattr(fitted_on_module, "_SHIPPED", tmp_path / "looks.bin")
    fitted_on_module._shipped.cache_clear()
    try:
        with pytest.raises(BundleError, match="was altered"):
            fitted_on(load_bundle(BUNDLES / "fracatlas-1"))
    finally:
        fitted_on_module._shipped.cache_clear()


def test_training_images_that_were_saved_again_are_found(shared_data):
    """What passed as new: other bytes of the same films."""
    known = fitted_on(load_bundle(BUNDLES / "fracatlas-3"))
    folder: Path = shared_data / "fracatlas"
    with (folder / "manifest.csv").open() as file:
        whole = [row["image_id"] for row in csv.DictReader(file) if row["truncated"] == "0"]
    again = []
    for path in (folder / "images" / name for name in whole[::100]):
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
        pixels = decode(data.tobytes(), max_pixels=10**8, pseudonymise=str).pixels
        again.append((hashlib.sha256(data.tobytes()).hexdigest(), look_of(pixels)))
    assert set(known.find(again)) == {FoundBy.LOOK}
