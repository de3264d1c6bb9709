"""The part of the API's description about sending much: what is here already, and files in pieces."""

from __future__ import annotations

from web.openapi_parts import (
    BYTES,
    LINK,
    TEXT,
    WHOLE,
    Json,
    answer,
    header,
    id_of,
    many,
    maybe,
    operation,
    record,
    ref,
)

_TAG = "Large files"
_TUS = header("Tus-Resumable", "1.0.0: this is the protocol of https://tus.io/protocols/resumable-upload.")
_OFFSET: Json = {"Upload-Offset": {"schema": TEXT}, "Upload-Expires": {"schema": TEXT}}
_FILE: Json = {"filename": TEXT, "sha256": TEXT | {"pattern": "^[0-9a-f]{64}$"}}
_OTHER_VERSION: Json = {
    "412": {"description": "Tus-Resumable is missing or of another version; Tus-Version names ours."}
}
_NO_BODY: Json = {"content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}}}

SCHEMAS: Json = {
    "AskedFiles": record(
        {
            "files": many(record(_FILE)) | {"maxItems": 500},
            "bytes": WHOLE | {"description": "To come in all; refused when the site's quota is less."},
        },
        required=False,
    ),
    "KnownFiles": record(
        {
            "files": many(
                record(
                    {
                        **_FILE,
                        "status": {"type": "string", "enum": ["accepted", "rejected"]},
                        "reason": maybe(ref("Reason")),
                    }
                )
            )
        }
    ),
}

PATHS: Json = {
    "/batches/{batch_id}/known": {
        "parameters": [id_of("batch_id")],
        "post": operation(
            "Batches",
            "knownFiles",
            "Ask which files the draft has already, so that an upload goes on where it broke off",
            {"200": answer("Those of the files that this draft has.", "KnownFiles")},
            requestBody={"content": {"application/json": {"schema": ref("AskedFiles")}}},
        ),
    },
    "/batches/{batch_id}/uploads": {
        "parameters": [id_of("batch_id")],
        "post": operation(
            _TAG,
            "createUpload",
            "Announce a large file, to be sent in pieces (tus 1.0 creation)",
            {
                "201": {
                    "description": "Send the pieces to Location.",
                    "headers": _OFFSET | {"Location": {"schema": LINK}},
                },
                "413": {"description": "It is larger than Tus-Max-Size."},
            }
            | _OTHER_VERSION,
            parameters=[
                _TUS,
                header("Upload-Length", "Bytes of the whole file."),
                header("Upload-Metadata", "filename and its path in Base64."),
            ],
        ),
    },
    "/uploads/{upload_id}": {
        "parameters": [id_of("upload_id")],
        "patch": operation(
            _TAG,
            "appendUpload",
            "Send a piece (tus 1.0 core); HEAD says where to go on",
            {"204": {"description": "Taken; the next piece starts at Upload-Offset.", "headers": _OFFSET}}
            | _OTHER_VERSION,
            parameters=[_TUS, header("Upload-Offset", "Where the piece starts.")],
            requestBody={"content": {"application/offset+octet-stream": {"schema": BYTES}}},
        ),
        "delete": operation(
            _TAG,
            "deleteUpload",
            "Forget a large file (tus 1.0 termination)",
            {"204": {"description": "It is gone."}} | _OTHER_VERSION,
            parameters=[_TUS],
        ),
    },
    "/uploads/{upload_id}/take": {
        "parameters": [id_of("upload_id")],
        "post": operation(
            _TAG,
            "takeUpload",
            "Take a file that has arrived whole into its draft, a ZIP member by member",
            {"200": answer("What became of each file.", "FileAnswers")},
            requestBody=_NO_BODY,
        ),
    },
}
