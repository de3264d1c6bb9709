"""What stages do differently for research: several bundles, scores by force, bytes that were never uploaded.

To import this module plugs it into `worker.stages`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.bundle import Bundle
from pipeline.evaluation import forced_region
from pipeline.explain import body_mask, grey_of, overlay_jpeg
from pipeline.types import Float16Array, Rejected, UInt8Array
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from store.research import datasets, runs
from store.research.research_tables import FindingScore, Run, RunKind, RunPicture
from vocabulary.reasons import Reason
from vocabulary.states import Triage
from worker.base import written
from worker.base.written import picture_key
from worker.stages import purpose
from worker.stages.chunk import cam_of
from worker.stages.purpose import Drawn, FindingsOf, Purpose

#: Attention maps as pictures, by image and bundle: key, SHA-256, size.
Pictures = dict[tuple[uuid.UUID, str], tuple[str, str, int]]


class RunPurpose(Purpose):
    """A run: over a data set, with several bundles or networks by force, or of a shadow bundle."""

    is_clinical = False

    def __init__(self, run: Run, batch: Batch) -> None:
        self.run = run
        self.batch = batch

    @property
    def precision(self) -> str:
        """Research repeats in one precision, whatever the service reads in."""
        return runs.PRECISION

    def bundles(self, batch: Batch) -> Sequence[str]:
        """Return the bundles that score it: a data set's run may name several."""
        return super().bundles(batch) if self.run.kind == RunKind.SHADOW else tuple(self.run.bundles)

    def source(self, image: Image) -> bytes | None:
        """Return a data set's bytes, or those of the clinical image that a shadow bundle reads, too."""
        try:
            if image.dataset_image_id is not None:
                return datasets.read_image(image.dataset_image_id)
            if image.source_key is not None:
                return get_blobs().get(image.source_key)
        except BlobMissing as error:
            raise Rejected(Reason.SOURCE_CHANGED) from error
        return None

    def keeps_original(self, image: Image) -> bool:
        """Leave the bytes where they are."""
        return image.dataset_image_id is None and image.source_key is None

    def keeps_display(self, image: Image) -> bool:
        """Keep nothing of a clinical image twice."""
        return image.source_key is None

    def count_passes(self, *, classified: int = 0, detected: int = 0) -> None:
        """Count them in a transaction of its own."""
        if classified + detected:
            with session_scope() as session:
                runs.count_passes(session, self.run.id, classified=classified, detected=detected)

    def required_networks(self, bundle: Bundle, finding: Finding) -> set[str]:
        """Return the service's own networks, and those of an evaluation."""
        required = super().required_networks(bundle, finding)
        if self.run.kind == RunKind.DATASET:
            required.add(bundle.models[forced_region(bundle.models, finding.region_probabilities)].network)
            if self.run.with_routing:
                required |= {model.network for model in bundle.models.values()}
        return required

    def scored_networks(self, session: Session, findings: Sequence[Finding]) -> Mapping[str, set[str]]:
        """Return the networks of findings, and of scores that are none."""
        scored = defaultdict(set, super().scored_networks(session, findings))
        by_id = {finding.id: finding.sha256 for finding in findings}
        query = select(FindingScore.finding_id, FindingScore.network)
        for finding_id, network in session.execute(query.where(FindingScore.finding_id.in_(by_id))):
            scored[by_id[finding_id]].add(network)
        return scored

    def save_unrouted_score(
        self, session: Session, finding: Finding, network: str, columns: Mapping[str, Any]
    ) -> None:
        """Keep a score that is no clinical finding."""
        row = insert(FindingScore).values(finding_id=finding.id, network=network, **columns)
        session.execute(row.on_conflict_do_nothing())

    def draw(
        self, images: Sequence[Image], bundles: Sequence[Bundle], findings_of: FindingsOf, drawn: Drawn
    ) -> Pictures:
        """Draw each bundle's attention maps; the batch's own bundle has drawn what it has read."""
        kept: Pictures = {}
        if not self.batch.with_heatmap:
            return kept
        blobs, maps, negative = get_blobs(), {}, set()
        with session_scope() as session:
            for bundle in bundles:
                findings = findings_of(session, bundle).values()
                maps[bundle.name] = _maps_of(session, bundle, findings)
                negative |= {(bundle.name, f.sha256) for f in findings if f.triage == Triage.NEGATIVE}
        for image in images:
            seen: tuple[UInt8Array, UInt8Array] | None = None  # grey values and body, once for all bundles
            for name, by_hash in maps.items():
                if name == self.batch.bundle and image.id in drawn:
                    kept[image.id, name] = (picture_key(image, "overlay.jpg"), *drawn[image.id])
                elif image.sha256 in by_hash and image.display_key is not None:
                    if seen is None:
                        grey = grey_of(blobs.get(image.display_key))
                        seen = grey, body_mask(grey)
                    key = picture_key(image, f"attention-{name}.jpg")
                    marked = (name, image.sha256) not in negative
                    picture = overlay_jpeg(seen[0], by_hash[image.sha256], marked=marked, body=seen[1])
                    kept[image.id, name] = (key, *blobs.put(key, picture))
        return kept

    def save_drawn(self, session: Session, more: Pictures) -> None:
        """Keep the rows of attention maps as pictures."""
        if more:
            row = insert(RunPicture).values(
                [
                    {"image_id": image_id, "bundle": bundle, "key": key, "sha256": sha256, "size": size}
                    for (image_id, bundle), (key, sha256, size) in sorted(more.items(), key=str)
                ]
            )
            session.execute(
                row.on_conflict_do_update(
                    index_elements=["image_id", "bundle"],
                    set_={column: row.excluded[column] for column in ("key", "sha256", "size")},
                )
            )


def _maps_of(session: Session, bundle: Bundle, findings: Iterable[Finding]) -> dict[str, Float16Array]:
    """Return a bundle's attention maps by sha256: its findings', else those of its scores by force."""
    maps = {}
    for finding in findings:
        cam = cam_of(finding)
        if cam is None:
            region = forced_region(bundle.models, finding.region_probabilities)
            forced = session.get(FindingScore, (finding.id, bundle.models[region].network))
            if forced is None:
                continue
            cam = np.frombuffer(forced.cam, np.float16).reshape(forced.cam_height, forced.cam_width)
        maps[finding.sha256] = cam
    return maps


def _purpose_of(session: Session, batch: Batch) -> RunPurpose | None:
    return RunPurpose(session.get_one(Run, batch.run_id), batch) if batch.run_id else None


def _picture_keys(session: Session, image_ids: Collection[uuid.UUID]) -> Iterable[str]:
    return session.scalars(select(RunPicture.key).where(RunPicture.image_id.in_(image_ids)))


purpose.register(_purpose_of)
written.register(_picture_keys)
