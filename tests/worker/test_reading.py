"""What becomes of images and studies: the stages' own code on real servers, run in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import uuid
import zlib
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pypdf
import pytest
import tifffile
from pydicom.datadict import DicomDictionary
from sqlalchemy import delete, event, func, select, text, update
from sqlalchemy.orm import Session

from models.reading import open_reader
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.report import render
from pipeline.report.types import StudyReport
from settings import get_settings
from store.base import event_counts
from store.base.blobs import get_blobs
from store.base.errors import BlobUnavailable, UploadsDeleted, WrongState
from store.base.session import get_engine, session_scope
from store.base.tables import (
    Base,
    Batch,
    BatchSummary,
    Finding,
    Image,
    StudyFinding,
    Work,
    WorkKind,
    WorkState,
)
from store.bundles.bundles import add_bundle
from store.intake import batch_end, batches, uploads
from store.intake.batches import ManifestRow
from store.operations import fsck
from store.queue import work
from store.queue.work import Lease
from store.reading import studies, worklist
from store.reading.worklist import Rank
from store.reading.worklist_tables import WorklistRow
from tests.running import assert_sound, draft, images_of, read_batch
from vocabulary.reasons import Reason
from vocabulary.states import STAGES, Stage
from web.contract.batches import BatchProgress
from worker import reconcile


def png(seed: int, region: str = "hand") -> bytes:
    return encode_phantom(make_phantom(seed, region, size=(160, 160)))


def dicom(seed: int, region: str, study: str, number: int = 1, **changes: str) -> bytes:
    phantom = make_phantom(seed, region, size=(160, 160))
    dataset = pydicom.dcmread(io.BytesIO(encode_phantom(phantom, "dicom", study=study, number=number)))
    for name, value in {"StudyInstanceUID": study, **changes}.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def work_off(batch: Batch) -> Batch:
    """Run every unit of the batch that is due, stage by stage, until none is left; `reconcile` gives up."""
    from worker import flow, stages

    while True:
        with session_scope() as session:
            batch_end.give_up(session)
            session.execute(update(Work).values(due_at=Work.created_at))
            unit = session.scalar(
                select(Work)
                .where(Work.batch_id == batch.id, Work.state.in_([WorkState.DUE, WorkState.PUBLISHED]))
                .limit(1)
            )
        if unit is None:
            return read_batch(batch)
        if unit.stage is None:
            flow.run(unit.id, None, stages.finish.run)
            continue
        for stage in STAGES[STAGES.index(Stage(unit.stage)) :]:
            if not flow.run(unit.id, stage, stages.run):
                break


def read(site_id: uuid.UUID, files: dict[str, bytes], **options: object) -> Batch:
    batch = draft(site_id, files, **options)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    return work_off(batch)


def by_path(batch: Batch) -> dict[str, Image]:
    return {image.path: image for image in images_of(batch)}


def test_what_a_commit_names_outlasts_a_power_cut(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every picture and report is written down as a name in its folder before a row says it is there."""
    root, rename, sync = tmp_path / "blobs", os.rename, os.fsync
    kept: set[Path] = set()
    synced: set[Path] = set()

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def renamed(old: str, new: str) -> None:
        if Path(old) in synced:  # bytes first
            kept.add(Path(new))
        synced.difference_update(Path(new).parents)  # they hold a name that may not last yet
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)

    def lasts(key: str) -> bool:
        path = root / key
        return path in kept and synced.issuperset({path.parent, *path.parents} - {*root.parents})

    named: list[str] = []
    lost: list[str] = []  # a failing stage is tried again: nothing is asserted in here

    def check(session: Any) -> None:
        images = select(Image.original_key, Image.display_key, Image.overlay_key, Image.heat_key)
        rows = [*session.execute(images), *session.execute(select(StudyFinding.report_key))]
        named.extend(keys := [key for row in rows for key in row if key])
        lost.extend(key for key in keys if not lasts(key))

    event.listen(Session, "before_commit", check)
    try:
        read(site_id, {"a.png": png(1), "b.png": png(2)})
    finally:
        event.remove(Session, "before_commit", check)
    for name in ("original", "display.jpg", "overlay.jpg", "heat.png", "reports/"):
        assert any(name in key for key in named), name
    assert not lost


def finding_of(image: Image, bundle: str) -> StudyFinding:
    assert image.study_id is not None
    with session_scope() as session:
        return studies.latest_findings(session, [image.study_id], bundle)[image.study_id]


def pdf_text(found: StudyFinding) -> str:
    assert found.report_key is not None
    reader = pypdf.PdfReader(io.BytesIO(get_blobs().get(found.report_key)))
    return "\n".join(page.extract_text() for page in reader.pages)


def test_good_neighbours_go_on(site_id: uuid.UUID) -> None:
    jpeg = encode_phantom(make_phantom(3, "leg", size=(300, 200)), "jpeg")
    colour = np.zeros((200, 200, 3), np.uint8)
    colour[:, :100] = (0, 0, 255)
    colour[:, 100:] = (0, 255, 0)
    batch = read(
        site_id,
        {
            "good.png": png(1),
            "cut.jpg": jpeg[: len(jpeg) // 2],
            "colour.png": cv2.imencode(".png", colour)[1].tobytes(),
            "tiny.png": cv2.imencode(".png", np.zeros((20, 20), np.uint8))[1].tobytes(),
            "good.jpg": jpeg,
        },
    )
    images = by_path(batch)
    assert {path: (i.status, i.reason) for path, i in images.items()} == {
        "good.png": ("done", None),
        "good.jpg": ("done", None),
        "cut.jpg": ("rejected", "truncated"),
        "colour.png": ("rejected", "not_a_radiograph"),
        "tiny.png": ("rejected", "too_small"),
    }
    assert (batch.status, batch.n_done, batch.n_rejected, batch.s_report) == ("done", 2, 3, 5)
    good = images["good.jpg"]
    assert (good.width, good.height) == (300, 200)
    assert good.probability is not None
    assert 0 <= good.probability <= 1
    assert good.triage in {"positive", "doubt", "negative"}
    for key in (good.original_key, good.display_key, good.overlay_key):
        assert key is not None
        assert get_blobs().exists(key)
    text = pdf_text(finding_of(good, batch.bundle))
    assert "verified by a clinician" in text
    assert "good" not in text  # file names never reach a report
    assert_sound(batch)


def test_the_end_of_a_batch_keeps_what_it_amounts_to(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"one.png": png(1), "two.png": png(2), "bad.png": b"no image"})
    with session_scope() as session:
        kept = session.get_one(BatchSummary, batch.id)
        assert kept.version == batch.version, "the page need not count"
        parts = kept.figures["parts"]
    said = [image.triage for image in images_of(batch) if image.triage]
    assert sorted(t for part in parts.values() for t, n in part.items() for _ in range(n)) == sorted(said)
    assert len(said) == 2


def test_dicom_images_of_a_study_are_read_together_and_patient_data_are_gone(site_id: uuid.UUID) -> None:
    study = "1.2.826.0.1.3680043.8.498.1"
    names = {"PatientName": "Roe^Richard", "PatientID": "P-4711", "InstitutionName": "St Elsewhere"}
    batch = read(
        site_id,
        {
            "a.dcm": dicom(1, "leg", study, 1, **names),
            "b.dcm": dicom(2, "leg", study, 2, **names),
            "c.dcm": dicom(3, "hand", "1.2.826.0.1.3680043.8.498.2", 1, **names),
        },
    )
    images = by_path(batch)
    assert images["a.dcm"].study_id == images["b.dcm"].study_id != images["c.dcm"].study_id
    assert images["a.dcm"].study_uid == study
    assert images["a.dcm"].patient_hash == images["c.dcm"].patient_hash != ""
    found = finding_of(images["a.dcm"], batch.bundle)
    assert found.n_images == 2
    text = pdf_text(found)
    assert images["a.dcm"].accession in text
    everything = b"".join(get_blobs().get(key) for key in get_blobs().keys(""))
    for secret in (b"Roe^Richard", b"P-4711", b"Elsewhere"):
        assert secret not in everything
    assert_sound(batch)


def test_the_library_says_what_the_service_says(site_id: uuid.UUID, untrained_bundle: Path) -> None:
    files = {
        "hand.png": png(41),
        "leg.dcm": dicom(42, "leg", "1.2.826.0.1.3680043.8.498.41"),
        "hip.png": png(43, "hip"),
        "chest.dcm": dicom(44, "hand", "1.2.826.0.1.3680043.8.498.42", BodyPartExamined="CHEST"),
    }
    images = by_path(read(site_id, files))
    reader = open_reader(untrained_bundle)
    assert reader.read(files["hand.png"]).heat is not None
    for name, data in files.items():
        reading, image = reader.read(data), images[name]
        finding = reading.finding
        assert (finding.region, finding.triage.value) == (image.region, image.triage)
        assert finding.probability == pytest.approx(image.probability, abs=1e-5)
        assert {reason.value for reason in finding.reasons} == {image.reason, *image.flags} - {None}
        assert [asdict(region) for region in finding.attention_regions] == image.attention_regions
        assert [asdict(place) for place in finding.suspected_places] == image.suspected_places
        assert (reading.overlay is None) == (image.overlay_key is None)
        if image.overlay_key:
            assert get_blobs().get(image.overlay_key) == reading.overlay
    assert images["chest.dcm"].triage == "not_assessable"


def test_a_bundle_of_a_newer_format_waits_for_a_newer_worker(
    site_id: uuid.UUID, untrained_bundle: Path, tmp_path: Path
) -> None:
    from worker import flow, stages

    newer = tmp_path / "newer"
    shutil.copytree(untrained_bundle, newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "name": "newer", "format": 99}))
    add_bundle(newer)
    batch = draft(site_id, {"hand.png": png(1)}, bundle="newer")
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work.id).where(Work.batch_id == batch.id)).one()
    flow.run(unit, Stage.PREPARE, stages.run)
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.state, row.attempt) == (WorkState.DUE, 0)
        assert "bundle format 99" in (row.unavailable_reason or "")
    assert [image.status for image in images_of(batch)] == ["running"]


MARKER = "QUILLFEATHER"
#: Elements of text that the object cannot be without, or that are kept on purpose.
NEEDED = {
    "AccessionNumber", "SpecificCharacterSet", "PhotometricInterpretation", "Modality", "BurnedInAnnotation",
    "ConversionType", "ImageLaterality", "Laterality", "BodyPartExamined",
}  # fmt: skip


def marked() -> dict[str, bytes]:
    """A film of every format with a marker wherever text can stand; the JPEG lies on its side and says so."""
    plain = png(31)
    array = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_GRAYSCALE)[:, :150]
    word = MARKER.encode()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    text = b"".join(chunk(kind, b"Author\0" + word) for kind in (b"tEXt", b"eXIf", b"prVt", b"gAMA"))
    turned = cv2.imencode(".jpg", cv2.rotate(array, cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 274, 3, 1, 6, 0, 0) + word
    segments = [(0xE1, exif), (0xE0, b"JFXX" + word), (0xED, b"Photoshop 3.0\0" + word), (0xFE, word)]
    jpeg = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)
    tiff = io.BytesIO()
    tifffile.imwrite(
        tiff, array, description=MARKER, software=MARKER, extratags=[(315, "s", 0, MARKER, True)]
    )
    object_ = pydicom.dcmread(io.BytesIO(dicom(32, "hand", "1.2.826.0.1.3680043.8.498.9")))
    texts = {"LO", "SH", "PN", "ST", "LT", "UT", "UC", "CS"}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in texts and keyword and keyword not in NEEDED and 0x0008 <= tag >> 16 < 0x7FE0:
            setattr(object_, keyword, MARKER)
    object_.private_block(0x0099, MARKER, create=True).add_new(1, "LO", MARKER)
    whole = io.BytesIO()
    object_.save_as(whole)
    return {
        "a.png": plain[:33] + text + plain[33:] + word,
        "b.jpg": turned[:2] + jpeg + turned[2:] + word,
        "c.tif": tiff.getvalue() + word,
        "d.dcm": whole.getvalue() + word,
    }


def test_a_marker_in_every_format_is_kept_nowhere(
    site_id: uuid.UUID, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the stages themselves: no blob, row, line of a log or page of a report knows it."""
    files = marked()
    assert all(MARKER.encode() in data for data in files.values())
    batch = read(site_id, files)
    images = by_path(batch)
    assert {path: (image.status, image.reason) for path, image in images.items()} == dict.fromkeys(
        files, ("done", None)
    )
    assert images["b.jpg"].width == 150  # upright, though what said so is gone
    found = []
    for key in get_blobs().keys(""):
        whole = get_blobs().get(key)
        said = key + whole.decode("latin-1")
        if whole.startswith(b"%PDF"):
            reader = pypdf.PdfReader(io.BytesIO(whole))
            said += str(reader.metadata) + "".join(page.extract_text() for page in reader.pages)
        found += [key] if MARKER in said.upper() else []
    with get_engine().connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = connection.execute(text(f"SELECT upper(t::text) FROM {table.name} t")).scalars()
            found += [f"{table.name}: {row[:300]}" for row in rows if MARKER in row]
    found += [line for line in caplog.text.splitlines() if MARKER in line.upper()]
    assert found == []


def test_an_image_that_arrives_later_makes_a_new_version(site_id: uuid.UUID) -> None:
    study = "1.2.826.0.1.3680043.8.498.3"
    first = read(site_id, {"a.dcm": dicom(1, "leg", study, 1)})
    second = read(site_id, {"b.dcm": dicom(2, "leg", study, 2)})
    found = finding_of(by_path(second)["b.dcm"], second.bundle)
    assert (found.version, found.n_images) == (2, 2)
    assert "Version 2" in pdf_text(found)
    again = read(site_id, {"b.dcm": dicom(2, "leg", study, 2)})
    assert again.n_done == 1
    with session_scope() as session:
        assert len(session.scalars(select(Finding)).all()) == 2, "nothing was scored twice"
    assert first.status == second.status == again.status == "done"


def test_copies_and_corrections(site_id: uuid.UUID) -> None:
    study = "1.2.826.0.1.3680043.8.498.4"
    original = dicom(1, "hand", study, 1)
    correction = dicom(9, "hand", study, 1)  # the same SOP instance with other pixels
    uid = str(pydicom.dcmread(io.BytesIO(original)).SOPInstanceUID)
    correction = dicom(9, "hand", study, 1, SOPInstanceUID=uid)
    batch = read(
        site_id,
        {"1.dcm": original, "2.dcm": original, "3.dcm": correction, "x/4.png": png(5), "y/4.png": png(5)},
    )
    images = by_path(batch)
    assert (images["2.dcm"].status, images["2.dcm"].reason) == ("rejected", "duplicate_in_study")
    for path in ("1.dcm", "3.dcm"):
        assert images[path].status == "done"
        assert "sop_uid_correction" in images[path].flags
    # the same bytes in two studies keep their rows and share the score
    assert images["x/4.png"].finding_id == images["y/4.png"].finding_id
    assert images["x/4.png"].study_id != images["y/4.png"].study_id
    assert finding_of(images["1.dcm"], batch.bundle).n_images == 2


def test_an_unsupported_body_part_is_not_read(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"chest.dcm": dicom(1, "leg", "1.2.3.4", 1, BodyPartExamined="CHEST")})
    image = by_path(batch)["chest.dcm"]
    assert (image.status, image.triage, image.probability) == ("done", "not_assessable", None)
    assert image.reason == "region_unsupported"
    assert image.overlay_key is None
    assert batch.t_not_assessable == 1
    assert "Not read by AI" in pdf_text(finding_of(image, batch.bundle))


def test_a_header_that_contradicts_is_never_negative(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n}.dcm": dicom(n, "leg", f"1.2.3.{n}", 1, BodyPartExamined="SHOULDER") for n in range(1, 7)}
    batch = read(site_id, files)
    contradicted = [i for i in images_of(batch) if "region_contradicts_header" in i.flags]
    assert contradicted
    assert all(image.triage in {"doubt", "positive"} for image in contradicted)


def structured_report() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(1, "leg", "1.2.3.5", 1)))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # Basic Text SR
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_reports_without_a_picture_are_skipped_and_counted(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"report.dcm": structured_report(), "a.png": png(1)})
    assert (batch.n_total, batch.n_skipped, batch.n_done, batch.status) == (1, 1, 1, "done")
    assert_sound(batch)


def test_a_manifest_groups_plain_images(site_id: uuid.UUID) -> None:
    batch = draft(site_id, {"a.png": png(1), "b.png": png(2), "c.png": b"garbage"})
    with session_scope() as session:
        rows = [
            ManifestRow("a.png", accession="ACC-1", study="S1", view="PA", laterality="L"),
            ManifestRow("b.png", accession="ACC-1", study="S1", view="LAT", laterality="L"),
            ManifestRow("c.png", accession="ACC-1", study="S1"),
        ]
        batches.set_manifest(session, batch.id, site_id, rows)
        batches.submit(session, batch.id, site_id)
    batch = work_off(batch)
    images = by_path(batch)
    assert len({image.study_id for image in images.values()}) == 1
    found = finding_of(images["a.png"], batch.bundle)
    assert found.n_images == 3
    assert found.triage != "negative"  # one image of the study could not be assessed
    assert "study_incomplete" in found.reasons
    assert "ACC-1" in pdf_text(found)


def test_mura_paths_group_and_the_label_stays_out(site_id: uuid.UUID) -> None:
    batch = read(
        site_id,
        {
            "MURA-v1.1/valid/XR_HAND/patient1/study1_positive/image1.png": png(1),
            "MURA-v1.1/valid/XR_HAND/patient1/study1_positive/image2.png": png(2),
            "MURA-v1.1/valid/XR_HAND/patient1/study2_negative/image1.png": png(3),
        },
    )
    assert len({image.study_id for image in images_of(batch)}) == 2
    with session_scope() as session:
        for key in session.scalars(select(studies.Study.key)):
            assert "positive" not in key
            assert "negative" not in key


def test_options_leave_out_reports_and_heat_maps(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"a.png": png(1)}, with_report=False, with_heatmap=False)
    image = by_path(batch)["a.png"]
    assert image.overlay_key is None
    found = finding_of(image, batch.bundle)
    assert found.report_key is None
    with_both = read(site_id, {"a.png": png(1)})
    assert by_path(with_both)["a.png"].overlay_key is not None
    assert finding_of(by_path(with_both)["a.png"], batch.bundle).report_key is not None


def test_cancelling_in_mid_chunk_ends_it_and_retry_takes_it_up_again(site_id: uuid.UUID) -> None:
    from worker import flow, stages

    batch = draft(site_id, {f"{n}.png": png(n) for n in range(3)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()
    assert flow.run(unit.id, Stage.PREPARE, stages.run)

    def cancelled_while_it_runs(lease: object) -> bool:
        with session_scope() as session:
            batches.cancel(session, batch.id, site_id)
        return stages.run(lease)  # type: ignore[arg-type]

    assert not flow.run(unit.id, Stage.CLASSIFY, cancelled_while_it_runs)
    ended = work_off(batch)
    assert (ended.status, ended.n_cancelled) == ("cancelled", 3)
    with session_scope() as session:
        batches.retry(session, batch.id, site_id)
    ended = work_off(batch)
    assert (ended.status, ended.n_done, ended.round) == ("done", 3, 2)
    assert_sound(ended)


@pytest.fixture
def two_attempts(service_settings: pytest.MonkeyPatch) -> None:
    """A batch's end is tried twice."""
    service_settings.setenv("FRACTUREAI_FINISH_ATTEMPTS", "2")
    get_settings.cache_clear()


@pytest.mark.usefixtures("two_attempts")
def test_a_report_that_cannot_be_drawn_does_not_keep_its_batch_open(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image fails in *report*, its study in the end of the batch; the neighbour has its report."""
    draw = render.render_report

    def broken(document: StudyReport) -> bytes:
        if document.facts.accession == "BAD":
            raise RuntimeError("a font is broken")
        return draw(document)

    monkeypatch.setattr(render, "render_report", broken)
    files = {
        "bad.dcm": dicom(1, "hand", "1.2.3.1", AccessionNumber="BAD"),
        "good.dcm": dicom(2, "hand", "1.2.3.2", AccessionNumber="GOOD"),
    }
    ended = read(site_id, files)
    assert (ended.status, ended.end_failure, ended.n_done, ended.n_failed) == (
        *("partial", "processing_error", 1, 1),
    )
    assert finding_of(by_path(ended)["good.dcm"], ended.bundle).report_key is not None
    assert {row.status for row in rows_of(ended)} == {"done", "failed"}
    with session_scope() as session:
        unit = session.scalars(select(Work).where(Work.kind == WorkKind.FINISH)).one()
        assert (unit.state, unit.attempt) == (WorkState.FAILED, 2)
        assert "a font is broken" in (unit.error or "")
        assert event_counts.by_name(session) == {event_counts.BATCHES_GIVEN_UP: 1}
        shown = BatchProgress.of(ended, {}, findings=True).end_failure
        assert shown is not None
        assert shown.code == "batch_given_up"
        assert "processing_error" in shown.sentence
    monkeypatch.undo()
    with session_scope() as session:
        batches.retry(session, ended.id, site_id)
    ended = work_off(ended)
    assert (ended.status, ended.end_failure, ended.round) == ("done", None, 2)
    assert finding_of(by_path(ended)["bad.dcm"], ended.bundle).report_key is not None
    assert_sound(ended)


@pytest.mark.usefixtures("two_attempts")
@pytest.mark.parametrize("away", [False, True])
def test_an_end_that_fails_or_waits_for_ever_is_given_up_and_can_be_tried_again(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch, *, away: bool
) -> None:
    from worker import flow, stages

    def broken(batch: Batch) -> None:
        raise BlobUnavailable if away else RuntimeError

    monkeypatch.setattr(worklist, "fill", broken)
    batch, unit = queued(site_id)
    for stage in STAGES:
        flow.run(unit.id, stage, stages.run)
    with session_scope() as session:
        finish = session.scalars(select(Work).where(Work.kind == WorkKind.FINISH)).one()
    for _ in range(3):
        assert not read_batch(batch).finished_at
        flow.run(finish.id, None, stages.finish.run)
        with session_scope() as session:
            long_ago = func.clock_timestamp() - timedelta(days=4)
            session.execute(
                update(Work).where(Work.unavailable_since.is_not(None)).values(unavailable_since=long_ago)
            )
        reconcile.recover()
        if read_batch(batch).finished_at:
            break
    ended = read_batch(batch)
    assert (ended.status, ended.end_failure) == (*("partial", "unavailable" if away else "processing_error"),)
    assert ended.n_done == ended.n_total
    with pytest.raises(WrongState), session_scope() as session:  # its images need nothing
        batches.retry(session, batch.id, site_id, [images_of(batch)[0].id])
    monkeypatch.undo()
    with session_scope() as session:
        assert batches.can_retry(session, ended)
        batches.retry(session, batch.id, site_id)
    assert_sound(ended := work_off(batch))
    assert (ended.status, ended.end_failure, ended.round) == ("done", None, 2)


def test_the_end_of_many_studies_goes_on_in_another_task(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch, service_settings: pytest.MonkeyPatch
) -> None:
    """What takes longer than a task may have been given up, though nothing failed."""
    from worker import flow, stages

    batch, unit = queued(site_id)
    for stage in STAGES:
        flow.run(unit.id, stage, stages.run)
    service_settings.setenv("FRACTUREAI_CONVERSION_SECONDS", "0.001")
    service_settings.setenv("FRACTUREAI_SOFT_TIME_LIMIT", "0.002")
    get_settings.cache_clear()
    monkeypatch.setattr(stages.finish, "REPORTS_AT_ONCE", 1)
    with session_scope() as session:
        session.execute(delete(StudyFinding))
        finish = session.scalars(select(Work).where(Work.kind == WorkKind.FINISH)).one()
    for written in (1, 2, 3):
        flow.run(finish.id, None, stages.finish.run)
        with session_scope() as session:
            assert session.scalar(select(func.count()).select_from(StudyFinding)) == written
            assert session.get_one(Work, finish.id).attempt == 0
    assert work_off(batch).status == "done"


def uploads_of(batch: Batch) -> int:
    return len(stored(batches.incoming_of(batch.id)))


@pytest.mark.usefixtures("kept_for_a_retry")
def test_uploads_of_cancelled_images_go_after_a_while_where_a_site_wants_that(site_id: uuid.UUID) -> None:
    batch, _ = queued(site_id)
    with session_scope() as session:
        batches.cancel(session, batch.id, site_id)
    ended = work_off(batch)
    uploads.delete_old()
    assert uploads_of(batch) == 3, "for a retry"
    with session_scope() as session:
        assert batches.can_retry(session, ended)
        session.get_one(Batch, batch.id).finished_at = func.now() - timedelta(hours=2)
    uploads.delete_old()
    assert uploads_of(batch) == 0
    with session_scope() as session:
        assert not batches.can_retry(session, session.get_one(Batch, batch.id))
    assert not fsck.check().problems


def test_uploads_of_cancelled_images_go_at_once_and_a_retry_names_them(site_id: uuid.UUID) -> None:
    """What was prepared before has its pseudonymised copy, and is read again from that."""
    from worker import flow, stages

    batch = draft(site_id, {f"{n:02}.png": png(n) for n in range(9)})  # two chunks
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        units = list(session.scalars(select(Work.id).where(Work.batch_id == batch.id)))
    flow.run(units[0], Stage.PREPARE, stages.run)
    with session_scope() as session:
        batches.cancel(session, batch.id, site_id)
    assert uploads_of(batch) > 0
    uploads.discard_cancelled(site_id, batch.id)
    assert uploads_of(batch) == 0
    ended = work_off(batch)
    gone = [image for image in images_of(batch) if image.reason == Reason.UPLOAD_DELETED]
    assert 0 < len(gone) < ended.n_cancelled == ended.n_total
    with pytest.raises(UploadsDeleted, match=gone[0].path), session_scope() as session:
        batches.retry(session, batch.id, site_id, [gone[0].id])
    with session_scope() as session:
        batches.retry(session, batch.id, site_id)
    again = work_off(batch)
    assert (again.n_done, again.n_cancelled) == (ended.n_total - len(gone), len(gone))
    with session_scope() as session:
        assert batches.reasons(session, batch.id) == {"upload_deleted": len(gone)}
        assert not batches.can_retry(session, session.get_one(Batch, batch.id))
    with pytest.raises(UploadsDeleted, match=f"{len(gone)} file"), session_scope() as session:
        batches.retry(session, batch.id, site_id)
    assert_sound(again)


def test_what_a_worker_held_when_its_batch_was_cancelled_goes_when_it_ends(site_id: uuid.UUID) -> None:
    batch, unit = queued(site_id)
    with session_scope() as session:
        lease = work.take(session, unit.id, Stage.PREPARE)
        assert isinstance(lease, Lease)
        batches.cancel(session, batch.id, site_id)
    uploads.discard_cancelled(site_id, batch.id)
    assert uploads_of(batch) == 3
    with session_scope() as session:
        assert work.cancelled_meanwhile(session, work.hold(session, lease))
    work_off(batch)
    assert uploads_of(batch) == 0
    with session_scope() as session:
        assert batches.reasons(session, batch.id) == {"upload_deleted": 3}


@pytest.mark.parametrize("refused", ["rejected", "duplicate", "skipped"])
def test_what_is_refused_or_sent_twice_goes_with_its_stage(site_id: uuid.UUID, refused: str) -> None:
    from worker import flow, stages

    files = {
        "rejected": {"a.png": png(1), "bad.png": png(2)[:200]},
        "duplicate": {"a.dcm": dicom(1, "hand", "1.2.3"), "b.dcm": dicom(1, "hand", "1.2.3")},
        "skipped": {"a.png": png(1), "plan.dcm": structured_report()},
    }[refused]
    batch = draft(site_id, files)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        units = session.scalars(select(Work.id).where(Work.batch_id == batch.id)).all()
    assert uploads_of(batch) == 2
    for unit in units:
        flow.run(unit, Stage.PREPARE, stages.run)
    assert uploads_of(batch) == 0


def stored(prefix: str = "") -> list[str]:
    return [key for key in get_blobs().keys(prefix) if not key.startswith("bundles/")]


def queued(site_id: uuid.UUID) -> tuple[Batch, Work]:
    batch = draft(site_id, {f"{n}.png": png(n) for n in range(3)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        return batch, session.scalars(select(Work).where(Work.batch_id == batch.id)).one()


@pytest.mark.usefixtures("kept_for_a_retry")
def test_what_a_cancelled_stage_wrote_is_deleted(site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is cancelled while its images are decoded: no row names what was written of them."""
    from worker import flow, stages
    from worker.stages import prepare

    batch, unit = queued(site_id)
    pack = prepare.pack_inputs

    def cancelled_after_the_pictures(*args: Any) -> bytes:
        with session_scope() as session:
            batches.cancel(session, batch.id, site_id)
        assert len(stored("images/")) == 6
        return pack(*args)

    monkeypatch.setattr(prepare, "pack_inputs", cancelled_after_the_pictures)
    assert not flow.run(unit.id, Stage.PREPARE, stages.run)
    assert [key.split("/")[0] for key in stored()] == ["incoming"] * 3, "for a retry"
    monkeypatch.undo()
    assert_sound(work_off(batch), retryable=True)
    with session_scope() as session:
        batches.retry(session, batch.id, site_id)
    assert_sound(work_off(batch))


def test_what_a_stage_wrote_before_it_lost_its_lease_is_deleted(
    site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes after its batch was cancelled and ended, and the images may even be gone."""
    from worker import flow, stages
    from worker.stages import prepare

    batch, unit = queued(site_id)
    pack = prepare.pack_inputs

    def ended_meanwhile(*args: Any) -> bytes:
        with session_scope() as session:
            session.get_one(Work, unit.id).lease_token = None
            batches.cancel(session, batch.id, site_id)
        assert work_off(batch).status == "cancelled"
        with session_scope() as session:
            session.execute(delete(Image).where(Image.path == "1.png"))
        return pack(*args)

    monkeypatch.setattr(prepare, "pack_inputs", ended_meanwhile)
    assert not flow.run(unit.id, Stage.PREPARE, stages.run)
    assert not stored()


def test_what_another_worker_wrote_again_stays(site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import flow, stages
    from worker.stages import prepare

    batch, unit = queued(site_id)
    pack = prepare.pack_inputs

    def taken_by_another(*args: Any) -> bytes:
        monkeypatch.undo()
        with session_scope() as session:
            again = session.get_one(Work, unit.id)
            again.lease_token = again.lease_until = None
            again.state = "due"
        assert flow.run(unit.id, Stage.PREPARE, stages.run)
        return pack(*args)

    monkeypatch.setattr(prepare, "pack_inputs", taken_by_another)
    assert not flow.run(unit.id, Stage.PREPARE, stages.run)
    assert len(stored("images/")) == 6
    for stage in STAGES[1:]:
        flow.run(unit.id, stage, stages.run)
    assert_sound(work_off(batch))


def test_what_a_killed_stage_of_a_cancelled_batch_wrote_is_deleted_at_its_end(site_id: uuid.UUID) -> None:
    from worker import flow

    batch, unit = queued(site_id)

    def killed(lease: Lease) -> bool:
        for image in images_of(batch):
            get_blobs().put(f"{image.pictures}original", b"of nobody")
        return False

    flow.run(unit.id, Stage.PREPARE, killed)
    with session_scope() as session:
        session.get_one(Work, unit.id).lease_token = None
        batches.cancel(session, batch.id, site_id)
    work_off(batch)
    assert not stored()


def test_a_batch_that_is_paused_in_its_last_stage_ends_and_is_paused_no_more(site_id: uuid.UUID) -> None:
    from worker import flow, stages

    batch = draft(site_id, {"a.png": png(1)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()

    def report_meanwhile_paused(lease: Lease) -> bool:
        with session_scope() as session:
            batches.pause(session, batch.id, site_id)
        return stages.run(lease)

    for stage in STAGES[:-1]:
        assert flow.run(unit.id, stage, stages.run)
    flow.run(unit.id, STAGES[-1], report_meanwhile_paused)
    assert read_batch(batch).status == "paused"
    ended = work_off(batch)
    assert (ended.status, ended.paused_at) == ("done", None)
    assert_sound(ended)


def rows_of(batch: Batch) -> list[WorklistRow]:
    with session_scope() as session:
        return list(session.scalars(select(WorklistRow).where(WorklistRow.batch_id == batch.id)))


@pytest.mark.parametrize("cancelled_in", [Stage.CLASSIFY, Stage.DETECT, Stage.EXPLAIN, Stage.REPORT])
def test_what_was_read_before_a_cancel_stays_read(site_id: uuid.UUID, cancelled_in: Stage) -> None:
    from worker import flow, stages

    batch = draft(site_id, {f"{n}.png": png(n) for n in range(3)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()
    for stage in STAGES[: STAGES.index(cancelled_in)]:
        assert flow.run(unit.id, stage, stages.run)

    def cancelled_while_it_runs(lease: Lease) -> bool:
        with session_scope() as session:
            batches.cancel(session, batch.id, site_id)
        return bool(stages.run(lease))

    flow.run(unit.id, cancelled_in, cancelled_while_it_runs)
    ended = work_off(batch)
    images = images_of(batch)
    assert ended.status == "cancelled"
    if cancelled_in in {Stage.CLASSIFY, Stage.DETECT}:  # the region is known at most: nobody need look
        assert {(i.status, i.triage, i.probability) for i in images} == {("cancelled", None, None)}
        assert rows_of(batch) == []
        with session_scope() as session:
            assert session.scalars(select(StudyFinding)).all() == []
        return
    assert (ended.n_done, ended.n_cancelled) == (3, 0)
    assert ended.t_positive + ended.t_doubt + ended.t_negative + ended.t_not_assessable == 3
    for image in images:
        found = finding_of(image, batch.bundle)
        assert (image.status, found.triage, found.version) == ("done", image.triage, 1)
        assert "cancelled" not in pdf_text(found)
        assert (image.overlay_key is not None) == (image.probability is not None)
    shown = {row.study_id: (row.triage, row.probability) for row in rows_of(batch)}
    assert shown == {image.study_id: (image.triage, image.probability) for image in images}
    assert_sound(ended)


def test_an_image_that_failed_after_it_was_read_keeps_its_reading(site_id: uuid.UUID) -> None:
    from worker import flow, stages

    batch = draft(site_id, {"a.png": png(1)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()
    for stage in STAGES[:3]:
        assert flow.run(unit.id, stage, stages.run)

    def broken(lease: Lease) -> bool:
        raise RuntimeError("no paint left")

    for _ in range(3):
        with session_scope() as session:
            session.execute(update(Work).values(due_at=Work.created_at))
        flow.run(unit.id, Stage.EXPLAIN, broken)
    ended = work_off(batch)
    image = images_of(batch)[0]
    assert (image.status, ended.status) == ("failed", "failed")
    assert image.triage is not None
    assert finding_of(image, batch.bundle).triage == image.triage
    assert [(row.triage, row.probability) for row in rows_of(batch)] == [(image.triage, image.probability)]


def test_an_image_that_failed_in_prepare_waits_for_a_reader(site_id: uuid.UUID) -> None:
    from worker import flow

    batch = draft(site_id, {"a.dcm": dicom(1, "hand", "1.2.3.9", 1)})
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()

    def broken(lease: Lease) -> bool:
        raise RuntimeError("out of luck")

    for _ in range(3):
        with session_scope() as session:
            session.execute(update(Work).values(due_at=Work.created_at))
        flow.run(unit.id, Stage.PREPARE, broken)
    work_off(batch)
    assert [(row.status, row.reason, row.rank) for row in rows_of(batch)] == [
        ("failed", "processing_error", Rank.NOT_READ)
    ]
    with session_scope() as session:
        batches.retry(session, batch.id, site_id)
    work_off(batch)
    image = images_of(batch)[0]
    assert [(row.status, row.study_id) for row in rows_of(batch)] == [("done", image.study_id)]
    assert_sound(read_batch(batch))


def test_two_patients_with_one_study_uid_are_two_studies(site_id: uuid.UUID) -> None:
    study = "1.2.826.0.1.3680043.8.498.5"
    batch = read(
        site_id,
        {
            "a.dcm": dicom(1, "hand", study, 1, PatientID="A-1"),
            "b.dcm": dicom(2, "hand", study, 2, PatientID="B-2"),
        },
    )
    images = by_path(batch)
    assert images["a.dcm"].study_id != images["b.dcm"].study_id
    for row in rows_of(batch):
        assert row.n_images == 1
        assert "study_identity_conflict" in row.flags
    texts = [pdf_text(finding_of(image, batch.bundle)) for image in images.values()]
    assert any("study_identity_conflict" in text for text in texts)


def test_a_manifest_that_contradicts_the_header_is_flagged(site_id: uuid.UUID) -> None:
    batch = draft(site_id, {"a.dcm": dicom(1, "hand", "1.2.3.10", 1, AccessionNumber="H-1")})
    with session_scope() as session:
        batches.set_manifest(session, batch.id, site_id, [ManifestRow("a.dcm", accession="M-9")])
        batches.submit(session, batch.id, site_id)
    work_off(batch)
    image = images_of(batch)[0]
    assert (image.accession, "manifest_contradicts_header" in image.flags) == ("H-1", True)
