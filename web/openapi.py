"""The description of the API (OpenAPI 3.1), kept by hand; a test compares it with the routes."""

from __future__ import annotations

from functools import cache

from settings import VERSION
from store.accounts import accounts, people
from store.base import errors
from store.base.errors import ServiceError
from store.base.tables import Priority
from store.bundles import bundles
from store.operations import notices, retention
from store.reading import reviews, validations
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode
from vocabulary.states import BatchStatus, ImageStatus, Triage
from web import errors as web_errors
from web import openapi_admin, openapi_exports, openapi_research, openapi_studies, openapi_uploads
from web.openapi_parts import (
    CURSOR,
    ETAG,
    IF_NONE_MATCH,
    LIMIT,
    LINK,
    MOMENT,
    PACE,
    SHARE,
    TEXT,
    UUID,
    WHOLE,
    YES_NO,
    Json,
    answer,
    header,
    id_of,
    many,
    maybe,
    numbers,
    operation,
    page_of,
    query,
    record,
    ref,
    words_of,
)

SCHEMAS: Json = {
    "Problem": record(
        {
            "type": LINK,
            "title": TEXT,
            "status": WHOLE,
            "detail": TEXT,
            "code": {"type": "string", "description": "Stable; see the list of error codes."},
            "advice": {"type": "string", "description": "What to do next."},
        }
    ),
    "Reason": record({"code": words_of(Reason), "sentence": TEXT, "advice": TEXT}),
    "Flag": record({"code": words_of(Reason), "sentence": TEXT}),
    "AnatomicRegion": record(dict.fromkeys(("body_part_examined", "scheme", "code", "meaning"), TEXT))
    | {"description": "DICOM's terms for the part: Body Part Examined, and the code of CID 4031."},
    "PartEvidence": record(
        {
            "fractures": WHOLE,
            "found": WHOLE | {"description": "Of them, how many the lower threshold found."},
            "interval": many(SHARE) | {"description": "95% interval of found / fractures (Wilson)."},
            "films": maybe(WHOLE),
            **dict.fromkeys(("auc", "sensitivity", "specificity"), maybe(ref("FigureWithInterval"))),
            "in_doubt": maybe(SHARE) | {"description": "Share of the held-out films that end in doubt."},
            "may_say_negative": YES_NO,
            "sentence": TEXT,
            "about_negative": TEXT | {"description": "Why it does not say negative; else mostly empty."},
        }
    )
    | {"description": "What a bundle has shown for a part on held-out films, at the lower threshold."},
    "FigureWithInterval": record({"value": SHARE, "interval": maybe(many(SHARE))}),
    "RenderingStep": record({"code": words_of(RenderingCode), "detail": TEXT, "sentence": TEXT}),
    "NewBatch": record(
        {
            "label": {"type": "string", "maxLength": 200},
            "bundle": maybe(TEXT) | {"description": "A bundle's name; the site's default when absent."},
            "priority": words_of(Priority) | {"default": "normal"},
            "report": {"type": "boolean", "default": True},
            "heatmap": {"type": "boolean", "default": True},
        },
        required=False,
    ),
    "Batch": record(
        {
            "id": UUID,
            "label": TEXT,
            "status": words_of(BatchStatus),
            "priority": words_of(Priority),
            "bundle": TEXT,
            "options": record({"report": YES_NO, "heatmap": YES_NO}),
            "created_at": MOMENT,
            "submitted_at": maybe(MOMENT),
            "finished_at": maybe(MOMENT),
            "counts": numbers("total", *ImageStatus, "skipped")
            | {"description": "total is the sum of the others but skipped, which stands beside it."},
            "findings_withheld": YES_NO
            | {"description": "The site had not promoted the bundle: what it found is for researchers."},
            "triage": maybe(numbers(*Triage)) | {"description": "null where findings are withheld."},
            "stages": numbers("prepare", "classify", "detect", "explain", "report")
            | {"description": "Images that have passed the stage, or have ended."},
            "reasons": {"type": "object", "additionalProperties": {"type": "integer"}},
            "rate": {"type": "number", "description": "Images a second, lately."},
            "eta_seconds": maybe(WHOLE),
            "manifest": maybe(numbers("rows", "rows_without_file", "files_without_row"))
            | {"description": "Of a submitted batch with a manifest: how many lines and files met nothing."},
            "waits_for": maybe(ref("Reason"))
            | {"description": "Why nothing goes on at this moment: the storage is full or does not answer."},
            "end_failure": maybe(ref("Reason"))
            | {
                "description": "Why an ended batch could not be completed: reports may be missing."
                " A retry tries its end again."
            },
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Image": record(
        {
            "id": UUID,
            "batch_id": UUID,
            "study_id": maybe(UUID),
            "filename": {"type": "string", "description": "The path as uploaded."},
            "status": words_of(ImageStatus),
            "reason": maybe(ref("Reason")),
            "region": maybe(TEXT) | {"description": "The body part, as the bundle calls it."},
            "family": maybe(TEXT) | {"description": "Of the part: arm, leg, hip, shoulder."},
            "anatomic_region": maybe(ref("AnatomicRegion")),
            "region_probability": maybe(SHARE),
            "region_probabilities": {"type": "object", "additionalProperties": SHARE},
            "probability": maybe(SHARE) | {"description": "Calibrated; null where nothing was assessed."},
            "triage": maybe(words_of(Triage)),
            "number": maybe(WHOLE) | {"description": "In its study; on page, report and mark alike."},
            "flags": many(ref("Flag")),
            "thresholds": maybe(record({"low": SHARE, "high": SHARE})),
            "evidence": maybe(ref("PartEvidence")),
            "bundle": TEXT,
            "sha256": maybe(TEXT) | {"description": "Of the uploaded bytes; null if they cannot be had."},
            "size": WHOLE,
            "media_type": maybe(TEXT) | {"description": "Of the kept original."},
            "width": maybe(WHOLE),
            "height": maybe(WHOLE),
            "accession": TEXT,
            "study_uid": TEXT,
            "sop_uid": TEXT,
            "study_date": TEXT,
            "laterality": TEXT,
            "view": TEXT,
            "study_triage": maybe(words_of(Triage)),
            "attention_regions": many(
                record({"x": WHOLE, "y": WHOLE, "width": WHOLE, "height": WHOLE, "score": SHARE})
            )
            | {
                "description": "Where the model looked, in pixels of the original; not a fracture's outline. "
                "On the body; none on a negative."
            },
            "suspected_places": many(
                record(
                    {
                        **dict.fromkeys(("x", "y", "width", "height"), WHOLE),
                        "score": SHARE,
                        "strong": YES_NO | {"description": "At or above the bundle's upper score."},
                    }
                )
            )
            | {
                "description": "Boxes in pixels of the original, of a bundle that was measured to draw them; "
                "none on a negative."
            },
            "rendering": many(ref("RenderingStep"))
            | {"description": "How the grey values of the picture came about, in order."},
            "links": {"type": "object", "additionalProperties": maybe(LINK)},
        }
    ),
    "FileAnswers": record(
        {
            "files": many(
                record(
                    {
                        "filename": TEXT,
                        "status": {
                            "type": "string",
                            "enum": ["accepted", "rejected", "skipped", "duplicate"],
                        },
                        "image_id": maybe(UUID),
                        "sha256": maybe(TEXT),
                        "size": WHOLE,
                        "reason": maybe(ref("Reason")),
                    }
                )
            ),
            "counts": numbers("accepted", "rejected", "skipped", "duplicate", "total"),
        }
    ),
    "Bundle": record(
        {
            "name": TEXT,
            "sha256": TEXT,
            "default": YES_NO,
            "label_meaning": {"type": "string", "description": "What a positive label says of an image."},
            "regions": many(TEXT),
            "thresholds": {
                "type": "object",
                "additionalProperties": record({"low": SHARE, "high": SHARE}),
            },
            "families": {"type": "object", "additionalProperties": TEXT},
            "parts": {"type": "object", "additionalProperties": ref("PartEvidence")},
            "suspected_places": YES_NO | {"description": "Whether it draws suspected places."},
            "trained_on": TEXT,
            "limits": many(TEXT),
            "created_at": MOMENT,
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Batches": page_of("Batch"),
    **openapi_studies.SCHEMAS,
    "Images": page_of("Image"),
    "Bundles": page_of("Bundle"),
}

_NO_BODY: Json = {"content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}}}


def _action(name: str, summary: str, body: Json | None = None) -> Json:
    return {
        "parameters": [id_of("batch_id")],
        "post": operation(
            "Batches",
            f"{name}Batch",
            summary,
            {"202": answer("The batch.", "Batch", headers=ETAG)},
            requestBody={"content": {"application/json": {"schema": body}}} if body else _NO_BODY,
        ),
    }


def _bytes(name: str, summary: str, *media_types: str) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    found = {"description": "The bytes.", "content": dict.fromkeys(media_types, binary), "headers": ETAG}
    unchanged = {"description": "Not changed."}
    return {
        "parameters": [id_of("image_id")],
        "get": operation(
            "Images", name, summary, {"200": found, "304": unchanged}, parameters=[IF_NONE_MATCH]
        ),
    }


_FORM: Json = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": many({"type": "string", "format": "binary"})
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
        "post": operation(
            "Batches",
            "createBatch",
            "Create a draft",
            {"201": answer("The draft.", "Batch", headers=ETAG | {"Location": {"schema": LINK}})},
            parameters=[header("Idempotency-Key", "The same key again gives the same batch.")],
            requestBody={"content": {"application/json": {"schema": ref("NewBatch")}}},
        ),
        "get": operation(
            "Batches",
            "listBatches",
            "List batches, the newest first",
            {"200": answer("A page.", "Batches")},
            parameters=[CURSOR, LIMIT],
        ),
    },
    "/batches/{batch_id}": {
        "parameters": [id_of("batch_id")],
        "get": operation(
            "Batches",
            "getBatch",
            "See how far a batch is; cheap to ask often with If-None-Match",
            {
                "200": answer("The batch.", "Batch", headers=ETAG | PACE),
                "304": {"description": "Nothing changed.", "headers": PACE},
            },
            parameters=[IF_NONE_MATCH],
        ),
    },
    "/batches/{batch_id}/files": {
        "parameters": [id_of("batch_id")],
        "post": operation(
            "Batches",
            "addFiles",
            "Send files, ZIPs and a manifest to a draft; the same file again changes nothing",
            {"200": answer("What became of each file.", "FileAnswers")},
            requestBody=_FORM,
        ),
    },
    "/batches/{batch_id}/submit": _action(
        "submit",
        "Have the files of a draft read; strict: only if the manifest and the files match",
        record({"strict": YES_NO}, required=False),
    ),
    "/batches/{batch_id}/cancel": _action(
        "cancel",
        "Cancel what has not ended; what is done stays, files that were not opened yet are deleted. With"
        " draft_only, cancel a draft and nothing else",
        record({"draft_only": {"type": "boolean"}}, required=False),
    ),
    "/batches/{batch_id}/pause": _action("pause", "Take up no more of this batch for now"),
    "/batches/{batch_id}/resume": _action("resume", "Go on with a paused batch"),
    "/batches/{batch_id}/retry": _action(
        "retry",
        "Read failed and cancelled images again: all whose bytes are still there, or those in images. What"
        " was deleted has the reason upload_deleted; where it is all, or among images, the answer is"
        " uploads_deleted",
        record({"images": many(UUID)}, required=False),
    ),
    "/batches/{batch_id}/priority": {
        "parameters": [id_of("batch_id")],
        "post": operation(
            "Batches",
            "setPriority",
            "Let a batch that has not ended go before others, or after them",
            {"202": answer("The batch.", "Batch", headers=ETAG)},
            requestBody={
                "required": True,
                "content": {"application/json": {"schema": record({"priority": words_of(Priority)})}},
            },
        ),
    },
    "/batches/{batch_id}/images": {
        "parameters": [id_of("batch_id")],
        "get": operation(
            "Images",
            "listImages",
            "List the images of a batch in the order of arrival",
            {"200": answer("A page.", "Images")},
            parameters=[
                query("status", words_of(ImageStatus), "Only these."),
                query("triage", words_of(Triage), "Only these."),
                query("region", TEXT, "Only this region, in lower case."),
                CURSOR,
                LIMIT,
            ],
        ),
    },
    "/batches/{batch_id}/unmatched.csv": {
        "parameters": [id_of("batch_id")],
        "get": operation(
            "Batches",
            "unmatchedCsv",
            "Download the manifest's lines that met no file, and the files that no line speaks of",
            {"200": answer("A line each: what, path.", None, "text/csv")},
        ),
    },
    "/batches/{batch_id}/results.csv": {
        "parameters": [id_of("batch_id")],
        "get": operation(
            "Batches",
            "resultsCsv",
            "Download one line an uploaded file",
            {"200": answer("The lines, streamed.", None, "text/csv")},
        ),
    },
    "/batches/{batch_id}/results.zip": {
        "parameters": [id_of("batch_id")],
        "get": operation(
            "Batches",
            "resultsZip",
            "Download results.csv, errors.csv, heat maps, reports and manifest.json",
            {"200": answer("The archive, streamed.", None, "application/zip")},
        ),
    },
    **openapi_studies.PATHS,
    "/images/{image_id}": {
        "parameters": [id_of("image_id")],
        "get": operation(
            "Images", "getImage", "See an image with its finding", {"200": answer("The image.", "Image")}
        ),
    },
    "/images/{image_id}/original": _bytes(
        "imageOriginal",
        "Download the pseudonymised original",
        "image/jpeg",
        "image/png",
        "application/dicom",
        "application/octet-stream",
    ),
    "/images/{image_id}/display": _bytes("imageDisplay", "The picture to look at", "image/jpeg"),
    "/images/{image_id}/overlay": _bytes("imageOverlay", "The attention map over it", "image/jpeg"),
    "/images/{image_id}/report": _bytes("imageReport", "The report of its study", "application/pdf"),
    "/bundles": {
        "get": operation(
            "Bundles", "listBundles", "List the model bundles", {"200": answer("All of them.", "Bundles")}
        )
    },
    "/openapi.json": {
        "get": operation(
            "This description",
            "openapi",
            "This document",
            {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}},
            security=[],
        )
    },
    "/docs": {
        "get": operation(
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
        for module in (
            errors,
            accounts,
            bundles,
            validations,
            notices,
            people,
            retention,
            reviews,
            web_errors,
        )
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
        "paths": PATHS
        | openapi_exports.PATHS
        | openapi_uploads.PATHS
        | openapi_research.PATHS
        | openapi_admin.PATHS,
        "components": {
            "schemas": SCHEMAS
            | openapi_exports.SCHEMAS
            | openapi_uploads.SCHEMAS
            | openapi_research.SCHEMAS
            | openapi_admin.SCHEMAS,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "A key that begins with fai_."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "fractureai_session",
                    "description": "A signed-in browser; over TLS the name begins with __Host-. What changes"
                    " something needs X-CSRF-Token too.",
                },
            },
        },
        "x-error-codes": [
            {"code": code, "status": status, "title": title, "advice": advice}
            for code, status, title, advice in error_codes()
        ],
    }
