"""Explain: draw where the model looked, and name its attention regions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select

from pipeline.explain import MARKED, heat_png, locate_attention, overlay_jpeg
from pipeline.types import AttentionRegion
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from vocabulary.states import ImageStatus, Stage
from worker.base.written import Written, picture_key
from worker.stages.chunk import Chunk, cam_of
from worker.stages.runner import ChunkStage, Saving

#: Images whose attention maps the end of a cancelled batch draws together.
EXPLAINED_AT_ONCE = 16


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
        """Copy it to the image's row."""
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
    with Written() as written:
        for image in images:
            finding = findings[image.sha256]
            cam = cam_of(finding)
            if cam is None or image.width is None or image.height is None or image.display_key is None:
                continue
            if image.triage not in MARKED and not draw:
                continue
            width, height = image.width, image.height
            display, suspected = blobs.get(image.display_key), finding.suspected_places or ()
            seen = locate_attention(display, cam, suspected, image.triage, width=width, height=height)
            if seen.marked:
                regions[image.id], places[image.id] = seen.regions, list(seen.places)
            if draw:
                picture = overlay_jpeg(seen.grey, cam, marked=seen.marked, body=seen.body)
                maps[image.id] = written.put(picture_key(image, "overlay.jpg"), picture, image)
                alone = heat_png(cam, width=width, height=height, body=seen.body)
                heat[image.id] = written.put(picture_key(image, "heat.png"), alone, image)
        written.keep()  # the commit is going to name them
    return _Attention(regions, places, maps, heat)


@dataclass(frozen=True)
class _Explained:
    attention: _Attention
    more: Any  # what the batch's purpose has drawn beside that


class Explain(ChunkStage[_Explained]):
    """Draw each read image's attention map, and name its attention regions in original pixels."""

    name = Stage.EXPLAIN

    def compute(self, chunk: Chunk) -> _Explained:
        """Draw, and let the batch's purpose draw more."""
        with session_scope() as session:
            findings = chunk.findings(session, chunk.bundle)
        attention = _look(chunk.images, findings, draw=chunk.batch.with_heatmap)
        more = chunk.purpose.draw(chunk.images, chunk.bundles, chunk.findings, attention.maps)
        return _Explained(attention, more)

    def save(self, saving: Saving, result: _Explained) -> bool:
        """Copy it to the images' rows."""
        for image in saving.images:
            result.attention.apply(image)
        saving.chunk.purpose.save_drawn(saving.session, result.more)
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
