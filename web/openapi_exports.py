"""The part of the API's description about taking results away."""

from __future__ import annotations

from store.results.downloads import Format, Part
from store.results.exports import ExportState
from store.results.results import COLUMNS
from vocabulary.states import ImageStatus, Triage
from web.openapi_parts import (
    DAY,
    LINK,
    MOMENT,
    TEXT,
    UUID,
    WHOLE,
    Json,
    answer,
    id_of,
    many,
    maybe,
    operation,
    page_of,
    query,
    record,
    ref,
    some_bytes,
    words_of,
)

_COLUMN: Json = {"type": "string", "enum": list(COLUMNS)}
_NO_BODY: Json = {"content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}}}
_WISH: Json = {
    "format": words_of(Format),
    "batch": UUID | {"description": "One batch; all that were submitted when absent."},
    "status": words_of(ImageStatus),
    "triage": words_of(Triage),
    "region": TEXT,
    "since": DAY | {"description": "Day of upload, UTC, included; as is until."},
    "until": DAY,
    "columns": many(_COLUMN) | {"description": "Of the tables; those of results.csv when absent."},
    "parts": many(words_of(Part)) | {"description": "Of a ZIP; tables, reports and heatmaps when absent."},
}
_TAG = "Taking results away"

SCHEMAS: Json = {
    "NewExport": record(_WISH, required=False) | {"required": ["format"]},
    "Export": record(
        {
            "id": UUID,
            "state": words_of(ExportState),
            "error_code": maybe(TEXT),
            "name": TEXT,
            "wish": ref("NewExport"),
            "done": WHOLE,
            "total": WHOLE,
            "missing": WHOLE | {"description": "Members whose bytes the store does not have."},
            "size": maybe(WHOLE),
            "sha256": maybe(TEXT),
            "created_at": MOMENT,
            "expires_at": maybe(MOMENT) | {"description": "When the file is deleted."},
            "links": {"type": "object", "additionalProperties": maybe(LINK)},
        }
    ),
    "Exports": page_of("Export"),
}

PATHS: Json = {
    "/results": {
        "get": operation(
            _TAG,
            "results",
            "Download a small table or ZIP of a batch, a filter or some days at once",
            {"200": some_bytes("The file, streamed.", *(kind.media_type for kind in Format))},
            parameters=[
                query(name, TEXT, "Several, separated by commas.")
                if name in {"columns", "parts"}
                else query(name, schema, "As in a new export.")
                for name, schema in _WISH.items()
            ],
        )
    },
    "/exports": {
        "post": operation(
            _TAG,
            "createExport",
            "Have a file prepared in the background",
            {"202": answer("The file to be.", "Export", headers={"Location": {"schema": LINK}})},
            requestBody={"required": True, "content": {"application/json": {"schema": ref("NewExport")}}},
        ),
        "get": operation(
            _TAG, "listExports", "List prepared files, the newest first", {"200": answer("All.", "Exports")}
        ),
    },
    "/exports/{export_id}": {
        "parameters": [id_of("export_id")],
        "get": operation(_TAG, "getExport", "See how far a file is", {"200": answer("The file.", "Export")}),
    },
    "/exports/{export_id}/cancel": {
        "parameters": [id_of("export_id")],
        "post": operation(
            _TAG,
            "cancelExport",
            "End the preparation of a file, or delete it",
            {"202": answer("The file as it is now.", "Export")},
            requestBody=_NO_BODY,
        ),
    },
    "/exports/{export_id}/file": {
        "parameters": [id_of("export_id")],
        "get": operation(
            _TAG,
            "exportFile",
            "Fetch a file that is ready; Range: bytes=N- goes on where a download broke off",
            {
                "200": answer("The file.", None, "application/octet-stream"),
                "206": answer("The rest of it.", None, "application/octet-stream"),
            },
        ),
    },
}
