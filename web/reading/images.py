"""One image: its finding, and its bytes."""

from __future__ import annotations

import uuid
from pathlib import PurePosixPath
from typing import Any

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base import tables
from store.base.errors import NotFound
from store.base.session import session_scope
from store.bundles import bundles
from store.intake import batches
from store.queue import dispatch
from store.reading import full_depth
from store.reading import images as stored_images
from store.reading.images import ImageRow
from vocabulary.media import EXTENSIONS
from web.auth.identity import audit, identity, needs
from web.base.binding import (
    ETAG,
    IF_NONE_MATCH,
    Reply,
    operation,
)
from web.base.sending import send_blob
from web.contract.base import API
from web.contract.images import Image
from web.intake.actions import sees_findings

area = Blueprint("images", __name__, url_prefix=API)


def visible_image(session: Session, image_id: uuid.UUID) -> tuple[ImageRow, tables.Batch]:
    """Return an image of the site, and its batch, if the one who asks may see what its bundle says.

    Raises `NotFound`.
    """
    row = stored_images.get_image(session, identity().site_id, image_id)
    batch = batches.get_batch(session, identity().site_id, row.image.batch_id)
    if not sees_findings(batch):
        raise NotFound
    return row, batch


@area.get("/images/<uuid:image_id>")
@operation("Images", "getImage", "See an image with its finding", {200: Reply("The image.", Image)})
@needs(Permission.READ)
def get_image(image_id: uuid.UUID) -> Image:
    """Answer one image with its finding."""
    with session_scope() as session:
        row, batch = visible_image(session, image_id)
        audit(session, "image_viewed", image_id)
        return Image.of(row, bundles.get_bundle(session, batch.bundle))


def _bytes(*media_types: str) -> dict[str, Any]:
    found = Reply("The bytes.", media_types, ETAG)
    return {"answers": {200: found, 304: Reply("Not changed.")}, "headers": IF_NONE_MATCH}


@area.get("/images/<uuid:image_id>/<any(original,display,overlay,heat,report):kind>")
@operation(
    "Images",
    "imageOriginal",
    "Download the pseudonymised original",
    when="original",
    **_bytes("image/jpeg", "image/png", "application/dicom", "application/octet-stream"),
)
@operation("Images", "imageDisplay", "The picture to look at", when="display", **_bytes("image/jpeg"))
@operation("Images", "imageOverlay", "The attention map over it", when="overlay", **_bytes("image/jpeg"))
@operation(
    "Images",
    "imageHeat",
    "The attention map alone, transparent where the model did not look",
    when="heat",
    **_bytes("image/png"),
)
@operation("Images", "imageReport", "The report of its study", when="report", **_bytes("application/pdf"))
@needs(Permission.READ)
def get_bytes(image_id: uuid.UUID, kind: str) -> Response:
    """Answer the pseudonymised original, a picture to look at, the heat map over it or alone, or the PDF."""
    with session_scope() as session:
        row, _ = visible_image(session, image_id)
        # the pictures of a page belong to the page that was noted; a program has no page
        if kind in {"original", "report"} or identity().csrf_token is None:
            audit(session, f"{kind}_viewed", image_id)
    image, found = row.image, row.study_finding
    if kind == "original":
        media_type = image.media_type if image.media_type in EXTENSIONS else "application/octet-stream"
        return send_blob(image_id, kind, image.original_key, media_type, image.original_sha256)
    if kind == "display":
        return send_blob(image_id, kind, image.display_key, "image/jpeg", image.display_sha256)
    if kind == "overlay":
        return send_blob(image_id, kind, image.overlay_key, "image/jpeg", image.overlay_sha256)
    if kind == "heat":
        return send_blob(image_id, kind, image.heat_key, "image/png", image.heat_sha256)
    if found is None:
        raise NotFound
    name = image.accession or PurePosixPath(image.path).stem
    return send_blob(image_id, kind, found.report_key, "application/pdf", found.report_sha256, name=name)


@area.get("/images/<uuid:image_id>/pixels")
@operation(
    "Images",
    "imagePixels",
    "The picture at full depth and size, as a PNG of 8 or 16 bits",
    {
        200: Reply(
            "The bytes; a text chunk tells windows, pixel size and orientation.", ("image/png",), ETAG
        ),
        202: Reply("A worker is making it: ask again in a second."),
        304: Reply("Not changed."),
    },
    headers=IF_NONE_MATCH,
)
@needs(Permission.READ)
def get_pixels(image_id: uuid.UUID) -> Response:
    """Answer an image with every grey value of its original; the first who asks has it made."""
    with session_scope() as session:
        visible_image(session, image_id)
        answer, image = full_depth.ask(session, image_id)
        if identity().csrf_token is None and answer is full_depth.Answer.READY:
            audit(session, "pixels_viewed", image_id)
    if answer is full_depth.Answer.MAKING:
        dispatch.dispatch()
        return Response(status=202, headers={"Retry-After": "1"})
    return send_blob(image_id, "pixels", image.pixels_key, "image/png", image.pixels_sha256)
