"""Research as JSON: data sets, runs and comparisons; and which bundle serves. Its pages are beside it."""

from __future__ import annotations

import uuid

from flask import Blueprint, Response

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.errors import NotFound
from store.base.session import session_scope
from store.queue import dispatch
from store.research import comparisons, datasets, runs
from web.auth.identity import audit, identity, needs
from web.base.binding import LOCATION, Reply, operation, read_body, send
from web.contract.base import API
from web.contract.research import (
    Comparison,
    Comparisons,
    Dataset,
    Datasets,
    NewComparison,
    NewRun,
    Run,
    Runs,
    RunSummary,
    RunWithFiles,
)
from web.research.actions import act, compare, find_run, forget_dataset, forget_run, start

api = Blueprint("research_api", __name__, url_prefix=API)

_TAG = "Research"


# the API


@api.get("/datasets")
@operation(_TAG, "listDatasets", "List data sets.", {200: Reply("All.", Datasets)})
@needs(Permission.RESEARCH)
def list_datasets() -> Datasets:
    """List the site's data sets."""
    with session_scope() as session:
        found = datasets.list_datasets(session, identity().site_id)
        return Datasets(items=[Dataset.of(d, datasets.contents(session, d)) for d in found])


@api.get("/datasets/<uuid:dataset_id>")
@operation(_TAG, "getDataset", "Get one data set.", {200: Reply("It.", Dataset)})
@needs(Permission.RESEARCH)
def get_dataset(dataset_id: uuid.UUID) -> Dataset:
    """Answer one data set."""
    with session_scope() as session:
        found = datasets.get_dataset(session, identity().site_id, dataset_id)
        return Dataset.of(found, datasets.contents(session, found))


@api.delete("/datasets/<uuid:dataset_id>")
@operation(
    _TAG,
    "deleteDataset",
    "Forget a data set on which no run stands; its files are not touched.",
    {204: Reply("Forgotten.")},
)
@needs(Permission.RESEARCH)
def delete_dataset(dataset_id: uuid.UUID) -> None:
    """Forget a data set on which no run stands; its files are not touched."""
    forget_dataset(dataset_id)


@api.get("/runs")
@operation(_TAG, "listRuns", "List the latest runs.", {200: Reply("They.", Runs)})
@needs(Permission.RESEARCH)
def list_runs() -> Runs:
    """List the site's latest runs."""
    with session_scope() as session:
        found = runs.list_runs(session, identity().site_id)
    return Runs(items=[RunSummary.of(run, batch) for run, batch in found])


@api.post("/runs")
@operation(
    _TAG,
    "startRun",
    "Score a data set with some bundles, at low priority.",
    {201: Reply("The run.", Run, LOCATION)},
    body=NewRun,
)
@needs(Permission.RESEARCH)
def start_run() -> Response:
    """Start to score a data set."""
    body = read_body(NewRun)
    with session_scope() as session:
        run = start(session, body)
        session.flush()
        document = Run.of(run, runs.batch_of(session, run))
    dispatch.dispatch()
    return send(document, 201, Location=f"{API}/runs/{run.id}")


@api.get("/runs/<uuid:run_id>")
@operation(
    _TAG, "getRun", "Get a run: progress, figures, and what repeats them.", {200: Reply("It.", RunWithFiles)}
)
@needs(Permission.RESEARCH)
def get_run(run_id: uuid.UUID) -> RunWithFiles:
    """Answer one run with its figures and all that repeats them."""
    with session_scope() as session:
        run = find_run(session, run_id)
        return RunWithFiles.of(
            run,
            runs.batch_of(session, run),
            runs.files_of(session, run_id),
            runs.list_comparisons(session, identity().site_id, run_id),
        )


@api.delete("/runs/<uuid:run_id>")
@operation(
    _TAG,
    "deleteRun",
    "Delete a run that has ended, with all that it stored and its comparisons.",
    {204: Reply("Deleted.")},
)
@needs(Permission.RESEARCH)
def delete_run(run_id: uuid.UUID) -> None:
    """Delete a run that has ended, with its figures, tables, attention maps, reports and comparisons."""
    forget_run(run_id)


@api.post("/runs/<uuid:run_id>/<any(cancel,pause,resume,retry):action>")
@operation(
    _TAG,
    "{}Run",
    {action: f"{action.capitalize()} a run." for action in ("cancel", "pause", "resume", "retry")},
    {202: Reply("The run.", RunSummary)},
)
@needs(Permission.RESEARCH)
def act_on_run(run_id: uuid.UUID, action: str) -> RunSummary:
    """Cancel, pause, resume or retry a run."""
    act(run_id, action)
    with session_scope() as session:
        run = find_run(session, run_id)
        return RunSummary.of(run, runs.batch_of(session, run))


@api.get("/runs/<uuid:run_id>/files/<file>")
@operation(
    _TAG,
    "getRunFile",
    "Get a table: BUNDLE-predictions.csv, -studies.csv, -images.csv, -images.parquet.",
    {200: Reply("The table.", ("text/csv", "application/vnd.apache.parquet"))},
)
@needs(Permission.RESEARCH)
def get_file(run_id: uuid.UUID, file: str) -> Response:
    """Answer one of the tables that a run's evaluation wrote."""
    with session_scope() as session:
        found = runs.get_file(session, find_run(session, run_id).id, file)
        audit(session, "run_file_downloaded", run_id)
    media_type = "text/csv; charset=utf-8" if file.endswith(".csv") else "application/vnd.apache.parquet"
    response = Response(get_blobs().stream(found.key), content_type=media_type)
    response.content_length = found.size
    response.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    return response


@api.get("/runs/<uuid:run_id>/images/<int:number>/display")
@operation(
    _TAG,
    "getRunPicture",
    "Get the picture of one image of a run, by its number in the data set.",
    {200: Reply("The picture.", ("image/jpeg",))},
)
@needs(Permission.RESEARCH)
def get_picture(run_id: uuid.UUID, number: int) -> Response:
    """Answer the picture of one image of a run."""
    with session_scope() as session:
        image = comparisons.image_of(session, find_run(session, run_id), number).image
    if image.display_key is None:
        raise NotFound
    response = Response(get_blobs().stream(image.display_key), content_type="image/jpeg")
    return response


@api.get("/runs/<uuid:run_id>/images/<int:number>/attention/<bundle>")
@operation(
    _TAG,
    "getRunAttention",
    "Get a bundle's attention map over one image, of a run that kept them.",
    {200: Reply("The picture.", ("image/jpeg",))},
)
@needs(Permission.RESEARCH)
def get_attention(run_id: uuid.UUID, number: int, bundle: str) -> Response:
    """Answer a bundle's attention map over one image of a run that kept them."""
    with session_scope() as session:
        kept = comparisons.picture_of(session, find_run(session, run_id), number, bundle)
    response = Response(get_blobs().stream(kept.key), content_type="image/jpeg")
    response.content_length = kept.size
    return response


@api.get("/comparisons")
@operation(_TAG, "listComparisons", "List comparisons.", {200: Reply("They.", Comparisons)})
@needs(Permission.RESEARCH)
def list_comparisons() -> Comparisons:
    """List the site's latest comparisons."""
    with session_scope() as session:
        found = runs.list_comparisons(session, identity().site_id)
    return Comparisons(items=[Comparison.of(compared, figures=False) for compared in found])


@api.post("/comparisons")
@operation(
    _TAG,
    "startComparison",
    "Compare bundle b with bundle a.",
    {201: Reply("The comparison.", Comparison)},
    body=NewComparison,
)
@needs(Permission.RESEARCH)
def start_comparison() -> Comparison:
    """Start to compare two bundles of evaluated runs."""
    body = read_body(NewComparison)
    with session_scope() as session:
        made = compare(session, body)
        session.refresh(made)
    dispatch.dispatch()
    return Comparison.of(made)


@api.get("/comparisons/<uuid:comparison_id>")
@operation(_TAG, "getComparison", "Get one comparison.", {200: Reply("It.", Comparison)})
@needs(Permission.RESEARCH)
def get_comparison(comparison_id: uuid.UUID) -> Comparison:
    """Answer one comparison."""
    with session_scope() as session:
        return Comparison.of(runs.get_comparison(session, identity().site_id, comparison_id))
