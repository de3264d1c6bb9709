"""Evaluations: what a run's bundles said, joined with the labels, as figures and tables; and comparisons.

The only place where scores and labels meet.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.bundle import Bundle, load_bundle
from models.fitted_on import FittedOn, FoundBy, fitted_on
from pipeline import comparison, evaluation
from pipeline.evaluation import CUT, Record
from settings import get_settings
from store.base.blobs import get_blobs
from store.base.cells import cell
from store.base.session import session_scope
from store.base.tables import Finding, Image
from store.bundles.bundles import fetch_bundle
from store.queue import work
from store.queue.work import Lease
from store.research import runs
from store.research.research_tables import Comparison, DatasetImage, DatasetLabel, FindingScore, Run, RunFile

COLUMNS = (
    *("path", "sha256", "study", "patient", "region", "label"),
    *("seen_region", "probability", "low", "high", "read_by_service", "error", "fitted_on"),
)


@lru_cache(maxsize=8)
def _bundle(name: str) -> Bundle:
    return load_bundle(fetch_bundle(name, get_settings().cache_folder / "bundles"))


def records(session: Session, run: Run, bundle: Bundle) -> list[Record]:
    """Return what a bundle said of each image of a run's part, missing and broken ones too."""
    query = (
        select(DatasetImage, DatasetLabel.value, Finding)
        .outerjoin(
            DatasetLabel, (DatasetLabel.image_id == DatasetImage.id) & (DatasetLabel.name == run.label)
        )
        .outerjoin(Image, (Image.dataset_image_id == DatasetImage.id) & (Image.batch_id == run.batch_id))
        .outerjoin(
            Finding,
            (Finding.site_id == run.site_id)
            & (Finding.sha256 == Image.sha256)
            & (Finding.bundle == bundle.name)
            & (Finding.precision == runs.PRECISION),
        )
        .where(DatasetImage.dataset_id == run.dataset_id)
    )
    if run.part:
        query = query.where(DatasetImage.part == run.part)
    rows = session.execute(query).all()
    forced: dict[uuid.UUID, dict[str, float]] = {}
    scores = (
        select(FindingScore.finding_id, FindingScore.network, FindingScore.logit)
        .join(Finding, Finding.id == FindingScore.finding_id)
        .where(Finding.site_id == run.site_id, Finding.bundle == bundle.name)
    )
    for finding_id, network, logit in session.execute(scores):
        forced.setdefault(finding_id, {})[network] = logit
    said = []
    for image, label, finding in rows:
        score, others, seen = None, None, ""
        if finding is not None:
            logits = dict(forced.get(finding.id, {}))
            if finding.logit is not None:
                logits[finding.network] = finding.logit
            seen = finding.region
            score, others = evaluation.scores_of(
                bundle.models,
                finding.region_probabilities,
                logits,
                read=finding.not_assessable is None,
                region=image.region,
            )
        said.append(
            Record(
                image.path,
                image.sha256 or "",
                image.study,
                image.patient,
                image.region,
                label,
                seen,
                score,
                others if run.with_routing else None,
                image.look,
            )
        )
    return said


def _found(fitted: FittedOn, said: Sequence[Record]) -> dict[str, FoundBy]:
    """Return the names of images that a bundle was fitted on, and how each was found."""
    found = fitted.find([(record.sha256, record.look) for record in said])
    return {record.name: how for record, how in zip(said, found, strict=True) if how is not None}


def _table(said: Sequence[Record], found: Mapping[str, FoundBy]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for r in sorted(said, key=lambda r: r.name):
        fixed = (r.name, r.sha256, r.study, r.patient, r.region, r.label, r.seen or None)
        if r.score is None:
            score: tuple[object, ...] = (None, None, None, False, "not scored")
        else:
            score = (r.score.probability, r.score.low, r.score.high, r.score.read, None)
        rows.append((*fixed, *score, found.get(r.name)))
    return rows


def _csv(lines: Iterable[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [cell(v) if isinstance(v, str) else int(v) if isinstance(v, bool) else v for v in line]
        for line in lines
    )
    return buffer.getvalue().encode()


def tables(bundle: str, said: Sequence[Record], found: Mapping[str, FoundBy]) -> dict[str, bytes]:
    """Return a bundle's tables by file name: MURA's predictions, studies, images as CSV and Parquet.

    `found` names the images that the bundle was fitted on, and how each was found.
    """
    studies = evaluation.studies_of(said)
    rows = _table(said, found)
    parquet = io.BytesIO()
    pq.write_table(pa.table({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)}), parquet)
    heads = ("study", "patient", "region", "label", "probability", "abnormal", "images")
    return {
        f"{bundle}-predictions.csv": ("\n".join(evaluation.prediction_lines(studies)) + "\n").encode(),
        f"{bundle}-studies.csv": _csv(
            [
                heads,
                *(
                    (
                        s.study,
                        s.patient,
                        s.region,
                        s.label,
                        s.probability,
                        None if s.probability is None else s.probability > CUT,
                        s.n_images,
                    )
                    for s in sorted(studies, key=lambda s: s.study)
                ),
            ]
        ),
        f"{bundle}-images.csv": _csv([COLUMNS, *rows]),
        f"{bundle}-images.parquet": parquet.getvalue(),
    }


def evaluate(lease: Lease) -> bool:
    """Write the figures and tables of a run, or the figures of a comparison: whichever the unit is about."""
    with session_scope() as session:
        run = session.get(Run, lease.subject_id)
        compared = session.get(Comparison, lease.subject_id)
    if run is not None:
        _evaluate_run(lease, run)
    elif compared is not None:
        _compare(lease, compared)
    return False


def _evaluate_run(lease: Lease, run: Run) -> None:
    figures, files = {}, []
    for name in run.bundles:
        bundle = _bundle(name)
        with session_scope() as session:
            said = records(session, run, bundle)
        figures[name] = {"label_meaning": bundle.label_meaning, **evaluation.evaluate(said)}
        fitted = fitted_on(bundle)
        found = _found(fitted, said)
        ways = Counter(found.values())
        figures[name]["fitted_on_overlap"] = len(found)
        figures[name]["fitted_on"] = {
            "by_file": ways[FoundBy.FILE],
            "by_look": ways[FoundBy.LOOK],
            "without_look": sum(record.look is None for record in said),
            "images": len(fitted.digests),
            "looks": len(fitted.looks),
        }
        for file, data in tables(name, said, found).items():
            key = f"runs/{run.site_id}/{run.id}/{file}"
            sha256, size = get_blobs().put(key, data)
            files.append({"run_id": run.id, "name": file, "key": key, "sha256": sha256, "size": size})
    with session_scope() as session:
        work.end_unit(session, lease)
        held = session.get_one(Run, run.id, with_for_update=True)
        held.figures, held.evaluated_at = figures, func.clock_timestamp()
        row = insert(RunFile).values(files)
        session.execute(
            row.on_conflict_do_update(
                index_elements=["run_id", "name"],
                set_={column: row.excluded[column] for column in ("key", "sha256", "size")},
            )
        )
        session.flush()
        session.refresh(held)
        if not runs.list_comparisons(session, run.site_id, run.id):
            for other in run.bundles[1:]:
                runs.start_comparison(
                    session, run.site_id, run.user_id, (held, run.bundles[0]), (held, other), runs.MARGIN
                )


def _compare(lease: Lease, compared: Comparison) -> None:
    sides = []
    for run_id, name in (
        (compared.run_a, compared.bundle_a),
        (compared.run_b, compared.bundle_b),
    ):
        with session_scope() as session:
            run = session.get_one(Run, run_id)
            sides.append(records(session, run, _bundle(name)))
            numbers = {
                path: number
                for path, number in session.execute(
                    select(DatasetImage.path, DatasetImage.number).where(
                        DatasetImage.dataset_id == run.dataset_id
                    )
                )
            }
            dataset = run.made_with["dataset"]
    bundles = _bundle(compared.bundle_a), _bundle(compared.bundle_b)
    fitted = [fitted_on(bundle) for bundle in bundles]
    found = [_found(each, sides[0]) for each in fitted]
    # what one bundle has by the file and the other by its look was found by the file
    figures = comparison.compare(
        *sides,
        margin=compared.margin,
        fitted_on={name: min(each[name] for each in found if name in each) for name in found[0] | found[1]},
    )
    figures["overlap"]["bundles_without_looks"] = sorted(
        {bundle.name for bundle, each in zip(bundles, fitted, strict=True) if not each.has_all_looks}
    )
    for changed in figures["changed_images"]:
        changed["number"] = numbers[changed["name"]]
    figures["label_meanings"] = {
        "a": bundles[0].label_meaning,
        "b": bundles[1].label_meaning,
        "dataset": dataset["label_meaning"],
    }
    with session_scope() as session:
        work.end_unit(session, lease)
        held = session.get_one(Comparison, compared.id, with_for_update=True)
        held.figures, held.evaluated_at = figures, func.clock_timestamp()
