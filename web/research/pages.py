"""The pages of research: data sets, runs, comparisons, and both bundles' attention maps side by side."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from flask import Blueprint, Flask, Response, redirect, render_template, request, url_for
from markupsafe import Markup
from pydantic import StringConstraints
from werkzeug.wrappers import Response as BaseResponse

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Batch
from store.bundles import bundles
from store.queue import dispatch, pace
from store.research import comparisons, datasets, runs
from store.research import research_tables as tables
from store.research.research_tables import RunKind
from web.auth.identity import audit, identity, needs
from web.base.binding import parse_form, read_query
from web.base.forms import form_on
from web.base.pacing import PAGE, is_watched
from web.base.request_args import without_empty_fields
from web.contract.base import Query
from web.contract.research import Comparison, Dataset, NewComparison, NewRun, Run, RunSummary
from web.research.actions import (
    act,
    compare,
    find_run,
    forget_dataset,
    forget_run,
    start,
)

pages = Blueprint("research", __name__)

#: Figures whose trend is shown over runs.
TREND = (
    ("auc", "AUC"),
    ("kappa", "Kappa"),
    ("recall", "Sensitivity"),
    ("specificity", "Specificity"),
    ("ece", "ECE"),
)


@pages.get("/research")
@is_watched(PAGE)
@needs(Permission.RESEARCH)
def home() -> str:
    """Show data sets, runs, comparisons, and the form that starts a run."""
    with session_scope() as session:
        found = datasets.list_datasets(session, identity().site_id)
        shown = [Dataset.of(d, datasets.contents(session, d)) for d in found]
        listed = [RunSummary.of(run, batch) for run, batch in runs.list_runs(session, identity().site_id, 50)]
        compared = [Comparison.of(c) for c in runs.list_comparisons(session, identity().site_id, limit=50)]
        names = [bundle.name for bundle in bundles.list_bundles(session)]
        figures = trend([run for run, _ in runs.list_runs(session, identity().site_id, 50)])
    return render_template(
        "research/research.html",
        trend=figures,
        trend_keys=TREND,
        datasets=shown,
        runs=listed,
        comparisons=compared,
        bundles=names,
        moving=any(run.status in {"queued", "evaluating"} for run in listed),
    )


@dataclass(frozen=True)
class TrendLine:
    """One bundle's figures in one run."""

    run: uuid.UUID
    dataset: str
    bundle: str
    at: datetime
    studies: int
    figures: Mapping[str, Any]


def trend(evaluated: Sequence[tables.Run]) -> list[TrendLine]:
    """Return the figures of runs side by side, a line for each bundle."""
    lines = []
    for run in evaluated:
        if run.evaluated_at is None or not run.figures:
            continue
        dataset = run.made_with.get("dataset") or {}
        for bundle, said in run.figures.items():
            pooled = said["study"]["pooled"]
            lines.append(
                TrendLine(
                    run.id,
                    f"{dataset.get('name', '')} {run.part}".strip(),
                    bundle,
                    run.evaluated_at,
                    pooled["n"],
                    pooled.get("figures") or {},
                )
            )
    return lines


class ChangedFilters(Query):
    """Filters of the list of images whose result changed."""

    region: Annotated[str, StringConstraints(max_length=40)] | None = None
    right: Literal["yes", "no", "unlabelled"] | None = None
    to: Literal["positive", "negative"] | None = None

    def matches(self, changed: Mapping[str, Any]) -> bool:
        """Return whether a changed image passes the filters."""
        right = {True: "yes", False: "no", None: "unlabelled"}[changed["right"]]
        to = "positive" if changed["b"] > changed["a"] else "negative"
        return (
            self.region in (None, changed["region"]) and self.right in (None, right) and self.to in (None, to)
        )


@dataclass(frozen=True)
class Place:
    """An image's position in the list of changed images."""

    at: int
    of: int
    before: int | None
    after: int | None


def place_of(number: int, changed: Sequence[Mapping[str, Any]]) -> Place | None:
    """Return an image's position in the list; None where it is not listed."""
    numbers = [int(image["number"]) for image in changed]
    if number not in numbers:
        return None
    at = numbers.index(number)
    return Place(
        at + 1,
        len(numbers),
        numbers[at - 1] if at else None,
        numbers[at + 1] if at + 1 < len(numbers) else None,
    )


@pages.get("/research/datasets/<uuid:dataset_id>")
@needs(Permission.RESEARCH)
def show_dataset(dataset_id: uuid.UUID) -> str:
    """Show a data set, and what is wrong with it."""
    with session_scope() as session:
        dataset = datasets.get_dataset(session, identity().site_id, dataset_id)
        document = Dataset.of(dataset, datasets.contents(session, dataset))
        wrong = datasets.with_problems(session, dataset)
        used = datasets.in_use(session, dataset)
        names = [bundle.name for bundle in bundles.list_bundles(session)]
    return render_template("research/dataset.html", dataset=document, wrong=wrong, bundles=names, used=used)


def _dataset_of_form() -> uuid.UUID:
    with session_scope() as session:
        return datasets.get_dataset(session, identity().site_id, request.form.get("dataset", "")).id


@pages.post("/research/runs")
@needs(Permission.RESEARCH)
@form_on("research.show_dataset", at=lambda: {"dataset_id": _dataset_of_form()})
def start_run_by_form() -> BaseResponse:
    """Start a run from the form."""
    form = request.form
    ticked = {name: name in form for name in ("heatmap", "report", "routing")}
    body = parse_form(NewRun, {**form, "bundles": form.getlist("bundles"), **ticked})
    with session_scope() as session:
        run = start(session, body)
    dispatch.dispatch()
    return redirect(url_for("research.show_run", run_id=run.id), 303)


def _exported(page: str, name: str) -> Response:
    """Send a page as one file that needs no server."""
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.html"'
    return response


@pages.get("/research/runs/<uuid:run_id>")
@is_watched(PAGE)
@needs(Permission.RESEARCH)
def show_run(run_id: uuid.UUID) -> str | Response:
    """Show a run's progress, then its report; with ``?export`` as one file."""
    export = "export" in request.args
    with session_scope() as session:
        run = find_run(session, run_id)
        batch = runs.batch_of(session, run)
        document = Run.of(run, batch, left=pace.batch_seconds_left(session, batch) if batch else None)
        page = render_template(
            "research/run.html",
            layout="research/export.html" if export else "base.html",
            export=export,
            run=document,
            made_with=document.model_dump_json(indent=1),
            actions=_actions(batch),
            files=runs.files_of(session, run_id),
            comparisons=runs.list_comparisons(session, identity().site_id, run_id),
            shadow=comparisons.shadow_agreement(session, run) if run.kind == RunKind.SHADOW else None,
            others=[r for r, _ in runs.list_runs(session, identity().site_id) if _comparable(r, run)],
            margin=runs.MARGIN,
        )
    return _exported(page, f"run-{run_id}") if export else page


@pages.post("/research/runs/<uuid:run_id>/delete")
@needs(Permission.RESEARCH)
@form_on("research.show_run")
def delete_run_by_form(run_id: uuid.UUID) -> BaseResponse:
    """Delete a run from its page."""
    forget_run(run_id)
    return redirect(url_for("research.home"), 303)


@pages.post("/research/datasets/<uuid:dataset_id>/delete")
@needs(Permission.RESEARCH)
@form_on("research.show_dataset")
def delete_dataset_by_form(dataset_id: uuid.UUID) -> BaseResponse:
    """Forget a data set from its page."""
    forget_dataset(dataset_id)
    return redirect(url_for("research.home"), 303)


def _comparable(other: tables.Run, run: tables.Run) -> bool:
    return other.kind == run.kind and other.dataset_id == run.dataset_id and other.evaluated_at is not None


def _actions(batch: Batch | None) -> list[str]:
    if batch is None:
        return []
    if batch.status in {"queued", "running"}:
        return ["pause", "cancel"]
    if batch.status == "paused":
        return ["resume", "cancel"]
    return ["retry"] if batch.n_failed + batch.n_cancelled else []


@pages.post("/research/runs/<uuid:run_id>/<any(cancel,pause,resume,retry):action>")
@needs(Permission.RESEARCH)
@form_on("research.show_run")
def act_by_form(run_id: uuid.UUID, action: str) -> BaseResponse:
    """Cancel, pause, resume or retry a run from its page."""
    act(run_id, action)
    return redirect(url_for("research.show_run", run_id=run_id), 303)


@pages.get("/research/runs/<uuid:run_id>/images/<int:number>")
@needs(Permission.RESEARCH)
def show_image(run_id: uuid.UUID, number: int) -> str:
    """Show where each bundle looked in one image of a data set."""
    with session_scope() as session:
        run = find_run(session, run_id)
        image = comparisons.image_of(session, run, number)
        audit(session, "run_image_viewed", image.image.id)
    return _attention(run, image)


@pages.get("/research/comparisons/<uuid:comparison_id>/images/<int:number>")
@needs(Permission.RESEARCH)
def show_changed_image(comparison_id: uuid.UUID, number: int) -> str:
    """Show where both compared bundles looked in one image, and which changed images stand beside it."""
    without_empty_fields()
    args = read_query(ChangedFilters)
    with session_scope() as session:
        compared = runs.get_comparison(session, identity().site_id, comparison_id)
        run = find_run(session, compared.run_a)
        image = comparisons.image_of(session, run, number, (compared.bundle_a, compared.bundle_b))
        audit(session, "run_image_viewed", image.image.id)
    listed = [c for c in (compared.figures or {}).get("changed_images", ()) if args.matches(c)]
    return _attention(run, image, comparison_id, place_of(number, listed), args.kept())


def _attention(
    run: tables.Run,
    image: comparisons.RunImage,
    comparison_id: uuid.UUID | None = None,
    place: Place | None = None,
    chosen: Mapping[str, str] = MappingProxyType({}),
) -> str:
    maps = [(said, heat_squares(said, image.image.width, image.image.height)) for said in image.said]
    return render_template(
        "research/run_image.html",
        run=run,
        row=image,
        maps=maps,
        comparison_id=comparison_id,
        place=place,
        chosen=chosen,
    )


def heat_squares(
    said: comparisons.BundleFinding, width: int | None, height: int | None
) -> list[tuple[float, float, float, float]]:
    """Return an attention map as squares (x, y, side, strength 0-1) in the image's pixels.

    The map lies over the square that the image was centred in, see `pipeline.preprocess.letterbox`.
    """
    if said.cam is None or not width or not height:
        return []
    rows, columns = said.cam_height, said.cam_width
    values = [max(0.0, v) for v in struct.unpack(f"<{rows * columns}e", said.cam)]
    top = max(values) or 1.0
    side = max(width, height)
    left, above, step = (width - side) / 2, (height - side) / 2, side / max(rows, columns)
    return [
        (
            round(left + (n % columns) * step, 2),
            round(above + (n // columns) * step, 2),
            round(step, 2),
            round(value / top, 3),
        )
        for n, value in enumerate(values)
        if value > 0.05 * top
    ]


@pages.post("/research/comparisons")
@needs(Permission.RESEARCH)
@form_on("research.show_run", at=lambda: {"run_id": uuid.UUID(request.form.get("a", "").partition(" ")[0])})
def compare_by_form() -> BaseResponse:
    """Start a comparison from a run's page."""
    form = request.form
    sides = {}
    for side in ("a", "b"):
        sides[f"run_{side}"], _, sides[f"bundle_{side}"] = form.get(side, "").partition(" ")
    body = parse_form(NewComparison, {"margin": form.get("margin", runs.MARGIN), **sides})
    with session_scope() as session:
        made = compare(session, body)
    dispatch.dispatch()
    return redirect(url_for("research.show_comparison", comparison_id=made.id), 303)


@pages.get("/research/comparisons/<uuid:comparison_id>")
@is_watched(PAGE)
@needs(Permission.RESEARCH)
def show_comparison(comparison_id: uuid.UUID) -> str | Response:
    """Show which of two bundles is better, by how much, and whether that is chance."""
    export = "export" in request.args
    without_empty_fields()
    args = ChangedFilters() if export else read_query(ChangedFilters)
    with session_scope() as session:
        compared = runs.get_comparison(session, identity().site_id, comparison_id)
        run = find_run(session, compared.run_a)
        document = Comparison.of(compared)
        repeat = {"comparison": document.model_dump(), "made_with": [run.made_with]}
        if compared.run_b != compared.run_a:
            repeat["made_with"].append(find_run(session, compared.run_b).made_with)
    page = render_template(
        "research/comparison.html",
        layout="research/export.html" if export else "base.html",
        export=export,
        compared=document,
        changed=[c for c in (document.figures or {}).get("changed_images", ()) if args.matches(c)],
        chosen=args.kept(),
        run=run,
        made_with=json.dumps(repeat, indent=1),
    )
    return _exported(page, f"comparison-{comparison_id}") if export else page


def register(app: Flask) -> None:
    """Serve the API's and the pages' addresses of research."""
    app.jinja_env.globals["stylesheet"] = lambda: Markup(Path(app.static_folder or "", "app.css").read_text())  # noqa: S704 - ours
    app.register_blueprint(pages)
