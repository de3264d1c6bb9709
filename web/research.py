"""Research as JSON: data sets, runs and comparisons; and which bundle serves. Its pages are beside it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import Batch, Priority
from store.bundles import promotions
from store.queue import dispatch
from store.research import comparisons, datasets, run_deletion, runs
from store.research.research_tables import Comparison, Dataset, Run
from web.api import audit
from web.auth import identity, needs
from web.errors import InvalidRequest
from web.representations import API, PRIORITIES, batch_document, moment
from web.request_args import json_body

research_api = Blueprint("research_api", __name__, url_prefix=API)

#: Loss of study-level AUC that a comparison takes for none, where nobody states another.
MARGIN = 0.02


# documents


def dataset_document(dataset: Dataset, inside: datasets.Contents) -> dict[str, Any]:
    """Return a data set; its labels' names stand here, its labels nowhere."""
    return {
        "id": str(dataset.id),
        "name": dataset.name,
        "format": dataset.format,
        "label_meaning": dataset.label_meaning,
        "labels": list(inside.label_names),
        "sha256": dataset.sha256,
        "images": dataset.n_images,
        "looked_at": dataset.n_seen,
        "studies": inside.studies,
        "patients": inside.patients,
        "parts": dict(inside.parts),
        "regions": dict(inside.regions),
        "problems": dict(inside.problems),
        "left_out": dataset.left_out,
        "created_at": moment(dataset.created_at),
        "links": {"self": f"{API}/datasets/{dataset.id}", "page": f"/research/datasets/{dataset.id}"},
    }


def run_document(run: Run, batch: Batch | None, *, whole: bool = True) -> dict[str, Any]:
    """Return a run with its progress; `whole` adds the figures, and all that repeats them."""
    here = f"{API}/runs/{run.id}"
    document: dict[str, Any] = {
        "id": str(run.id),
        "kind": run.kind,
        "dataset": run.made_with["dataset"],
        "part": run.part,
        "label": run.label,
        "bundles": run.bundles,
        "options": {
            "routing": run.with_routing,
            "heatmap": bool(batch and batch.with_heatmap),
            "report": bool(batch and batch.with_report),
            "priority": PRIORITIES[batch.priority] if batch else Priority.LOW.value,
        },
        "status": state_of(run, batch),
        "progress": batch_document(batch, {}, findings=True) if batch else None,
        "forward_passes": {"region": run.classified, "fracture": run.detected},
        "created_at": moment(run.created_at),
        "evaluated_at": moment(run.evaluated_at),
        "links": {"self": here, "page": f"/research/runs/{run.id}", "files": f"{here}/files/"},
    }
    if document["progress"]:
        del document["progress"]["links"]  # a run is steered by its own address
    if whole:
        document |= {"made_with": run.made_with, "figures": run.figures}
    return document


def state_of(run: Run, batch: Batch | None) -> str:
    """Return the batch's state; after it the evaluation is still to come."""
    if batch is None:
        return "running"
    if batch.status in {"done", "partial", "failed"} and run.evaluated_at is None:
        return "evaluating"
    return batch.status


def comparison_document(compared: Comparison) -> dict[str, Any]:
    """Return a comparison: what was compared, and the figures once they are there."""
    return {
        "id": str(compared.id),
        "a": {"run": str(compared.run_a), "bundle": compared.bundle_a},
        "b": {"run": str(compared.run_b), "bundle": compared.bundle_b},
        "margin": compared.margin,
        "status": "done" if compared.evaluated_at else "evaluating",
        "created_at": moment(compared.created_at),
        "evaluated_at": moment(compared.evaluated_at),
        "figures": compared.figures,
        "links": {
            "self": f"{API}/comparisons/{compared.id}",
            "page": f"/research/comparisons/{compared.id}",
        },
    }


# what was asked


def _text(body: Mapping[str, Any], name: str, default: str = "") -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > 200:
        raise InvalidRequest(f"{name} must be a text")
    return value


def start(session: Session, body: Mapping[str, Any]) -> Run:
    """Start the run that was asked for, audited; call `dispatch` after the commit."""
    names = body.get("bundles")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidRequest("bundles must be a list of bundles' names")
    try:
        priority = Priority(body.get("priority", Priority.LOW))
    except ValueError:
        raise InvalidRequest(f"priority must be one of {', '.join(Priority)}") from None
    run = runs.start_run(
        session,
        identity().site_id,
        identity().user_id,
        datasets.get_dataset(session, identity().site_id, _text(body, "dataset")),
        names,
        part=_text(body, "part"),
        label=_text(body, "label"),
        priority=priority,
        with_heatmap=body.get("heatmap") is True,
        with_report=body.get("report") is True,
        with_routing=body.get("routing") is True,
    )
    audit(session, "run_started", run.id)
    return run


def compare(session: Session, body: Mapping[str, Any]) -> Comparison:
    """Start the comparison that was asked for, audited; call `dispatch` after the commit."""
    sides = []
    for side in ("a", "b"):
        try:
            run_id = uuid.UUID(_text(body, f"run_{side}"))
        except ValueError:
            raise InvalidRequest(f"run_{side} must be a run's id") from None
        sides.append((runs.get_run(session, identity().site_id, run_id), _text(body, f"bundle_{side}")))
    margin = body.get("margin", MARGIN)
    if not isinstance(margin, int | float) or not 0 <= margin < 1:
        raise InvalidRequest("margin must be a number from 0 to 1")
    made = runs.start_comparison(
        session, identity().site_id, identity().user_id, sides[0], sides[1], float(margin)
    )
    audit(session, "comparison_started", made.id)
    return made


def find_run(session: Session, run_id: uuid.UUID) -> Run:
    """Return a run of the caller's site. Raises `NotFound`."""
    return runs.get_run(session, identity().site_id, run_id)


# the API


@research_api.get("/datasets")
@needs(Permission.RESEARCH)
def list_datasets() -> Response:
    """List the site's data sets."""
    with session_scope() as session:
        found = datasets.list_datasets(session, identity().site_id)
        items = [dataset_document(d, datasets.contents(session, d)) for d in found]
    return jsonify(items=items, next=None)


@research_api.get("/datasets/<uuid:dataset_id>")
@needs(Permission.RESEARCH)
def get_dataset(dataset_id: uuid.UUID) -> Response:
    """Answer one data set."""
    with session_scope() as session:
        found = datasets.get_dataset(session, identity().site_id, dataset_id)
        return jsonify(dataset_document(found, datasets.contents(session, found)))


@research_api.delete("/datasets/<uuid:dataset_id>")
@needs(Permission.RESEARCH)
def delete_dataset(dataset_id: uuid.UUID) -> tuple[str, int]:
    """Forget a data set on which no run stands; its files are not touched."""
    forget_dataset(dataset_id)
    return "", 204


def forget_dataset(dataset_id: uuid.UUID) -> None:
    """Forget a data set, audited."""
    with session_scope() as session:
        datasets.remove_dataset(session, datasets.get_dataset(session, identity().site_id, dataset_id))
        audit(session, "dataset_deleted", dataset_id)


@research_api.get("/runs")
@needs(Permission.RESEARCH)
def list_runs() -> Response:
    """List the site's latest runs."""
    with session_scope() as session:
        found = runs.list_runs(session, identity().site_id)
    return jsonify(items=[run_document(run, batch, whole=False) for run, batch in found], next=None)


@research_api.post("/runs")
@needs(Permission.RESEARCH)
def start_run() -> Response:
    """Start to score a data set."""
    known = {"dataset", "part", "label", "bundles", "priority", "heatmap", "report", "routing"}
    with session_scope() as session:
        run = start(session, json_body(known))
        session.flush()
        response = jsonify(run_document(run, runs.batch_of(session, run)))
    dispatch.dispatch()
    response.status_code = 201
    response.headers["Location"] = f"{API}/runs/{run.id}"
    return response


@research_api.get("/runs/<uuid:run_id>")
@needs(Permission.RESEARCH)
def get_run(run_id: uuid.UUID) -> Response:
    """Answer one run with its figures and all that repeats them."""
    with session_scope() as session:
        run = find_run(session, run_id)
        document = run_document(run, runs.batch_of(session, run))
        document["files"] = [
            {
                "name": f.name,
                "sha256": f.sha256,
                "size": f.size,
                "link": f"{API}/runs/{run_id}/files/{f.name}",
            }
            for f in runs.files_of(session, run_id)
        ]
        document["comparisons"] = [
            {"id": str(c.id), "a": c.bundle_a, "b": c.bundle_b}
            for c in runs.list_comparisons(session, identity().site_id, run_id)
        ]
    return jsonify(document)


@research_api.delete("/runs/<uuid:run_id>")
@needs(Permission.RESEARCH)
def delete_run(run_id: uuid.UUID) -> tuple[str, int]:
    """Delete a run that has ended, with its figures, tables, attention maps, reports and comparisons."""
    forget_run(run_id)
    return "", 204


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
@needs(Permission.RESEARCH)
def act_on_run(run_id: uuid.UUID, action: str) -> Response:
    """Cancel, pause, resume or retry a run."""
    act(run_id, action)
    with session_scope() as session:
        run = find_run(session, run_id)
        response = jsonify(run_document(run, runs.batch_of(session, run), whole=False))
    response.status_code = 202
    return response


@research_api.get("/runs/<uuid:run_id>/files/<file>")
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
@needs(Permission.RESEARCH)
def get_attention(run_id: uuid.UUID, number: int, bundle: str) -> Response:
    """Answer a bundle's attention map over one image of a run that kept them."""
    with session_scope() as session:
        kept = comparisons.picture_of(session, find_run(session, run_id), number, bundle)
    response = Response(get_blobs().stream(kept.key), content_type="image/jpeg")
    response.content_length = kept.size
    return response


@research_api.get("/comparisons")
@needs(Permission.RESEARCH)
def list_comparisons() -> Response:
    """List the site's latest comparisons."""
    with session_scope() as session:
        found = runs.list_comparisons(session, identity().site_id)
    return jsonify(items=[comparison_document(c) | {"figures": None} for c in found], next=None)


@research_api.post("/comparisons")
@needs(Permission.RESEARCH)
def start_comparison() -> Response:
    """Start to compare two bundles of evaluated runs."""
    with session_scope() as session:
        made = compare(session, json_body({"run_a", "bundle_a", "run_b", "bundle_b", "margin"}))
        session.refresh(made)
    dispatch.dispatch()
    response = jsonify(comparison_document(made))
    response.status_code = 201
    return response


@research_api.get("/comparisons/<uuid:comparison_id>")
@needs(Permission.RESEARCH)
def get_comparison(comparison_id: uuid.UUID) -> Response:
    """Answer one comparison."""
    with session_scope() as session:
        return jsonify(comparison_document(runs.get_comparison(session, identity().site_id, comparison_id)))


@research_api.post("/bundles/<any(promote,rollback,shadow):action>")
@needs(Permission.ADMINISTER)
def operate_bundle(action: str) -> Response:
    """Let another bundle serve the site, go back to the one before, or set the shadow bundle."""
    name = _text(json_body({"bundle"}), "bundle")
    return jsonify(operate(action, name))


def operate(action: str, name: str) -> dict[str, str | None]:
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
    return {"default": serving.default_bundle, "shadow": serving.shadow_bundle, "rollback_to": back}
