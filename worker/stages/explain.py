"""Explain: draw where the model looked, and name its attention regions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import cv2
import numpy as np
from sqlalchemy import select

from pipeline.explain import attention_regions, body_mask, heat_png, on_body, overlay_jpeg
from pipeline.types import AttentionRegion, UInt8Array
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from vocabulary.states import ImageStatus, Stage, Triage
from worker.base.written import picture_key
from worker.research import rescoring
from worker.stages.chunk import Chunk
from worker.stages.runner import ChunkStage, Saving

#: Images whose attention maps the end of a cancelled batch draws together.
EXPLAINED_AT_ONCE = 16


#: On what else nothing is marked: the map of a negative points at what the model did not find.
_MARKED = frozenset({Triage.POSITIVE.value, Triage.DOUBT.value})


def _grey(jpeg: bytes) -> UInt8Array:
    return cast(UInt8Array, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE))


@dataclass(frozen=True)
class _Attention:
    """Where the model looked in some images: regions, places, and SHA-256 and size of what was drawn.

    `maps` lie over the radiograph, `heat` is by itself.
    """

    regions: Mapping[uuid.UUID, tuple[AttentionRegion, ...]]
    places: Mapping[uuid.UUID, list[Any]]
    maps: Mapping[uuid.UUID, tuple[str, int]]
    heat: Mapping[uuid.UUID, tuple[str, int]]

    def apply(self, image: Image) -> None:
        """Put it into the image's row."""
        image.attention_regions = [asdict(region) for region in self.regions.get(image.id, ())]
        image.suspected_places = self.places.get(image.id, [])
        if image.id in self.maps:
            image.overlay_key = picture_key(image, "overlay.jpg")
            image.overlay_sha256, image.overlay_size = self.maps[image.id]
            image.heat_key, (image.heat_sha256, _) = picture_key(image, "heat.png"), self.heat[image.id]


def _look(images: Iterable[Image], findings: Mapping[str, Finding], *, draw: bool) -> _Attention:
    """Look where the model looked: on the body alone; nothing is marked on a negative."""
    blobs = get_blobs()
    regions: dict[uuid.UUID, tuple[AttentionRegion, ...]] = {}
    places: dict[uuid.UUID, list[Any]] = {}
    maps: dict[uuid.UUID, tuple[str, int]] = {}
    heat: dict[uuid.UUID, tuple[str, int]] = {}
    for image in images:
        finding = findings[image.sha256]
        cam = rescoring.cam_of(finding)
        if cam is None or image.width is None or image.height is None or image.display_key is None:
            continue
        marked = image.triage in _MARKED
        if not marked and not draw:
            continue
        grey = _grey(blobs.get(image.display_key))
        body = body_mask(grey)
        if marked:
            width, height = image.width, image.height
            regions[image.id] = attention_regions(cam, width=width, height=height, body=body)
            places[image.id] = [
                place for place in finding.suspected_places or () if on_body(body, place, width, height)
            ]
        if draw:
            picture = overlay_jpeg(grey, cam, marked=marked, body=body)
            maps[image.id] = blobs.put(picture_key(image, "overlay.jpg"), picture)
            alone = heat_png(cam, width=image.width, height=image.height, body=body)
            heat[image.id] = blobs.put(picture_key(image, "heat.png"), alone)
    return _Attention(regions, places, maps, heat)


@dataclass(frozen=True)
class _Explained:
    attention: _Attention
    run_pictures: Mapping[tuple[uuid.UUID, str], tuple[str, str, int]]


class Explain(ChunkStage[_Explained]):
    """Draw each read image's attention map, and name its attention regions in original pixels."""

    name = Stage.EXPLAIN

    def compute(self, chunk: Chunk) -> _Explained:
        """Draw; in a run, each bundle's maps."""
        with session_scope() as session:
            findings = chunk.findings(session, chunk.bundle)
        attention = _look(chunk.images, findings, draw=chunk.batch.with_heatmap)
        wanted = chunk.run is not None and chunk.batch.with_heatmap
        return _Explained(attention, _run_pictures(chunk, attention.maps) if wanted else {})

    def save(self, saving: Saving, result: _Explained) -> bool:
        """Put it into the images' rows."""
        for image in saving.images:
            result.attention.apply(image)
        rescoring.save_pictures(saving.session, result.run_pictures)
        return True


def explain_cancelled(batch: Batch) -> None:
    """Draw what a cancel left undrawn: the attention maps of images that had been read before it."""
    query = (
        select(Image)
        .where(
            Image.batch_id == batch.id,
            Image.status == ImageStatus.DONE,
            Image.probability.is_not(None),
            Image.display_key.is_not(None),
            Image.overlay_key.is_(None) if batch.with_heatmap else Image.attention_regions == [],
        )
        .order_by(Image.seq)
    )
    with session_scope() as session:
        ids = list(session.scalars(query.with_only_columns(Image.id)))
    for start in range(0, len(ids), EXPLAINED_AT_ONCE):
        part = Image.id.in_(ids[start : start + EXPLAINED_AT_ONCE])
        with session_scope() as session:
            images = list(session.scalars(query.where(part)))
            wanted = {image.finding_id for image in images}
            rows = session.scalars(select(Finding).where(Finding.id.in_(wanted)))
            findings = {row.sha256: row for row in rows}
        attention = _look(images, findings, draw=batch.with_heatmap)
        with session_scope() as session:
            for image in session.scalars(query.where(part).with_for_update()):
                attention.apply(image)


def _run_pictures(
    chunk: Chunk, drawn: Mapping[uuid.UUID, tuple[str, int]]
) -> dict[tuple[uuid.UUID, str], tuple[str, str, int]]:
    """Draw each bundle's attention maps over a run's images; by image and bundle: key, SHA-256, size.

    The batch's own bundle has drawn what it has read.
    """
    blobs, kept, maps = get_blobs(), {}, {}
    negative = set()
    with session_scope() as session:
        for bundle in chunk.bundles:
            findings = chunk.findings(session, bundle)
            maps[bundle.name] = rescoring.maps_of(session, bundle, findings.values())
            negative |= {(bundle.name, f.sha256) for f in findings.values() if f.triage == Triage.NEGATIVE}
    for image in chunk.images:
        seen: tuple[UInt8Array, UInt8Array] | None = None  # picture and body, looked at once for all bundles
        for name, by_hash in maps.items():
            if name == chunk.bundle.name and image.id in drawn:
                kept[image.id, name] = (picture_key(image, "overlay.jpg"), *drawn[image.id])
            elif image.sha256 in by_hash and image.display_key is not None:
                if seen is None:
                    grey = _grey(blobs.get(image.display_key))
                    seen = grey, body_mask(grey)
                key = picture_key(image, f"attention-{name}.jpg")
                marked = (name, image.sha256) not in negative
                picture = overlay_jpeg(seen[0], by_hash[image.sha256], marked=marked, body=seen[1])
                kept[image.id, name] = (key, *blobs.put(key, picture))
    return kept
