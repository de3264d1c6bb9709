"""The API's description, continued: the worklist and its studies."""

from __future__ import annotations

from store.base.tables import Priority
from vocabulary.states import Answer, ImageStatus, Triage
from web.openapi_parts import (
    CURSOR,
    DAY,
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
    id_of,
    many,
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
    "enum": ["amended", "urgent", "positive", "doubt", "not_read", "negative", "reviewed"],
}
_STATUSES: Json = {"type": "string", "enum": [ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED]}
_NAME: Json = {"name": "name", "in": "path", "required": True, "schema": TEXT}

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
            "family": maybe(TEXT),
            "images": WHOLE,
            "filename": {"type": "string", "description": "Of the image that decides."},
            "accession": TEXT,
            "study_date": TEXT,
            "opened_by": maybe(TEXT),
            "opened_at": maybe(MOMENT),
            "answer": maybe(TEXT),
            "reviewed_at": maybe(MOMENT),
            "signed_at": maybe(MOMENT),
            "read_again": YES_NO | {"description": "It was reviewed before and has changed since."},
            "flags": many(ref("Flag")),
            "links": {"type": "object", "additionalProperties": LINK},
        }
    ),
    "Worklist": page_of("WorklistRow"),
    "Review": record(
        {
            "id": UUID,
            "study_id": UUID,
            "bundle": TEXT,
            "version": maybe(WHOLE) | {"description": "Of the finding that the reader saw."},
            "ai_triage": maybe(words_of(Triage)),
            "answer": words_of(Answer),
            "agreement": {"type": "string", "enum": ["agree", "disagree", "open"]},
            "comment": TEXT,
            "place": maybe(
                record({"image_id": UUID, "x": WHOLE, "y": WHOLE, "width": WHOLE, "height": WHOLE})
            ),
            "reader": TEXT,
            "account": TEXT | {"description": "With which the reader signs in; empty for old answers."},
            "created_at": MOMENT,
            "signing": maybe({"type": "string", "enum": ["waits", "signed", "failed"]}),
            "signed_at": maybe(MOMENT),
        }
    ),
    "Reviews": page_of("Review"),
    "NewReview": record(
        {
            "answer": words_of(Answer),
            "comment": {"type": "string", "maxLength": 2000},
            "version": WHOLE | {"description": "Of the finding seen; refused when the study has changed."},
            "image_id": UUID | {"description": "Of the place; a point has neither width nor height."},
            "x": WHOLE,
            "y": WHOLE,
            "width": WHOLE,
            "height": WHOLE,
            "sign": {"type": "boolean", "default": False},
            "password": TEXT | {"description": "The reader's own, once more; needed to sign."},
        },
        required=False,
    ),
    "Agreement": record(
        {
            "bundle": TEXT,
            "reviewed": WHOLE,
            "compared": WHOLE,
            "agree": WHOLE,
            "disagree": WHOLE,
            "agreement": maybe(SHARE),
            "counts": many(
                record({"answer": words_of(Answer), "ai_triage": maybe(words_of(Triage)), "studies": WHOLE})
            ),
            "notice": TEXT,
        }
    ),
    "StudyVersion": record(
        {
            "version": WHOLE,
            "bundle": TEXT,
            "triage": words_of(Triage),
            "images": WHOLE,
            "created_at": MOMENT,
            "signed_by": maybe(TEXT),
            "signed_at": maybe(MOMENT),
            "links": {"type": "object", "additionalProperties": maybe(LINK)},
        }
    ),
    "Study": record(
        {
            "id": UUID,
            "batch_id": UUID,
            "bundle": TEXT,
            "accession": TEXT,
            "study_uid": TEXT,
            "study_date": TEXT,
            "triage": maybe(words_of(Triage)) | {"description": "As bad as its worst image."},
            "reasons": many(ref("Reason")),
            "version": maybe(WHOLE),
            "created_at": maybe(MOMENT) | {"description": "Of this version; signing makes one."},
            "read_at": maybe(MOMENT) | {"description": "When the bundle read the images."},
            "deciding_image": maybe(UUID) | {"description": "Of several images, the worst."},
            "amended": maybe(ref("StudyVersion"))
            | {"description": "What was signed before images arrived or the bundle changed: read again."},
            "versions": many(ref("StudyVersion")) | {"description": "All that have a report, newest first."},
            "images": many(ref("Image")),
            "links": {"type": "object", "additionalProperties": maybe(LINK)},
        }
    ),
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
                query("from", DAY, "Arrived on this day (UTC) or later."),
                query("until", DAY, "Arrived on this day (UTC) or earlier."),
                query("reviewed", {"enum": ["no", "yes", "all"], "default": "no"}, "Reviewed or not."),
                query(
                    "q",
                    TEXT,
                    "Words of paths, accession and study UID, or their beginnings; a study holds them all."
                    " A page of words that very many studies hold may have few items or none, yet a next.",
                ),
                CURSOR,
                LIMIT,
            ],
        )
    },
    "/studies/{study_id}": {
        "parameters": [id_of("study_id")],
        "get": operation(
            "Worklist",
            "getStudy",
            "See a study with its finding and its images",
            {"200": answer("The study.", "Study")},
        ),
    },
    "/studies/{study_id}/report": {
        "parameters": [id_of("study_id")],
        "get": operation(
            "Worklist",
            "studyReport",
            "The study's report",
            {"200": answer("The PDF.", None, "application/pdf")},
            parameters=[
                query("version", WHOLE, "Of the finding; the newest when absent."),
                query("bundle", TEXT, "Which read it; the newest batch's when absent."),
            ],
        ),
    },
    "/studies/{study_id}/reviews": {
        "parameters": [id_of("study_id")],
        "get": operation(
            "Worklist", "listReviews", "What readers said of it", {"200": answer("All of it.", "Reviews")}
        ),
        "post": operation(
            "Worklist",
            "createReview",
            "Record a reader's answer; sign it, and a signed version of the report is made",
            {"201": answer("The review.", "Review")},
            requestBody={"content": {"application/json": {"schema": ref("NewReview")}}},
        ),
    },
    "/bundles/{name}/agreement": {
        "parameters": [_NAME],
        "get": operation(
            "Bundles",
            "bundleAgreement",
            "Readers' answers against the bundle, over the studies that they chose to review",
            {"200": answer("The counts.", "Agreement")},
        ),
    },
    "/bundles/{name}/disagreements.csv": {
        "parameters": [_NAME],
        "get": operation(
            "Bundles",
            "bundleDisagreements",
            "The images of studies whose reader contradicted the bundle: a list to train from",
            {"200": answer("One line an image, streamed.", None, "text/csv")},
        ),
    },
}
