"""Studies for the viewer: DICOM films of 12 bits, drawn as the stages draw them, without a neural network."""

from __future__ import annotations

import uuid

import cv2
import numpy as np
import numpy.typing as npt

from phantoms.film import make_phantom
from pipeline.decode.picture import decode
from pipeline.explain import attention_regions, body_mask, heat_png, overlay_jpeg
from pipeline.preprocess import display_jpeg, display_pixels
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Image
from tests.reading import read_batch
from tests.unit.test_dicom import make_dicom
from tests.web.asking import Asker

#: Where the wedge of eight steps lies in every film: left, top, width of a step, height.
WEDGE = (40, 30, 20, 40)
SPACING = 0.15


def film(seed: int, size: tuple[int, int] = (600, 480)) -> npt.NDArray[np.uint16]:
    """Return a hand of 12 bits; its wedge has eight steps of four values, which one grey of 256 covers."""
    phantom = make_phantom(seed, "hand", size=size)
    values = 400 + 12 * phantom.pixels.astype(np.uint16)
    left, top, step, height = WEDGE
    for n in range(8):
        values[top : top + height, left + n * step : left + (n + 1) * step] = 2000 + 2 * n
    return values


def dicom(seed: int, size: tuple[int, int] = (600, 480), **header: object) -> bytes:
    """Return the film as a file."""
    known = {"ImagerPixelSpacing": [SPACING, SPACING], "PatientOrientation": ["L", "F"]}
    return make_dicom(
        film(seed, size), **{"SOPInstanceUID": f"1.2.{seed}", "StudyInstanceUID": "1.2.3", **known, **header}
    )


def study(ask: Asker, n: int = 2, *, ages: int | None = 44, size: tuple[int, int] = (600, 480)) -> str:
    """Return the id of a study of `n` films, read and drawn; each film has its picture at full depth."""
    batch = ask.draft(label="Films")
    files = {f"film {number}.dcm": dicom(number, size) for number in range(1, n + 1)}
    ask.send(batch, *files.items())
    ask.post(f"/batches/{batch}/submit")
    facts = {"study_uid": f"1.2.{uuid.uuid4().int}", "accession": "ACC-1", "view": "AP"}
    read_batch(batch, facts=lambda _: {**facts, **({} if ages is None else {"age_years": ages})})  # type: ignore[dict-item]
    with session_scope() as session:
        for image in session.query(Image).filter_by(batch_id=uuid.UUID(batch)):
            draw(image, files[image.path])
            found = image.study_id
    return str(found)


def draw(image: Image, data: bytes) -> None:
    """Give an image the pictures that prepare, explain and a viewer's wish would give it."""
    blobs, folder = get_blobs(), f"images/{image.site_id}/{image.id}"
    shown = decode(data, max_pixels=10**8, pseudonymise=str)
    deep = decode(data, max_pixels=10**8, pseudonymise=str, at_full_depth=True)
    height, width = shown.pixels.shape
    cam = cv2.GaussianBlur(np.eye(7, dtype=np.float32), (3, 3), 1)
    body = body_mask(display_pixels(shown.pixels))
    pictures = {
        "display": display_jpeg(shown.pixels),
        "overlay": overlay_jpeg(display_pixels(shown.pixels), cam, body=body),
        "heat": heat_png(cam, width=width, height=height, body=body),
        "pixels": deep.stored,
    }
    for name, picture in pictures.items():
        setattr(image, f"{name}_key", f"{folder}/{name}")
        sha256, _ = blobs.put(f"{folder}/{name}", picture)
        setattr(image, f"{name}_sha256", sha256)
    image.width, image.height, image.media_type = width, height, "application/dicom"
    image.pixels_at = image.created_at
    image.rendering = [{"code": step.code.value, "detail": step.detail} for step in shown.rendering]
    image.attention_regions = [
        {"x": r.x, "y": r.y, "width": r.width, "height": r.height, "score": r.score}
        for r in attention_regions(cam, width=width, height=height, body=body)
    ] or [{"x": 100, "y": 200, "width": 150, "height": 150, "score": 0.7}]
