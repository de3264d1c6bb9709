"""The description of the API (OpenAPI 3.1), kept by hand; a test compares it with the routes."""

from __future__ import annotations

from functools import cache
from typing import Any

from settings import VERSION
from store import accounts, bundles, errors
from store.errors import ServiceError
from store.tables import BatchStatus, ImageStatus, Priority, Reason, Triage
from web import errors as web_errors

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: Json, *, required: bool = True) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    return schema | {"required": list(properties)} if required else schema | {"additionalProperties": False}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _numbers(*names: str) -> Json:
    return _object({name: {"type": "integer", "minimum": 0} for name in names})


def _page(name: str) -> Json:
    return _object({"items": _list(_ref(name)), "next": _maybe({"type": "string"})})


TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}
UUID: Json = {"type": "string", "format": "uuid"}
MOMENT: Json = {"type": "string", "format": "date-time"}
YES_NO: Json = {"type": "boolean"}
LINK: Json = {"type": "string", "format": "uri-reference"}


def _words(kind: Any) -> Json:
    return {"type": "string", "enum": [word.value for word in kind]}


SCHEMAS: Json = {
    "Problem": _object(
        {
            "type": LINK,
            "title": TEXT,
            "status": WHOLE,
            "detail": TEXT,
            "code": {"type": "string", "description": "Stable; see the list of error codes."},
            "advice": {"type": "string", "description": "What to do next."},
        }
    ),
    "Reason": _object({"code": _words(Reason), "sentence": TEXT, "advice": TEXT}),
    "Flag": _object({"code": _words(Reason), "sentence": TEXT}),
    "NewBatch": _object(
        {
            "label": {"type": "string", "maxLength": 200},
            "bundle": _maybe(TEXT) | {"description": "A bundle's name; the site's default when absent."},
            "priority": _words(Priority) | {"default": "normal"},
            "report": {"type": "boolean", "default": True},
            "heatmap": {"type": "boolean", "default": True},
        },
        required=False,
    ),
    "Batch": _object(
        {
            "id": UUID,
            "label": TEXT,
            "status": _words(BatchStatus),
            "priority": _words(Priority),
            "bundle": TEXT,
            "options": _object({"report": YES_NO, "heatmap": YES_NO}),
            "created_at": MOMENT,
            "submitted_at": _maybe(MOMENT),
            "finished_at": _maybe(MOMENT),
            "counts": _numbers("total", *ImageStatus, "skipped")
            | {"description": "total is the sum of the others but skipped, which stands beside it."},
            "triage": _numbers(*Triage),
            "stages": _numbers("prepare", "classify", "detect", "explain", "report")
            | {"description": "Images that have passed the stage, or have ended."},
            "reasons": {"type": "object", "additionalProperties": {"type": "integer"}},
            "rate": {"type": "number", "description": "Images a second, lately."},
            "eta_seconds": _maybe(WHOLE),
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Image": _object(
        {
            "id": UUID,
            "batch_id": UUID,
            "study_id": _maybe(UUID),
            "filename": {"type": "string", "description": "The path as uploaded."},
            "status": _words(ImageStatus),
            "reason": _maybe(_ref("Reason")),
            "region": _maybe(TEXT),
            "region_probability": _maybe(SHARE),
            "region_probabilities": {"type": "object", "additionalProperties": SHARE},
            "probability": _maybe(SHARE) | {"description": "Calibrated; null where nothing was assessed."},
            "triage": _maybe(_words(Triage)),
            "flags": _list(_ref("Flag")),
            "thresholds": _maybe(_object({"low": SHARE, "high": SHARE})),
            "bundle": TEXT,
            "sha256": _maybe(TEXT) | {"description": "Of the uploaded bytes; null if they cannot be had."},
            "size": WHOLE,
            "width": _maybe(WHOLE),
            "height": _maybe(WHOLE),
            "accession": TEXT,
            "study_uid": TEXT,
            "sop_uid": TEXT,
            "study_date": TEXT,
            "laterality": TEXT,
            "view": TEXT,
            "study_triage": _maybe(_words(Triage)),
            "attention_regions": _list(
                _object({"x": WHOLE, "y": WHOLE, "width": WHOLE, "height": WHOLE, "score": SHARE})
            )
            | {"description": "Where the model looked, in pixels of the original; not a fracture's outline."},
            "links": {"type": "object", "additionalProperties": _maybe(LINK)},
        }
    ),
    "FileAnswers": _object(
        {
            "files": _list(
                _object(
                    {
                        "filename": TEXT,
                        "status": {
                            "type": "string",
                            "enum": ["accepted", "rejected", "skipped", "duplicate"],
                        },
                        "image_id": _maybe(UUID),
                        "sha256": _maybe(TEXT),
                        "size": WHOLE,
                        "reason": _maybe(_ref("Reason")),
                    }
                )
            ),
            "counts": _numbers("accepted", "rejected", "skipped", "duplicate", "total"),
        }
    ),
    "Bundle": _object(
        {
            "name": TEXT,
            "sha256": TEXT,
            "default": YES_NO,
            "label_meaning": {"type": "string", "description": "What a positive label says of an image."},
            "regions": _list(TEXT),
            "thresholds": {
                "type": "object",
                "additionalProperties": _object({"low": SHARE, "high": SHARE}),
            },
            "trained_on": TEXT,
            "limits": _list(TEXT),
            "created_at": MOMENT,
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Batches": _page("Batch"),
    "Images": _page("Image"),
    "Bundles": _page("Bundle"),
}

_NO_BODY: Json = {"content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}}}


def _query(name: str, schema: Json, said: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": said}


def _header(name: str, said: str) -> Json:
    return {"name": name, "in": "header", "schema": TEXT, "description": said}


def _id(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": UUID}


_CURSOR = _query("cursor", TEXT, "From the last page's `next`.")
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Items a page.")
_IF_NONE_MATCH = _header("If-None-Match", "An earlier answer's ETag; 304 when nothing changed.")
_ETAG: Json = {"ETag": {"schema": TEXT}}


def _answer(said: str, schema: str | None = None, media_type: str = "application/json", **more: Any) -> Json:
    content = {media_type: {"schema": _ref(schema) if schema else {"type": "string", "format": "binary"}}}
    return {"description": said, "content": content, **more}


def _operation(tag: str, name: str, summary: str, answers: Json, **more: Any) -> Json:
    problem = {
        "description": "A problem (RFC 9457) with a stable code and advice.",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {**answers, "default": problem},
    }


def _action(name: str, summary: str) -> Json:
    return {
        "parameters": [_id("batch_id")],
        "post": _operation(
            "Batches",
            f"{name}Batch",
            summary,
            {"202": _answer("The batch.", "Batch", headers=_ETAG)},
            requestBody=_NO_BODY,
        ),
    }


def _bytes(name: str, summary: str, *media_types: str) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    answer = {"description": "The bytes.", "content": dict.fromkeys(media_types, binary), "headers": _ETAG}
    unchanged = {"description": "Not changed."}
    return {
        "parameters": [_id("image_id")],
        "get": _operation(
            "Images", name, summary, {"200": answer, "304": unchanged}, parameters=[_IF_NONE_MATCH]
        ),
    }


_FORM: Json = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": _list({"type": "string", "format": "binary"})
                    | {"description": "Images and ZIPs; the file name is the path relative to the upload."},
                    "manifest": {
                        "type": "string",
                        "format": "binary",
                        "description": "CSV: path,accession,study,view,laterality,priority.",
                    },
                },
            }
        }
    },
}

PATHS: Json = {
    "/batches": {
        "post": _operation(
            "Batches",
            "createBatch",
            "Create a draft",
            {"201": _answer("The draft.", "Batch", headers=_ETAG | {"Location": {"schema": LINK}})},
            parameters=[_header("Idempotency-Key", "The same key again gives the same batch.")],
            requestBody={"content": {"application/json": {"schema": _ref("NewBatch")}}},
        ),
        "get": _operation(
            "Batches",
            "listBatches",
            "List batches, the newest first",
            {"200": _answer("A page.", "Batches")},
            parameters=[_CURSOR, _LIMIT],
        ),
    },
    "/batches/{batch_id}": {
        "parameters": [_id("batch_id")],
        "get": _operation(
            "Batches",
            "getBatch",
            "See how far a batch is; cheap to ask often with If-None-Match",
            {
                "200": _answer("The batch.", "Batch", headers=_ETAG),
                "304": {"description": "Nothing changed."},
            },
            parameters=[_IF_NONE_MATCH],
        ),
    },
    "/batches/{batch_id}/files": {
        "parameters": [_id("batch_id")],
        "post": _operation(
            "Batches",
            "addFiles",
            "Send files, ZIPs and a manifest to a draft; the same file again changes nothing",
            {"200": _answer("What became of each file.", "FileAnswers")},
            requestBody=_FORM,
        ),
    },
    "/batches/{batch_id}/submit": _action("submit", "Have the files of a draft read"),
    "/batches/{batch_id}/cancel": _action("cancel", "Cancel what has not ended; what is done stays"),
    "/batches/{batch_id}/pause": _action("pause", "Take up no more of this batch for now"),
    "/batches/{batch_id}/resume": _action("resume", "Go on with a paused batch"),
    "/batches/{batch_id}/retry": _action("retry", "Read failed and cancelled images again"),
    "/batches/{batch_id}/images": {
        "parameters": [_id("batch_id")],
        "get": _operation(
            "Images",
            "listImages",
            "List the images of a batch in the order of arrival",
            {"200": _answer("A page.", "Images")},
            parameters=[
                _query("status", _words(ImageStatus), "Only these."),
                _query("triage", _words(Triage), "Only these."),
                _query("region", TEXT, "Only this region, in lower case."),
                _CURSOR,
                _LIMIT,
            ],
        ),
    },
    "/batches/{batch_id}/results.csv": {
        "parameters": [_id("batch_id")],
        "get": _operation(
            "Batches",
            "resultsCsv",
            "Download one line an uploaded file",
            {"200": _answer("The lines, streamed.", None, "text/csv")},
        ),
    },
    "/batches/{batch_id}/results.zip": {
        "parameters": [_id("batch_id")],
        "get": _operation(
            "Batches",
            "resultsZip",
            "Download results.csv, errors.csv, heat maps, reports and manifest.json",
            {"200": _answer("The archive, streamed.", None, "application/zip")},
        ),
    },
    "/images/{image_id}": {
        "parameters": [_id("image_id")],
        "get": _operation(
            "Images", "getImage", "See an image with its finding", {"200": _answer("The image.", "Image")}
        ),
    },
    "/images/{image_id}/original": _bytes(
        "imageOriginal",
        "Download the de-identified original",
        "image/jpeg",
        "image/png",
        "application/dicom",
    ),
    "/images/{image_id}/display": _bytes("imageDisplay", "The picture to look at", "image/jpeg"),
    "/images/{image_id}/overlay": _bytes("imageOverlay", "The attention map over it", "image/jpeg"),
    "/images/{image_id}/report": _bytes("imageReport", "The report of its study", "application/pdf"),
    "/bundles": {
        "get": _operation(
            "Bundles", "listBundles", "List the model bundles", {"200": _answer("All of them.", "Bundles")}
        )
    },
    "/openapi.json": {
        "get": _operation(
            "This description",
            "openapi",
            "This document",
            {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}},
            security=[],
        )
    },
    "/docs": {
        "get": _operation(
            "This description",
            "docs",
            "This document as a page",
            {"200": {"description": "HTML.", "content": {"text/html": {}}}},
            security=[],
        )
    },
}


def error_codes() -> list[tuple[str, int, str, str]]:
    """Return every error of the service: code, HTTP status, sentence, advice."""
    kinds = [
        kind
        for module in (errors, accounts, bundles, web_errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ServiceError) and kind is not web_errors.RequestFailed
    ]
    found = {kind.code: (kind.code, kind.status, kind.title, kind.advice) for kind in kinds}
    found |= {code: (code, *said) for code, said in web_errors.HTTP_CODES.items() if code not in found}
    return sorted(found.values(), key=lambda line: (line[1], line[0]))


@cache
def document() -> Json:
    """Return the description of the API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FractureAI",
            "version": VERSION,
            "description": "Send X-rays of bones in batches; take away findings, attention maps and reports. "
            "AI output, to be verified by a clinician. Not a medical device.",
        },
        "servers": [{"url": "/api/v1"}],
        "security": [{"apiKey": []}, {"session": []}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "A key that begins with fai_."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "fractureai_session",
                    "description": "A signed-in browser; what changes something needs X-CSRF-Token too.",
                },
            },
        },
        "x-error-codes": [
            {"code": code, "status": status, "title": title, "advice": advice}
            for code, status, title, advice in error_codes()
        ],
    }
