"""The API's description, continued: the worklist and its studies."""

from __future__ import annotations

from store.tables import ImageStatus, Priority, Triage
from web.openapi_parts import (
    CURSOR,
    LIMIT,
    LINK,
    MOMENT,
    SHARE,
    TEXT,
    UUID,
    WHOLE,
    YES_NO,
    Json,
    answer,
    maybe,
    operation,
    page_of,
    query,
    record,
    ref,
    words_of,
)

_CLASSES: Json = {
    "type": "string",
    "enum": ["urgent", "positive", "doubt", "not_read", "negative", "reviewed"],
}
_STATUSES: Json = {"type": "string", "enum": [ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED]}
_DAY: Json = {"type": "string", "format": "date"}

SCHEMAS: Json = {
    "WorklistRow": record(
        {
            "study_id": UUID,
            "batch_id": UUID,
            "batch_label": TEXT,
            "bundle": TEXT,
            "class": _CLASSES | {"description": "Its place in the order; urgent before all others."},
            "arrived_at": MOMENT,
            "waited_too_long": YES_NO | {"description": "It counts as urgent since it waited so long."},
            "priority": words_of(Priority),
            "status": _STATUSES,
            "triage": maybe(words_of(Triage)),
            "reason": maybe(ref("Reason")),
            "probability": maybe(SHARE),
            "region": maybe(TEXT),
            "images": WHOLE,
            "filename": {"type": "string", "description": "Of the image that decides."},
            "accession": TEXT,
            "study_date": TEXT,
            "opened_by": maybe(TEXT),
            "opened_at": maybe(MOMENT),
            "answer": maybe(TEXT),
            "reviewed_at": maybe(MOMENT),
            "signed_at": maybe(MOMENT),
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Worklist": page_of("WorklistRow"),
}

PATHS: Json = {
    "/worklist": {
        "get": operation(
            "Worklist",
            "listStudies",
            "List studies in the order in which they are to be read",
            {"200": answer("A page.", "Worklist")},
            parameters=[
                query("class", _CLASSES, "Only this class."),
                query("triage", words_of(Triage), "Only these."),
                query("region", TEXT, "Only this region, in lower case."),
                query("status", _STATUSES, "Only these."),
                query("batch", UUID, "Only of this batch."),
                query("bundle", TEXT, "Only read by this bundle."),
                query("from", _DAY, "Arrived on this day (UTC) or later."),
                query("until", _DAY, "Arrived on this day (UTC) or earlier."),
                query("reviewed", {"enum": ["no", "yes", "all"], "default": "no"}, "Reviewed or not."),
                query("q", TEXT, "How a file name, path, accession or study UID begins; finds at most 500."),
                CURSOR,
                LIMIT,
            ],
        )
    }
}
