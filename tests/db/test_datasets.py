"""`fractureai datasets` on a real database: registering, going on, what is wrong, and where labels stand."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import inspect, select

from cli.datasets import datasets as command
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from store.base.session import session_scope
from store.base.tables import Batch, Image
from store.bundles.bundles import list_bundles
from store.research import datasets, runs
from store.research.research_tables import Dataset, DatasetImage, DatasetLabel, RunKind
from tests.db.test_blobs import s3_endpoint
from tests.unit.test_dataset_readers import fracatlas
from training.mura_layout import plan_images, write_mura

__all__ = ["fracatlas", "s3_endpoint"]


@pytest.fixture(scope="module")
def mura(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four small phantoms laid out as MURA is."""
    return write_mura(tmp_path_factory.mktemp("mura"), plan_images(24, valid_share=0.4), longest=128, jobs=1)


@pytest.fixture
def copy(mura: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mura, tmp_path / "MURA-v1.1"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def rows() -> list[DatasetImage]:
    with session_scope() as session:
        return list(session.scalars(select(DatasetImage).order_by(DatasetImage.path)))


def test_mura_is_registered_as_published(site, copy):
    first = next(copy.glob("valid/**/*.png"))
    (copy / "__MACOSX").mkdir()
    (first.parent / "._image1.png").write_bytes(b"resource fork")
    gone = sorted(copy.glob("train/**/*.png"))[0]
    gone.unlink()
    answer = run("add", "mura", copy, "--format", "mura")
    assert answer.exit_code == 0, answer.output
    assert "23 images" in answer.output
    assert "left out: 1 listed, file missing" in answer.output
    found = rows()
    assert {row.part for row in found} == {"train", "valid"}
    assert all(row.sha256 and row.study.startswith("MURA-v1.1/") for row in found)
    with session_scope() as session:
        labels = dict(session.execute(select(DatasetLabel.image_id, DatasetLabel.value)).all())
    assert labels == {row.id: "_positive" in row.path for row in found}


def test_fracatlas_is_registered_as_published(site, fracatlas):
    images = fracatlas / "images"
    whole = encode_phantom(make_phantom(1, "hand", size=(160, 160)), "jpeg")
    (images / "Non_fractured" / "IMG3.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "Non_fractured" / "IMG2.jpg").unlink()
    (images / "Fractured" / "._IMG0.jpg").write_bytes(b"resource fork")
    (fracatlas.parent / "__MACOSX").mkdir()
    answer = run("add", "atlas", fracatlas.parent)  # the folder that the archive was unpacked in
    assert answer.exit_code == 0, answer.output
    for words in (
        "atlas: 3 images, 3 studies, 3 patients",
        "a positive means fractured",
        "left out: 1 listed, file missing",
        "left out: 1 hidden or system file",
        "unusable: 1 truncated",
        "truncated: FracAtlas/images/Non_fractured/IMG3.jpg",
    ):
        assert words in answer.output, answer.output
    assert [(row.path, row.region, row.study) for row in rows()][:2] == [
        ("FracAtlas/images/Fractured/IMG0.jpg", "hand", "IMG0.jpg"),
        ("FracAtlas/images/Fractured/IMG1.jpg", "hand+leg", "IMG1.jpg"),
    ]


def test_a_scan_that_was_broken_off_goes_on_and_comes_to_the_same(site, copy):
    run("add", "whole", copy)
    with session_scope() as session:
        whole = datasets.get_dataset(session, site, "whole")
    run("add", "broken", copy)
    with session_scope() as session:
        broken = datasets.get_dataset(session, site, "broken")
        for image in session.scalars(
            select(DatasetImage).where(DatasetImage.dataset_id == broken.id).limit(5)
        ):
            image.sha256 = image.size = image.look = None
        broken.sha256, broken.n_seen = None, 19
    assert run("add", "broken", copy).exit_code == 0
    with session_scope() as session:
        again = datasets.get_dataset(session, site, "broken")
    assert (again.sha256, again.n_seen) == (whole.sha256, 24)


def test_another_folder_under_a_taken_name_is_refused(site, copy, tmp_path):
    run("add", "mura", copy)
    other = shutil.copytree(copy, tmp_path / "other" / "MURA-v1.1")
    answer = run("add", "mura", other)
    assert answer.exit_code == 4
    assert "dataset_exists" in answer.output


def test_broken_and_vanished_files_are_named(site, copy):
    pictures = sorted(copy.glob("train/**/*.png"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])
    assert "unusable: 1 truncated" in run("add", "mura", copy).output
    assert f"truncated: {pictures[0].relative_to(copy)}" in run("show", "mura").output


def test_a_data_set_is_forgotten_unless_runs_stand_on_it(site, copy):
    run("add", "mura", copy)
    assert run("list").output.startswith("mura\tmura\t24\t24\tabnormal")
    with session_scope() as session:
        dataset = datasets.get_dataset(session, site, "mura")
        made = runs.start_run(session, site, None, dataset, [list_bundles(session)[0].name], part="valid")
        assert made.kind == RunKind.DATASET
    assert "dataset_in_use" in run("remove", "mura").output
    run("add", "other", copy)
    assert run("remove", "other").exit_code == 0
    with session_scope() as session:
        assert [d.name for d in session.scalars(select(Dataset))] == ["mura"]
    assert len(list(copy.rglob("*.png"))) == 24


def test_what_scoring_is_given_tells_no_label(site, copy):
    """Neither the batch's rows nor their order, and no column of theirs could hold it."""
    run("add", "mura", copy)
    with session_scope() as session:
        dataset = datasets.get_dataset(session, site, "mura")
        made = runs.start_run(session, site, None, dataset, [list_bundles(session)[0].name])
        images = session.scalars(select(Image).where(Image.batch_id == made.batch_id)).all()
        batch = session.get_one(Batch, made.batch_id)
    assert (batch.n_total, batch.status, batch.priority) == (24, "queued", 2)
    assert {image.path for image in images} == {f"{n:08d}" for n in range(1, 25)}
    for image in images:
        said = {name: value for name, value in inspect(image).dict.items() if isinstance(value, str)}
        assert not any(word in str(said.values()) for word in ("positive", "negative", "patient", "XR_"))
    by_number = [row.path for row in sorted(rows(), key=lambda r: r.number)]
    assert by_number != sorted(by_number)


def test_a_prefix_of_s3_is_read_where_it_lies(site, copy, s3_endpoint, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="radiographs")
    for path in copy.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "radiographs", f"mura/{path.relative_to(copy)}")
    answer = run("add", "far", f"s3://radiographs/mura?endpoint={s3_endpoint}", "--format", "mura")
    assert answer.exit_code == 0, answer.output
    run("add", "near", copy)
    with session_scope() as session:
        far, near = (datasets.get_dataset(session, site, name) for name in ("far", "near"))
        first = datasets.contents(session, far)
        image = session.scalars(select(DatasetImage).where(DatasetImage.dataset_id == far.id).limit(1)).one()
    assert (far.sha256, far.n_images) == (near.sha256, 24)
    assert first.problems == {}
    assert datasets.read_image(image.id) == (copy / image.path).read_bytes()


def test_a_foreign_site_sees_nothing(site, copy):
    run("add", "mura", copy)
    with session_scope() as session:
        assert datasets.list_datasets(session, uuid.uuid4()) == []
