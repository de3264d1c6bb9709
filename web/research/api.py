"""Research as JSON: data sets, runs and comparisons; and which bundle serves. Its pages are beside it."""

from __future__ import annotations

import uuid

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.errors import NotFound
from store.base.session import session_scope
from store.bundles import promotions
from store.queue import dispatch
from store.research import comparisons, datasets, run_deletion, runs
from store.research import research_tables as tables
from web.auth.identity import identity, needs
from web.base.binding import LOCATION, Reply, operation, read_body, send
from web.contract.base import API
from web.contract.research import (
    BundleChange,
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
    Serving,
)
from web.intake.api import audit

research_api = Blueprint("research_api", __name__, url_prefix=API)

_TAG = "Research"


def start(session: Session, said: NewRun) -> tables.Run:
    """Start the run that was asked for, audited; call `dispatch` after the commit."""
    run = runs.start_run(
        session,
        identity().site_id,
        identity().user_id,
        datasets.get_dataset(session, identity().site_id, said.dataset),
        said.bundles,
        part=said.part,
        label=said.label,
        priority=said.priority,
        with_heatmap=said.heatmap,
        with_report=said.report,
        with_routing=said.routing,
    )
    audit(session, "run_started", run.id)
    return run


def compare(session: Session, said: NewComparison) -> tables.Comparison:
    """Start the comparison that was asked for, audited; call `dispatch` after the commit."""
    a, b = (runs.get_run(session, identity().site_id, run_id) for run_id in (said.run_a, said.run_b))
    made = runs.start_comparison(
        session,
        identity().site_id,
        identity().user_id,
        (a, said.bundle_a),
        (b, said.bundle_b),
        said.margin,
    )
    audit(session, "comparison_started", made.id)
    return made


def find_run(session: Session, run_id: uuid.UUID) -> tables.Run:
    """Return a run of the caller's site. Raises `NotFound`."""
    return runs.get_run(session, identity().site_id, run_id)


# the API


@research_api.get("/datasets")
@operation(_TAG, "listDatasets", "List data sets.", {200: Reply("All.", Datasets)})
@needs(Permission.RESEARCH)
def list_datasets() -> Datasets:
    """List the site's data sets."""
    with session_scope() as session:
        found = datasets.list_datasets(session, identity().site_id)
        return Datasets(items=[Dataset.of(d, datasets.contents(session, d)) for d in found])


@research_api.get("/datasets/<uuid:dataset_id>")
@operation(_TAG, "getDataset", "Get one data set.", {200: Reply("It.", Dataset)})
@needs(Permission.RESEARCH)
def get_dataset(dataset_id: uuid.UUID) -> Dataset:
    """Answer one data set."""
    with session_scope() as session:
        found = datasets.get_dataset(session, identity().site_id, dataset_id)
        return Dataset.of(found, datasets.contents(session, found))


@research_api.delete("/datasets/<uuid:dataset_id>")
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


def forget_dataset(dataset_id: uuid.UUID) -> None:
    """Forget a data set, audited."""
    with session_scope() as session:
        datasets.remove_dataset(session, datasets.get_dataset(session, identity().site_id, dataset_id))
        audit(session, "dataset_deleted", dataset_id)


@research_api.get("/runs")
@operation(_TAG, "listRuns", "List the latest runs.", {200: Reply("They.", Runs)})
@needs(Permission.RESEARCH)
def list_runs() -> Runs:
    """List the site's latest runs."""
    with session_scope() as session:
        found = runs.list_runs(session, identity().site_id)
    return Runs(items=[RunSummary.of(run, batch) for run, batch in found])


@research_api.post("/runs")
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
    said = read_body(NewRun)
    with session_scope() as session:
        run = start(session, said)
        session.flush()
        document = Run.of(run, runs.batch_of(session, run))
    dispatch.dispatch()
    return send(document, 201, Location=f"{API}/runs/{run.id}")


@research_api.get("/runs/<uuid:run_id>")
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


@research_api.delete("/runs/<uuid:run_id>")
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


def forget_run(run_id: uuid.UUID) -> None:
    """Delete a run, audited."""
    with session_scope() as session:
        run_deletion.delete_run(session, find_run(session, run_id))
        audit(session, "run_deleted", run_id)


def act(run_id: uuid.UUID, action: str) -> None:
    """Cancel, pause, resume or retry a run, audited."""
    with session_scope() as session:
        runs.act(session, find_run(session, run_id), action)
        audit(session, f"run_{action}", run_id)
    dispatch.dispatch()


@research_api.post("/runs/<uuid:run_id>/<any(cancel,pause,resume,retry):action>")
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


@research_api.get("/runs/<uuid:run_id>/files/<file>")
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


@research_api.get("/runs/<uuid:run_id>/images/<int:number>/display")
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


@research_api.get("/runs/<uuid:run_id>/images/<int:number>/attention/<bundle>")
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


@research_api.get("/comparisons")
@operation(_TAG, "listComparisons", "List comparisons.", {200: Reply("They.", Comparisons)})
@needs(Permission.RESEARCH)
def list_comparisons() -> Comparisons:
    """List the site's latest comparisons."""
    with session_scope() as session:
        found = runs.list_comparisons(session, identity().site_id)
    return Comparisons(items=[Comparison.of(compared, figures=False) for compared in found])


@research_api.post("/comparisons")
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
    said = read_body(NewComparison)
    with session_scope() as session:
        made = compare(session, said)
        session.refresh(made)
    dispatch.dispatch()
    return Comparison.of(made)


@research_api.get("/comparisons/<uuid:comparison_id>")
@operation(_TAG, "getComparison", "Get one comparison.", {200: Reply("It.", Comparison)})
@needs(Permission.RESEARCH)
def get_comparison(comparison_id: uuid.UUID) -> Comparison:
    """Answer one comparison."""
    with session_scope() as session:
        return Comparison.of(runs.get_comparison(session, identity().site_id, comparison_id))


@research_api.post("/bundles/<any(promote,rollback,shadow):action>")
@operation(
    "Bundles",
    "{}Bundle",
    {
        "promote": "Let a bundle serve the site by default.",
        "rollback": "Let the bundle serve again that did before; refused if that is not the bundle named.",
        "shadow": "Let a bundle read along quietly; without a name, none.",
    },
    {200: Reply("What serves now.", Serving)},
    body=BundleChange,
)
@needs(Permission.ADMINISTER)
def operate_bundle(action: str) -> Serving:
    """Let another bundle serve the site, go back to the one before, or set the shadow bundle."""
    return operate(action, read_body(BundleChange).bundle)


def operate(action: str, name: str) -> Serving:
    """Promote a bundle, roll back, or set the shadow, audited; return what serves now."""
    who = identity()
    with session_scope() as session:
        if action == "shadow":
            promotions.set_shadow(session, who.site_id, name or None)
        elif action == "promote":
            promotions.promote(session, who.site_id, who.user_id, name)
        else:
            name = promotions.roll_back(session, who.site_id, who.user_id, name or None)
        audit(session, f"bundle_{action}", name)
        serving = promotions.serving(session, who.site_id)
        back = promotions.rollback_target(session, who.site_id)
    return Serving(default=serving.default_bundle, shadow=serving.shadow_bundle, rollback_to=back)
