"""Answers stored bytes: an ETag, a name, and nothing that a browser would run."""

from __future__ import annotations

import re
import uuid
from urllib.parse import quote

from flask import Response, request

from store.base.blobs import get_blobs
from store.base.errors import NotFound
from store.results.downloads import ExportRequest, stream
from vocabulary.media import EXTENSIONS

#: What a browser may show in its window; everything else is saved to disk.
_SHOWN = frozenset({"image/jpeg", "image/png", "application/pdf"})


def send_blob(
    object_id: uuid.UUID,
    kind: str,
    key: str | None,
    media_type: str,
    sha256: str | None,
    *,
    name: str = "",
) -> Response:
    """Answer stored bytes: an ETag, a name, and nothing that a browser would run. Raises `NotFound`.

    Parameters
    ----------
    name
        What the owner calls the object, for the copy that they keep; the stored bytes do not hold it.
    """
    if key is None:
        raise NotFound
    shown = media_type in _SHOWN
    extension = EXTENSIONS.get(media_type, "bin")
    disposition = f'{"inline" if shown else "attachment"}; filename="{object_id}-{kind}.{extension}"'
    if name:
        stem = re.sub(r"[^\w.-]+", " ", name).strip(" .")[:80]
        disposition += f"; filename*=UTF-8''{quote(f'{stem} {kind}.{extension}', safe='')}"
    headers = {"Content-Disposition": disposition}
    if media_type == "application/pdf":  # a browser's own viewer is an object with inline style
        headers["Content-Security-Policy"] = (
            "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
        )
    if sha256 and request.if_none_match.contains_weak(sha256):
        response = Response(status=304, headers=headers)
    else:
        response = Response(get_blobs().stream(key), headers=headers, content_type=media_type)
        response.content_length = get_blobs().size(key)
    if sha256:
        response.set_etag(sha256)
    return response


def send_stream(export: ExportRequest) -> Response:
    """Answer a file while it is made."""
    response = Response(stream(export), content_type=export.format.media_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{export.file_name}"'
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that buffers would hold the first byte back
    return response
