"""The part, its family and evidence, and suspected places; none of it is marked on a negative."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.explain import body_mask, share_on_body
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from store.bundles.bundles import add_bundle
from store.results.results import COLUMNS, RESULT_COLUMNS, Selection, iter_lines
from tests.worker.test_reading import by_path, dicom, finding_of, pdf_text, png, read

EVIDENCE = {"fractures": 11, "found": 10, "lower": 0.62, "family_lower": 0.92}
#: Any cell of an untrained network is worth a place; none is strong.
PLACES = {"shown": 1e-4, "strong": 0.9, "smallest": 0.05}


def bundle(source: Path, folder: Path, low: float, high: float) -> str:
    """Add a bundle of one family that draws suspected places and cuts here."""
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": folder.name, "places": PLACES}
    manifest["families"] = dict.fromkeys(manifest["regions"], "limb")
    for model in manifest["models"].values():
        model |= {"thresholds": {"low": low, "high": high}, "evidence": EVIDENCE}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return add_bundle(folder)


def finding(image: Image) -> Finding:
    with session_scope() as session:
        return session.get_one(Finding, image.finding_id)


def line(batch: Batch, site_id: uuid.UUID) -> dict[str, Any]:
    (found,) = iter_lines(Selection(site_id, batch.id, trials=True), with_lists=True)
    return {name: column.value(found) for name, column in COLUMNS.items()}


@pytest.mark.parametrize(("triage", "low", "high"), [("positive", 0.0, 0.0), ("doubt", 0.0, 1.0)])
def test_a_part_its_evidence_and_its_places_are_told(
    site_id: uuid.UUID, untrained_bundle: Path, tmp_path: Path, triage: str, low: float, high: float
) -> None:
    name = bundle(untrained_bundle, tmp_path / f"parts-{triage}", low, high)
    batch = read(site_id, {"a.png": png(1)}, bundle=name)
    image = by_path(batch)["a.png"]
    assert image.triage == triage
    assert image.display_key is not None
    display = cv2.imdecode(np.frombuffer(get_blobs().get(image.display_key), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image.suspected_places
    body = body_mask(np.asarray(display, np.uint8))
    for box in (*image.suspected_places, *image.attention_regions):
        shares = [box[side] / 160 for side in ("x", "y", "width", "height")]
        assert 0 <= shares[0] < shares[0] + shares[2] <= 1
        assert 0 <= shares[1] < shares[1] + shares[3] <= 1
        assert share_on_body(body, *shares) >= 0.5
    text = " ".join(pdf_text(finding_of(image, name)).split())
    assert "Suspected places" in text
    assert f"{(image.region or '').capitalize()}, of the limb" in text
    assert "found 10 of 11 fractures (95% interval 62 to 98%)" in text
    assert "It says negative on the evidence of its family (limb)" in text
    said = line(batch, site_id)
    assert (said["region"], said["family"], said["low"], said["high"]) == (image.region, "limb", low, high)
    assert said["probability"] == pytest.approx(image.probability)
    assert json.loads(said["suspected_places"]) == image.suspected_places
    assert {"region", "family", "low", "high", "probability"} <= set(RESULT_COLUMNS)


def test_nothing_is_marked_on_a_negative(site_id: uuid.UUID, untrained_bundle: Path, tmp_path: Path) -> None:
    name = bundle(untrained_bundle, tmp_path / "parts-negative", 1.0, 1.0)
    batch = read(site_id, {"a.png": png(1)}, bundle=name)
    image = by_path(batch)["a.png"]
    assert image.triage == "negative"
    assert finding(image).suspected_places, "the bundle drew some"
    assert (image.attention_regions, image.suspected_places) == ([], [])
    assert image.overlay_key is not None
    text = pdf_text(finding_of(image, name))
    assert "Attention regions" not in text
    assert "Suspected places" not in text
    assert json.loads(line(batch, site_id)["suspected_places"]) == []


def test_a_bundle_that_has_not_earned_places_draws_none(site_id: uuid.UUID) -> None:
    image = by_path(read(site_id, {"a.png": png(1)}))["a.png"]
    assert (finding(image).suspected_places, image.suspected_places) == (None, [])


@pytest.mark.parametrize(
    "header",
    [
        {"Modality": "CT"},
        {"ViewPosition": "LORDOTIC"},
        {"BodyPartExamined": "CLAVICLE"},
        {"BodyPartExamined": "TORAX"},
    ],
)
def test_a_header_refuses_whatever_the_picture_shows(site_id: uuid.UUID, header: dict[str, str]) -> None:
    batch = read(site_id, {"a.dcm": dicom(1, "hand", "1.2.3.4.5", **header)})
    image = by_path(batch)["a.dcm"]
    assert (image.status, image.triage, image.reason) == ("done", "not_assessable", "region_unsupported")
    assert image.probability is None


def test_a_bundle_that_names_no_families_has_those_of_the_table(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"a.png": png(1)})
    families = {"hand": "arm", "leg": "leg", "hip": "hip", "shoulder": "shoulder"}
    said = line(batch, site_id)
    assert said["family"] == families[said["region"]]
