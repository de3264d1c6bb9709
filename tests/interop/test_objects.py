"""Returned objects by the programs of others: verifiers find no error, readers read what was said."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from interop import objects
from interop.reading import ReadImage, Reading, Signature, writable
from pipeline.types import AttentionRegion
from store.intake import envelopes
from tests.interop.conftest import film
from tests.npm import npm_folder, run_script
from vocabulary.dicom import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENCAPSULATED_PDF,
    SECONDARY_CAPTURE,
    derived_uid,
)
from vocabulary.states import Answer, Triage

JARS = Path("/usr/share/java")
#: The stylesheets of PixelMed's validator are larger than what Java allows an expression by default.
LIMITS = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
PLACES = (None, (1, 10, 20, 30, 40), (1, 10, 20, 0, 0))
SR_CLASSES = (COMPREHENSIVE_SR, COMPREHENSIVE_3D_SR)


def image(number: int, side: str = "L", **attributes: object) -> ReadImage:
    data = film("a study", number, longest=160, SpecificCharacterSet="ISO_IR 100",
                PatientName="Müller^Jörg", **attributes)  # fmt: skip
    pixels = np.random.default_rng(number).integers(0, 255, (160, 120, 3), np.uint8)
    identity = envelopes.identity_of(data)
    assert identity
    return ReadImage(
        number=number,
        identity=identity,
        picture=cv2.imencode(".jpg", pixels)[1].tobytes(),
        sop_uid=str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID),
        region="hand",
        laterality=side,
        triage=Triage.POSITIVE if number == 1 else Triage.NEGATIVE,
        probability=0.91 if number == 1 else 0.02,
        low=0.1,
        high=0.6,
        attention=(AttentionRegion(10, 20, 30, 40, 0.7), AttentionRegion(50, 60, 20, 20, 0.5))
        if number == 1
        else (),
    )


def reading(place: tuple[int, int, int, int, int] | None = None) -> Reading:
    images = image(1), image(2, "")
    return Reading(
        id=uuid.UUID(int=5),
        study_uid=str(images[0].source().StudyInstanceUID),
        bundle="fracatlas-3",
        bundle_hash="ab" * 32,
        label_meaning="fractured",
        version=2,
        triage=Triage.POSITIVE,
        made_at=datetime(2026, 11, 30, 12, 0, 0, 1, tzinfo=UTC),
        images=images,
        pdf=b"%PDF-1.7 odd",
        signature=Signature(
            "Dr. Jörg Leser", "Krankenhaus Süd", datetime(2026, 11, 30, 13, 0, 5, tzinfo=UTC), Answer.PRESENT,
            "Bruch des fünften Mittelhandknochens\nnicht verschoben", place,
        ),
        earlier=(COMPREHENSIVE_SR, "1.2.3.4"),
    )  # fmt: skip


def made(said: Reading, kind: str, sop_class: str) -> bytes:
    return objects.make(said, kind, sop_class, derived_uid(kind, sop_class), said.images[:1])


def reports() -> dict[str, bytes]:
    """Every form of a report: both kinds in both classes, signed with a box, a point or no place."""
    found = {}
    for (n, place), kind, sop_class in itertools.product(enumerate(PLACES), ("sr", "signed"), SR_CLASSES):
        if kind == "signed" or not n:
            found[f"{kind}-{n}-{sop_class[-2:]}.dcm"] = made(reading(place), kind, sop_class)
    return found


def test_the_same_reading_is_the_same_bytes_and_another_time_is_not(monkeypatch: pytest.MonkeyPatch):
    for kind, sop_class in objects.CLASSES.items():
        assert made(reading(), kind, sop_class) == made(reading(), kind, sop_class), kind
    first = made(reading(), "sr", COMPREHENSIVE_SR)
    assert made(replace(reading(), version=3), "sr", COMPREHENSIVE_SR) != first


def test_a_verifier_finds_no_error_and_a_reader_reads_it(tmp_path: Path):
    written = {
        **reports(),
        "sc.dcm": made(reading(), "sc", SECONDARY_CAPTURE),
        "summary.dcm": made(reading(), "summary", SECONDARY_CAPTURE),
        "pdf.dcm": made(reading(), "pdf", ENCAPSULATED_PDF),
    }
    for name, data in written.items():
        path = tmp_path / name
        path.write_bytes(data)
        checked = subprocess.run(["/usr/bin/dciodvfy", path], capture_output=True, check=False)
        assert b"Error" not in checked.stderr + checked.stdout, (name, checked.stderr)
        if name[0] != "s" or name in {"sc.dcm", "summary.dcm"}:
            continue
        dumped = subprocess.run(["/usr/bin/dsrdump", "-Ei", path], capture_output=True, check=False)
        text = dumped.stdout.decode("latin-1")
        assert not dumped.returncode, dumped.stderr
        if name.startswith("signed"):
            assert "VERIFIED" in text
            assert "FINAL" in text
            assert "Present" in text
            assert "Dr. Jörg Leser" in text
            assert "Bruch des fünften" in text
        else:
            assert "UNVERIFIED" in text
            assert "PRELIMINARY" in text
            assert text.count("where the model looked") == 2
            assert "PredecessorDocumentsSequence" in pydicom.dcmread(path)


def test_the_summary_names_all_its_images_and_shows_them():
    from interop.pictures import PAGE_WIDTH, draw_summary

    page = draw_summary(reading())
    assert page.shape[1] == PAGE_WIDTH
    assert (page == 255).mean() > 0.5
    made_of = pydicom.dcmread(io.BytesIO(made(reading(), "summary", SECONDARY_CAPTURE)))
    assert len(made_of.SourceImageSequence) == 2
    assert made_of.pixel_array.tobytes() == page.tobytes()
    assert made_of.SeriesNumber == 9004


def test_what_nobody_signed_is_no_signed_reading():
    with pytest.raises(ValueError, match="nobody has signed"):
        made(replace(reading(), signature=None), "signed", COMPREHENSIVE_SR)


def test_what_is_added_keeps_to_the_sources_character_set():
    latin = image(1)
    plain = replace(latin, identity=latin.identity.replace(b"ISO_IR 100", b"ISO_IR 6  "))
    assert writable("Jörg  Śliwa\\x", latin) == "Jorg Sliwa/x"
    assert writable("Jörg", latin) == "Jörg"
    assert writable("Jörg", plain) == "Jorg"
    assert writable("Юрий", plain) == "?"


@pytest.mark.faults  # a Java process of 15 s for each
@pytest.mark.parametrize(
    "name", ["sr-0-33.dcm", "sr-0-34.dcm", "signed-0-33.dcm", "signed-1-34.dcm", "signed-2-33.dcm"]
)
def test_pixelmeds_validator_finds_no_error(name: str, tmp_path: Path):
    if not (JARS / "pixelmed.jar").exists():
        pytest.skip("PixelMed is not installed; scripts/setup.sh faults installs it")
    classes = ":".join(map(str, sorted(JARS.glob("*.jar"))))
    path = tmp_path / name
    path.write_bytes(reports()[name])
    command = ["java", *LIMITS, "-cp", classes, "com.pixelmed.validate.DicomSRValidator", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    said = done.stdout + done.stderr
    assert "IOD validation complete" in said, said[-2000:]
    assert "Root Template Validation Complete" in said
    assert "Error" not in said, [line for line in said.splitlines() if "Error" in line]


_DCMJS = """
const fs = require("fs"), dcmjs = require("dcmjs");
const out = {};
for (const path of process.argv.slice(2)) {
  const file = dcmjs.data.DicomMessage.readFile(fs.readFileSync(path).buffer);
  const set = dcmjs.data.DicomMetaDictionary.naturalizeDataset(file.dict);
  const values = [];
  const walk = (item) => {
    if (item.ConceptNameCodeSequence) {
      const name = item.ConceptNameCodeSequence[0].CodeMeaning;
      if (item.MeasuredValueSequence) values.push([name, Number(item.MeasuredValueSequence[0].NumericValue)]);
      if (item.ConceptCodeSequence) values.push([name, item.ConceptCodeSequence[0].CodeMeaning]);
      if (item.TextValue) values.push([name, item.TextValue]);
    }
    if (item.GraphicData) values.push([item.GraphicType, Array.from(item.GraphicData)]);
    for (const each of item.ContentSequence || []) walk(each);
  };
  walk(set);
  out[path] = {name: JSON.stringify(set.PatientName), modality: set.Modality, rows: set.Rows, values};
}
console.log(JSON.stringify(out));
"""


@pytest.mark.faults
def test_dcmjs_reads_them(tmp_path: Path, pytestconfig: pytest.Config):
    folder = npm_folder(pytestconfig, "dcmjs@0.41.0")
    paths = {}
    for name, data in {**reports(), "sc.dcm": made(reading(), "sc", SECONDARY_CAPTURE)}.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(data)
    read = json.loads(run_script(folder, _DCMJS, *paths.values()))
    sr = read[str(paths["sr-0-33.dcm"])]
    assert sr["modality"] == "SR"
    assert "Müller" in sr["name"]
    values = [(name, value) for name, value in sr["values"]]
    assert ("Calibrated probability of fracture", 0.91) in values
    assert next(value for name, value in values if name == "POLYLINE")[:4] == [10, 20, 40, 20]
    signed = [tuple(map(str, each)) for each in read[str(paths["signed-1-34.dcm"])]["values"]]
    assert ("Answer of a reader: fracture", "Present") in signed
    assert read[str(paths["sc.dcm"])]["rows"] > 160
