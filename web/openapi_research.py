"""The description of research's addresses: data sets, runs, comparisons, which bundle serves."""

from __future__ import annotations

from store.base.tables import Priority
from web.openapi_parts import (
    LINKS,
    MOMENT,
    TEXT,
    UUID,
    WHOLE,
    YES_NO,
    Json,
    answer,
    id_of,
    many,
    maybe,
    operation,
    page_of,
    record,
    ref,
    some_bytes,
    words_of,
)

_COUNTS: Json = {"type": "object", "additionalProperties": WHOLE}
_FIGURES: Json = {"type": "object", "description": "Every figure as {value, interval}; null until evaluated."}
_SIDE = record({"run": UUID, "bundle": TEXT})

SCHEMAS: Json = {
    "Dataset": record(
        {
            "id": UUID,
            "name": TEXT,
            "format": TEXT,
            "label_meaning": TEXT,
            "labels": many(TEXT),
            "sha256": maybe(TEXT),
            "images": WHOLE,
            "looked_at": WHOLE,
            "studies": WHOLE,
            "patients": WHOLE,
            "parts": _COUNTS,
            "regions": _COUNTS,
            "problems": _COUNTS,
            "left_out": _COUNTS,
            "created_at": MOMENT,
            "links": LINKS,
        }
    ),
    "Datasets": page_of("Dataset"),
    "NewRun": record(
        {
            "dataset": TEXT | {"description": "Its name."},
            "part": TEXT | {"default": ""},
            "label": TEXT | {"description": "The label column; the data set's own when absent."},
            "bundles": many(TEXT) | {"description": "They share one decode."},
            "priority": words_of(Priority) | {"default": "low"},
            "heatmap": YES_NO | {"default": False},
            "report": YES_NO | {"default": False},
            "routing": YES_NO | {"default": False, "description": "Score with every network."},
        },
        required=False,
    ),
    "Run": record(
        {
            "id": UUID,
            "kind": {"type": "string", "enum": ["dataset", "shadow"]},
            "dataset": maybe({"type": "object"}),
            "part": TEXT,
            "label": TEXT,
            "bundles": many(TEXT),
            "options": {"type": "object"},
            "status": TEXT,
            "progress": maybe({"type": "object", "description": "As of a batch."}),
            "forward_passes": record({"region": WHOLE, "fracture": WHOLE}),
            "created_at": MOMENT,
            "evaluated_at": maybe(MOMENT),
            "links": LINKS,
        }
    ),
    "Runs": page_of("Run"),
    "NewComparison": record(
        {
            "run_a": UUID,
            "bundle_a": TEXT,
            "run_b": UUID,
            "bundle_b": TEXT,
            "margin": {"type": "number", "default": 0.02, "description": "Loss of AUC that counts as none."},
        },
        required=False,
    ),
    "Comparison": record(
        {
            "id": UUID,
            "a": _SIDE,
            "b": _SIDE,
            "margin": {"type": "number"},
            "status": TEXT,
            "created_at": MOMENT,
            "evaluated_at": maybe(MOMENT),
            "figures": maybe(_FIGURES),
            "links": LINKS,
        }
    ),
    "Comparisons": page_of("Comparison"),
    "BundleChange": record({"bundle": TEXT}, required=False),
    "Serving": record({"default": maybe(TEXT), "shadow": maybe(TEXT), "rollback_to": maybe(TEXT)}),
}


def _body(name: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": ref(name)}}}


_RUN, _COMPARISON = [id_of("run_id")], [id_of("comparison_id")]
_NUMBER: Json = {"name": "number", "in": "path", "required": True, "schema": WHOLE}
_BUNDLE: Json = {"name": "bundle", "in": "path", "required": True, "schema": TEXT}
_FILE: Json = {"name": "file", "in": "path", "required": True, "schema": TEXT}

PATHS: Json = {
    "/datasets": {
        "get": operation("Research", "listDatasets", "List data sets.", {"200": answer("All.", "Datasets")})
    },
    "/datasets/{dataset_id}": {
        "get": operation(
            "Research",
            "getDataset",
            "Get one data set.",
            {"200": answer("It.", "Dataset")},
            parameters=[id_of("dataset_id")],
        ),
        "delete": operation(
            "Research",
            "deleteDataset",
            "Forget a data set on which no run stands; its files are not touched.",
            {"204": {"description": "Forgotten."}},
            parameters=[id_of("dataset_id")],
        ),
    },
    "/runs": {
        "get": operation("Research", "listRuns", "List the latest runs.", {"200": answer("They.", "Runs")}),
        "post": operation(
            "Research",
            "startRun",
            "Score a data set with some bundles, at low priority.",
            {"201": answer("The run.", "Run")},
            requestBody=_body("NewRun"),
        ),
    },
    "/runs/{run_id}": {
        "get": operation(
            "Research",
            "getRun",
            "Get a run: progress, figures, and what repeats them.",
            {"200": answer("It.", "Run")},
            parameters=_RUN,
        ),
        "delete": operation(
            "Research",
            "deleteRun",
            "Delete a run that has ended, with all that it stored and its comparisons.",
            {"204": {"description": "Deleted."}},
            parameters=_RUN,
        ),
    },
    **{
        f"/runs/{{run_id}}/{action}": {
            "post": operation(
                "Research",
                f"{action}Run",
                f"{action.capitalize()} a run.",
                {"202": answer("The run.", "Run")},
                parameters=_RUN,
            )
        }
        for action in ("cancel", "pause", "resume", "retry")
    },
    "/runs/{run_id}/files/{file}": {
        "get": operation(
            "Research",
            "getRunFile",
            "Get a table: BUNDLE-predictions.csv, -studies.csv, -images.csv, -images.parquet.",
            {"200": some_bytes("The table.", "text/csv", "application/vnd.apache.parquet")},
            parameters=[*_RUN, _FILE],
        )
    },
    "/runs/{run_id}/images/{number}/display": {
        "get": operation(
            "Research",
            "getRunPicture",
            "Get the picture of one image of a run, by its number in the data set.",
            {"200": answer("The picture.", media_type="image/jpeg")},
            parameters=[*_RUN, _NUMBER],
        )
    },
    "/runs/{run_id}/images/{number}/attention/{bundle}": {
        "get": operation(
            "Research",
            "getRunAttention",
            "Get a bundle's attention map over one image, of a run that kept them.",
            {"200": answer("The picture.", media_type="image/jpeg")},
            parameters=[*_RUN, _NUMBER, _BUNDLE],
        )
    },
    "/comparisons": {
        "get": operation(
            "Research", "listComparisons", "List comparisons.", {"200": answer("They.", "Comparisons")}
        ),
        "post": operation(
            "Research",
            "startComparison",
            "Compare bundle b with bundle a.",
            {"201": answer("The comparison.", "Comparison")},
            requestBody=_body("NewComparison"),
        ),
    },
    "/comparisons/{comparison_id}": {
        "get": operation(
            "Research",
            "getComparison",
            "Get one comparison.",
            {"200": answer("It.", "Comparison")},
            parameters=_COMPARISON,
        )
    },
    **{
        f"/bundles/{action}": {
            "post": operation(
                "Bundles",
                f"{action}Bundle",
                said,
                {"200": answer("What serves now.", "Serving")},
                requestBody=_body("BundleChange") | {"required": action != "rollback"},
            )
        }
        for action, said in (
            ("promote", "Let a bundle serve the site by default."),
            (
                "rollback",
                "Let the bundle serve again that did before; refused if that is not the bundle named.",
            ),
            ("shadow", "Let a bundle read along quietly; without a name, none."),
        )
    },
}
