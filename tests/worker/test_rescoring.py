"""Runs over data sets: several bundles in one decode, nothing twice, forced scores, figures, comparisons."""

from __future__ import annotations

import csv
import hashlib
import io
import random
import uuid
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update

from cli.datasets import _scan, look
from models.bundle import load_bundle
from models.fitted_on import FittedOn
from models.scorer import open_scorer
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline import evaluation
from pipeline.evaluation import study_name
from pipeline.lookalikes import look_of
from store.base.blobs import get_blobs
from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Site, Study, Work, WorkKind
from store.bundles.bundles import add_bundle
from store.operations import fsck
from store.research import comparisons, datasets, run_deletion, runs
from store.research.datasets import NewImage
from store.research.research_tables import (
    Comparison,
    Dataset,
    DatasetImage,
    DatasetLabel,
    FindingScore,
    Run,
    RunPicture,
)
from tests.bundles import write_untrained_bundle
from tests.running import assert_sound, images_of, read_batch
from tests.worker.test_reading import read, work_off
from training import rescore
from training.datasets import Dataset as ReadDataset
from training.datasets import Example
from worker.research import evaluations

OTHER = "untrained-2"


@pytest.fixture(scope="session")
def picky_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another input size, and a routing by which the service would read nothing."""
    folder = tmp_path_factory.mktemp("picky") / OTHER
    return write_untrained_bundle(folder, OTHER, seed=8, size=128, min_probability=1.0)


@pytest.fixture
def bundles(site_id: uuid.UUID, picky_bundle: Path) -> list[str]:
    add_bundle(picky_bundle)
    return ["untrained-1", OTHER]


def register(
    site_id: uuid.UUID, folder: Path, name: str = "ours", *, images: int = 12, shuffle: int | None = None
) -> Dataset:
    """Write phantoms as MURA lays them out, two a study, and register them; the first twice."""
    labels = [study % 2 == 0 for study in range(images // 2)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(labels)
    new = []
    for n in range(images):
        study, region = n // 2, ("hand", "leg")[(n // 2) % 2]
        word = "positive" if labels[study] else "negative"
        prefix = "" if shuffle is None else f"renamed{n * 7919 % 101}_"
        path = (
            f"valid/XR_{region.upper()}/patient{study // 2:05d}/study{study % 2 + 1}_{word}/{prefix}{n}.png"
        )
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        seed = 0 if n == images - 1 else n  # the last one's bytes are the first one's
        (folder / path).write_bytes(
            encode_phantom(make_phantom(seed, region if seed else "hand", size=(160, 160)))
        )
        folder_of = study_name(path, "", mura=True)
        new.append(NewImage(path, folder_of, f"patient{study // 2}", region, "valid", labels[study]))
    broken = "valid/XR_HAND/patient00099/study1_positive/broken.png"
    (folder / broken).parent.mkdir(parents=True, exist_ok=True)
    (folder / broken).write_bytes(b"\x89PNG\r\n\x1a\nno more")
    gone = broken.replace("broken", "gone")
    new += [
        NewImage(p, study_name(p, "", mura=True), "patient99", "hand", "valid", True) for p in (broken, gone)
    ]
    with session_scope() as session:
        dataset = datasets.add_dataset(
            session,
            site_id,
            name=name,
            root=folder.as_uri(),
            format="mura",
            label_meaning="abnormal",
            images=new,
            left_out={},
        )
    with session_scope() as session:
        waiting = datasets.waiting(session, dataset.id, 1000)
        datasets.save_scan_results(
            session, dataset.id, [look(dataset.root, image.id, image.path) for image in waiting]
        )
        return datasets.end_scan(session, dataset.id)


def start(dataset: Dataset, names: list[str], **options: object) -> tuple[Run, Batch]:
    from worker.research import rescoring  # noqa: F401 - plugs into the stages, as it does in a worker

    with session_scope() as session:
        run = runs.start_run(session, dataset.site_id, None, dataset, names, **options)  # type: ignore[arg-type]
        return run, session.get_one(Batch, run.batch_id)


def evaluate(subject_id: uuid.UUID) -> None:
    """Do the evaluations that wait, as a worker would."""
    from worker import flow
    from worker.research import evaluations

    with session_scope() as session:
        unit = session.scalars(
            select(Work).where(Work.subject_id == subject_id, Work.kind == WorkKind.EVALUATE)
        ).one()
    flow.run(unit.id, None, evaluations.evaluate)
    with session_scope() as session:
        assert session.get_one(Work, unit.id).state == "done"


def score(dataset: Dataset, names: list[str], **options: object) -> Run:
    run, batch = start(dataset, names, **options)
    assert work_off(batch).status == "done"
    evaluate(run.id)
    with session_scope() as session:
        return session.get_one(Run, run.id)


def table(run: Run, name: str) -> bytes:
    with session_scope() as session:
        return get_blobs().get(runs.get_file(session, run.id, name).key)


def test_two_bundles_score_a_data_set_in_one_batch(site_id, bundles, tmp_path):
    dataset = register(site_id, tmp_path / "mura")
    with session_scope() as session:
        assert datasets.contents(session, dataset).problems == {"truncated": 1, "missing": 1}
    run = score(dataset, bundles, with_routing=True)
    with session_scope() as session:
        batch = session.get_one(Batch, run.batch_id)
        assert (batch.n_total, batch.n_done, batch.priority) == (12, 12, 2)
        # 12 images, 11 different ones: each through each region network and each fracture network once
        assert session.scalar(select(func.count()).select_from(Finding)) == 22
        assert (run.classified, run.detected) == (22, 22)
        # the picky bundle's service reads nothing, so that its scores are no findings
        assert session.scalar(select(func.count()).select_from(FindingScore)) == 11
        assert not session.scalars(
            select(Finding.logit).where(Finding.bundle == OTHER, Finding.logit.is_not(None))
        ).all()
        assert not session.scalars(select(Study)).all()
    mine, picky = (run.figures[name] for name in bundles)
    assert {key: mine["coverage"][key] for key in ("images", "read", "forced", "unscored")} == {
        "images": 14,
        "read": 12,
        "forced": 0,
        "unscored": 2,
    }
    assert (picky["coverage"]["read"], picky["coverage"]["forced"]) == (0, 12)
    assert mine["coverage"]["studies_unscored"] == 1
    assert sum(mine["study"]["pooled"]["confusion"].values()) == 7
    assert mine["routing"]["images"] == 12
    assert set(mine["study"]["regions"]) == {"hand", "leg"}
    assert fsck.check().clean


def test_the_tables_are_mura_s_and_one_line_an_image(site_id, bundles, tmp_path):
    run = score(register(site_id, tmp_path / "mura"), bundles[:1])
    lines = table(run, "untrained-1-predictions.csv").decode().splitlines()
    assert len(lines) == 7
    assert all(line.startswith("MURA-v1.1/valid/XR_") and line[-3:] in {"/,0", "/,1"} for line in lines)
    rows = list(csv.DictReader(io.StringIO(table(run, "untrained-1-images.csv").decode())))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert sum(row["error"] == "not scored" for row in rows) == 2
    columns = pq.read_table(io.BytesIO(table(run, "untrained-1-images.parquet"))).to_pydict()
    assert columns["path"] == [row["path"] for row in rows]
    assert [p for p in columns["probability"] if p is not None] == [
        float(row["probability"]) for row in rows if row["probability"]
    ]
    # by MURA's rule
    studies: dict[str, list[float]] = {}
    for row in rows:
        studies.setdefault(row["study"], []).extend([float(row["probability"])] if row["probability"] else [])
    said = dict(line.rsplit("/,", 1) for line in lines)
    assert said == {s: str(int(bool(p) and sum(p) / len(p) > 0.5)) for s, p in studies.items()}


def test_names_of_a_data_set_are_no_formulas():
    said = [evaluation.Record("=1+1.png", "a" * 64, "@study", "-p", "hand", True, "hand", None)]
    made = evaluations.tables("b1", said, {})
    rows = list(csv.DictReader(io.StringIO(made["b1-images.csv"].decode())))
    assert [rows[0][name] for name in ("path", "study", "patient")] == ["'=1+1.png", "'@study", "'-p"]
    assert b"'@study,'-p," in made["b1-studies.csv"]
    parquet = pq.read_table(io.BytesIO(made["b1-images.parquet"])).to_pydict()
    assert parquet["path"] == ["=1+1.png"], "no spreadsheet reads this"


def test_the_figures_are_those_of_the_command_that_measures_files(site_id, bundles, picky_bundle, tmp_path):
    dataset = register(site_id, tmp_path / "mura")
    run = score(dataset, [OTHER], with_routing=True)
    with session_scope() as session:
        rows = session.execute(
            select(DatasetImage, DatasetLabel.value).join(
                DatasetLabel, DatasetLabel.image_id == DatasetImage.id
            )
        ).all()
    examples = tuple(
        Example(i.path, tmp_path / "mura" / i.path, (i.region,), label, i.patient, "", patient=i.patient)
        for i, label in rows
        if i.problem != datasets.MISSING
    )
    said = rescore.records(
        open_scorer(load_bundle(picky_bundle)), ReadDataset("MURA", examples, {}), routing=True
    )
    measured = evaluation.evaluate(said)
    figures = run.figures[OTHER]
    assert figures["coverage"]["images"] == measured["coverage"]["images"] + 1  # the missing one
    assert figures["region_confusion"] == measured["region_confusion"]
    here = {r["path"]: r for r in csv.DictReader(io.StringIO(table(run, f"{OTHER}-images.csv").decode()))}
    for record in said:
        row = here[str(Path(record.name).relative_to(tmp_path / "mura"))]
        if record.score is not None:
            assert float(row["probability"]) == pytest.approx(record.score.probability, abs=1e-6)
    for key, figure in measured["image"]["pooled"]["figures"].items():
        assert figures["image"]["pooled"]["figures"][key]["value"] == pytest.approx(figure["value"], abs=1e-6)


def test_what_a_bundle_has_scored_is_not_scored_again(site_id, bundles, tmp_path):
    dataset = register(site_id, tmp_path / "mura")
    first = score(dataset, bundles[:1])
    assert (first.classified, first.detected) == (11, 11)
    again = score(dataset, bundles)
    assert (again.classified, again.detected) == (11, 11)  # the other bundle's alone
    assert again.figures["untrained-1"] == first.figures["untrained-1"]


def test_labels_and_paths_do_not_reach_the_scoring_side(site_id, bundles, tmp_path):
    run = score(register(site_id, tmp_path / "mura"), bundles)
    with session_scope() as session:
        other = Site(id=uuid.uuid4(), name="Other hospital", default_bundle="untrained-1")
        session.add(other)
    shuffled = score(register(other.id, tmp_path / "shuffled", shuffle=3), bundles)
    assert shuffled.detected == run.detected  # nothing was shared between the sites
    with session_scope() as session:
        said = {
            site: sorted(
                session.execute(
                    select(Finding.sha256, Finding.bundle, Finding.region, Finding.logit, FindingScore.logit)
                    .outerjoin(FindingScore, FindingScore.finding_id == Finding.id)
                    .where(Finding.site_id == site)
                ).all(),
                key=str,
            )
            for site in (site_id, other.id)
        }
        names = session.scalars(select(Image.path)).all()
    assert said[site_id] == said[other.id]
    assert len(said[site_id]) == 22
    assert all(name.isdigit() for name in names)
    assert (
        run.figures["untrained-1"]["study"] != shuffled.figures["untrained-1"]["study"]
    )  # the labels count here


def test_a_comparison_is_made_of_every_run_with_two_bundles(site_id, bundles, tmp_path):
    run = score(register(site_id, tmp_path / "mura"), bundles)
    with session_scope() as session:
        compared = session.scalars(select(Comparison)).one()
    evaluate(compared.id)
    with session_scope() as session:
        figures = runs.get_comparison(session, site_id, compared.id).figures
    a, b = (run.figures[name]["study"]["pooled"]["figures"]["auc"]["value"] for name in bundles)
    assert figures["pooled"]["difference"] == pytest.approx(b - a, abs=1e-12)
    assert figures["label_meanings"] == {"a": "fractured", "b": "fractured", "dataset": "abnormal"}
    assert figures["verdict"] in {
        "better",
        "worse",
        "not distinguishable",
        "not distinguishable, non-inferior",
    }
    for changed in figures["changed_images"]:
        assert (changed["a"] > 0.5) != (changed["b"] > 0.5)
        assert isinstance(changed["number"], int)


def test_images_that_a_bundle_was_fitted_on_are_found_by_file_and_by_look(
    site_id, bundles, tmp_path, monkeypatch
):
    from worker.research import evaluations

    dataset = register(site_id, tmp_path / "mura")
    pictures = sorted((tmp_path / "mura").rglob("*.png"))
    kept, trained_on = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in pictures[:2])
    digest = hashlib.sha256(pictures[0].read_bytes()).hexdigest()[:12]
    look = look_of(cv2.resize(trained_on, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))
    known = FittedOn(frozenset({digest, "0" * 12}), (look_of(kept), look))
    monkeypatch.setattr(evaluations, "fitted_on", lambda bundle: known)
    run = score(dataset, bundles)
    told = run.figures["untrained-1"]
    rows = list(csv.DictReader(io.StringIO(table(run, "untrained-1-images.csv").decode())))
    names = {path.relative_to(tmp_path / "mura").as_posix() for path in pictures[:2]}
    how = {row["path"]: row["fitted_on"] for row in rows if row["fitted_on"]}
    same_bytes = {row["path"] for row in rows if row["sha256"][:12] == digest}
    assert how == {**dict.fromkeys(names, "look"), **dict.fromkeys(same_bytes, "file")}
    assert told["fitted_on_overlap"] == len(how)
    assert told["fitted_on"] == {
        "by_file": len(same_bytes),
        "by_look": 1,
        "without_look": 2,  # one is broken and one is gone
        "images": 2,
        "looks": 2,
    }
    with session_scope() as session:
        compared = session.scalars(select(Comparison)).one()
    evaluate(compared.id)
    with session_scope() as session:
        overlap = runs.get_comparison(session, site_id, compared.id).figures["overlap"]
    assert (overlap["by_file"], overlap["by_look"]) == (len(same_bytes), 1)
    assert set(overlap["named"]) == same_bytes
    assert set(overlap["named_alike"]) == names - same_bytes
    assert overlap["bundles_without_looks"] == []


def test_a_data_set_of_before_is_looked_at_when_it_is_added_again(site_id, bundles, tmp_path):
    dataset = register(site_id, tmp_path / "mura", images=4)
    pictures = sorted((tmp_path / "mura").rglob("*.png"))
    with session_scope() as session:
        session.execute(update(DatasetImage).values(look=None))
        assert datasets.contents(session, dataset).without_look == 4
    pictures[0].write_bytes(encode_phantom(make_phantom(99, "hand", size=(160, 160))))
    _scan(dataset)
    with session_scope() as session:
        inside = datasets.contents(session, dataset)
        images = session.scalars(select(DatasetImage).where(DatasetImage.path.like("%1.png"))).all()
        again = session.get_one(type(dataset), dataset.id)
    assert inside.without_look == 0
    assert inside.problems["missing"] == 2  # what was altered since is not what was registered
    assert again.sha256 == dataset.sha256
    assert again.n_seen == again.n_images
    assert all(image.sha256 for image in images)


def test_an_altered_or_missing_file_is_rejected_and_counts_as_unscored(site_id, bundles, tmp_path):
    dataset = register(site_id, tmp_path / "mura")
    pictures = sorted((tmp_path / "mura").rglob("*.png"))
    victims = [p for p in pictures if p.name in {"1.png", "2.png"}]
    victims[0].write_bytes(encode_phantom(make_phantom(99, "hand", size=(160, 160))))
    victims[1].unlink()
    run = score(dataset, bundles[:1])
    batch = read_batch(Batch(id=run.batch_id))
    assert (batch.n_done, batch.n_rejected) == (10, 2)
    assert {image.reason for image in images_of(batch) if image.status == "rejected"} == {"source_changed"}
    assert run.figures["untrained-1"]["coverage"]["unscored"] == 4


def test_reports_and_heat_maps_are_made_when_they_are_asked_for(site_id, bundles, tmp_path):
    run = score(
        register(site_id, tmp_path / "mura", images=4), bundles[:1], with_report=True, with_heatmap=True
    )
    batch = read_batch(Batch(id=run.batch_id))
    images = images_of(batch)
    assert all(image.overlay_key and image.study_id for image in images)
    assert len({image.study_id for image in images}) == 2
    assert_sound(batch)


def test_attention_maps_are_kept_for_every_bundle_of_a_run(site_id, bundles, tmp_path):
    run = score(register(site_id, tmp_path / "mura", images=4), bundles, with_heatmap=True, with_routing=True)
    with session_scope() as session:
        kept = session.scalars(select(RunPicture).order_by(RunPicture.bundle, RunPicture.image_id)).all()
        assert sorted(p.bundle for p in kept) == sorted(bundles * 4)
        number = session.scalars(select(DatasetImage.number).where(DatasetImage.problem.is_(None))).first()
        shown = comparisons.image_of(session, run, number)
        assert [(said.bundle, said.forced, said.kept) for said in shown.said] == [
            ("untrained-1", False, True),
            (OTHER, True, True),  # its service would not have read the image
        ]
        assert all(said.cam for said in shown.said)
        one, other = (comparisons.picture_of(session, run, number, name) for name in bundles)
        with pytest.raises(NotFound):
            comparisons.picture_of(session, run, number, "nobody")
    assert get_blobs().get(one.key)[:2] == get_blobs().get(other.key)[:2] == b"\xff\xd8"
    assert one.key != other.key  # untrained networks may look alike
    assert fsck.check().clean


def blobs_of(run: Run) -> list[str]:
    """Return the keys of what a run has stored."""
    with session_scope() as session:
        images = session.scalars(select(Image.id).where(Image.batch_id == run.batch_id)).all()
    return [k for k in get_blobs().keys("") if str(run.id) in k or any(str(i) in k for i in images)]


def delete(run: Run) -> None:
    with session_scope() as session:
        run_deletion.delete_run(session, runs.get_run(session, run.site_id, run.id))
    while run_deletion.step():
        pass


def test_a_deleted_run_takes_along_what_nothing_else_stands_on(site_id, bundles, tmp_path):
    dataset = register(site_id, tmp_path / "mura")
    first = score(dataset, bundles, with_heatmap=True, with_report=True)
    second = score(dataset, bundles[:1])
    clinical = read(site_id, {"a.png": encode_phantom(make_phantom(50, "hand", size=(160, 160)))})
    with session_scope() as session:
        compared = session.scalars(select(Comparison)).one()
        with pytest.raises(run_deletion.RunInUse):  # the comparison of its two bundles waits to be made
            run_deletion.delete_run(session, runs.get_run(session, site_id, first.id))
    evaluate(compared.id)
    assert blobs_of(first)
    delete(first)
    assert not blobs_of(first)
    with session_scope() as session:
        assert session.get(Run, first.id) is None
        assert not session.scalars(select(Comparison)).all()
        assert session.scalars(select(Batch.id).where(Batch.run_id.is_not(None))).all() == [second.batch_id]
        # the second run and the clinical image stand on the same findings, or on others
        assert session.scalar(select(func.count()).select_from(Finding)) == 22 + 1
        assert session.scalars(select(Study.id)).all() == [images_of(clinical)[0].study_id]
        with pytest.raises(datasets.DatasetInUse):
            datasets.remove_dataset(session, dataset)
    assert fsck.check().clean
    delete(second)
    with session_scope() as session:
        datasets.remove_dataset(session, session.get_one(Dataset, dataset.id))
        assert session.scalar(select(func.count()).select_from(Finding)) == 1
        assert not session.scalars(select(DatasetImage)).all()
    assert fsck.check().clean
    assert_sound(clinical)
    assert len(list((tmp_path / "mura").rglob("*.png"))) == 13


def test_a_run_that_goes_on_is_not_deleted(site_id, bundles, tmp_path):
    run, batch = start(register(site_id, tmp_path / "mura", images=4), bundles[:1])
    with session_scope() as session, pytest.raises(run_deletion.RunInUse):
        run_deletion.delete_run(session, runs.get_run(session, site_id, run.id))
    with session_scope() as session:
        runs.act(session, runs.get_run(session, site_id, run.id), "cancel")
    work_off(batch)
    delete(run)
    with session_scope() as session:
        assert not session.scalars(select(Image)).all()


def test_what_a_retry_has_read_goes_to_the_shadow_bundle_too(site_id, bundles):
    with session_scope() as session:
        session.get_one(Site, site_id).shadow_bundle = OTHER
    files = {f"{n}.png": encode_phantom(make_phantom(n, "hand", size=(160, 160))) for n in range(3)}
    clinical = read(site_id, files)
    with session_scope() as session:
        batch = session.get_one(Batch, clinical.id)
        quiet = session.scalars(select(Batch).where(Batch.run_id.is_not(None))).one()
        assert quiet.n_total == 3
        assert runs.shadow_batch(session, batch) is None  # a round that has read nothing new
        late = session.scalars(select(Image).where(Image.batch_id == quiet.id).limit(1)).one()
        wanted = late.sha256
        session.delete(late)  # as if the first round had failed to read it
        session.flush()
        more = runs.shadow_batch(session, batch)
        assert more is not None
        assert (more.run_id, more.n_total) == (quiet.run_id, 1)
        assert session.scalars(select(Image.sha256).where(Image.batch_id == more.id)).all() == [wanted]
        session.rollback()


def test_a_shadow_bundle_scores_the_same_traffic_quietly(site_id, bundles, untrained_bundle):
    with session_scope() as session:
        session.get_one(Site, site_id).shadow_bundle = OTHER
    clinical = read(site_id, {"a.png": encode_phantom(make_phantom(1, "hand", size=(160, 160)))})
    with session_scope() as session:
        quiet = session.scalars(select(Batch).where(Batch.run_id.is_not(None))).one()
    assert (quiet.bundle, quiet.priority, quiet.label) == (OTHER, 2, str(clinical.id))
    work_off(quiet)
    with session_scope() as session:
        image = session.scalars(select(Image).where(Image.batch_id == quiet.id)).one()
        assert (image.status, image.original_key, image.display_key) == ("done", None, None)
        assert session.scalars(select(Batch).where(Batch.run_id.is_not(None))).one()  # it casts none itself
    assert fsck.check().clean
