"""What the stages do differently for research: several bundles, scores by force, bytes that lie elsewhere."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.bundle import Bundle
from pipeline.evaluation import forced_region
from pipeline.types import Float16Array, Rejected
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from store.research import datasets, runs
from store.research.research_tables import FindingScore, Run, RunKind, RunPicture
from vocabulary.reasons import Reason

log = logging.getLogger("fractureai.rescoring")


def run_of(session: Session, batch: Batch) -> Run | None:
    """Return the run that a batch belongs to; clinical batches belong to none."""
    return session.get_one(Run, batch.run_id) if batch.run_id else None


def bundles_of(batch: Batch, run: Run | None) -> tuple[str, ...]:
    """Return the bundles that score a batch: a data set's run may name several, which share one decode."""
    if run is None or run.kind == RunKind.SHADOW:
        return (batch.bundle,)
    return tuple(run.bundles)


def read_source(image: Image) -> bytes | None:
    """Return the bytes of an image that lie elsewhere; None for an upload.

    Raises
    ------
    Rejected
        They are gone, or not those that were registered.
    """
    try:
        if image.dataset_image_id is not None:
            return datasets.read_image(image.dataset_image_id)
        if image.source_key is not None:
            return get_blobs().get(image.source_key)
    except BlobMissing as error:
        raise Rejected(Reason.SOURCE_CHANGED) from error
    return None


def count(run: Run | None, *, classified: int = 0, detected: int = 0) -> None:
    """Count images before they go through networks, in a transaction of its own."""
    if run is not None and classified + detected:
        with session_scope() as session:
            runs.count_passes(session, run.id, classified=classified, detected=detected)


def required_networks(bundle: Bundle, finding: Finding, run: Run | None) -> set[str]:
    """Return the networks whose word on an image is wanted: the service's own, and those of an evaluation."""
    wanted = set()
    reader = bundle.model_for(finding.region)
    if finding.not_assessable is None:
        if reader is None:
            raise LookupError(f"bundle {bundle.name} has no network for {finding.region}")
        wanted.add(reader.network)
    if run is not None and run.kind == RunKind.DATASET:
        wanted.add(bundle.models[forced_region(bundle.models, finding.region_probabilities)].network)
        if run.with_routing:
            wanted |= {model.network for model in bundle.models.values()}
    return wanted


def scored_networks(session: Session, findings: Sequence[Finding]) -> Mapping[str, set[str]]:
    """Return, by sha256, the networks that have scored the bytes already."""
    heard: defaultdict[str, set[str]] = defaultdict(set)
    by_id = {finding.id: finding for finding in findings}
    for finding in findings:
        if finding.logit is not None and finding.network is not None:
            heard[finding.sha256].add(finding.network)
    query = select(FindingScore.finding_id, FindingScore.network).where(FindingScore.finding_id.in_(by_id))
    for finding_id, network in session.execute(query):
        heard[by_id[finding_id].sha256].add(network)
    return heard


def save_unrouted_score(session: Session, finding: Finding, network: str, columns: Mapping[str, Any]) -> None:
    """Keep a score that is no clinical finding: its logit and attention map, as the columns hold them."""
    session.execute(
        insert(FindingScore)
        .values(finding_id=finding.id, network=network, **columns)
        .on_conflict_do_nothing()
    )


def cam_of(kept: Finding | FindingScore) -> Float16Array | None:
    """Return the attention map (float16, rows by columns) that was kept with a score, if one was."""
    if kept.cam is None or kept.cam_height is None or kept.cam_width is None:
        return None
    return np.frombuffer(kept.cam, np.float16).reshape(kept.cam_height, kept.cam_width)


def maps_of(session: Session, bundle: Bundle, findings: Iterable[Finding]) -> dict[str, Float16Array]:
    """Return a bundle's attention maps by sha256: its findings', else those of its scores by force."""
    maps = {}
    for finding in findings:
        kept: Finding | FindingScore | None = finding
        if finding.cam is None:
            region = forced_region(bundle.models, finding.region_probabilities)
            kept = session.get(FindingScore, (finding.id, bundle.models[region].network))
        cam = cam_of(kept) if kept is not None else None
        if cam is not None:
            maps[finding.sha256] = cam
    return maps


def save_pictures(session: Session, pictures: Mapping[tuple[uuid.UUID, str], tuple[str, str, int]]) -> None:
    """Keep the rows of attention maps as pictures, by image and bundle: key, SHA-256, size."""
    if pictures:
        row = insert(RunPicture).values(
            [
                {"image_id": image_id, "bundle": bundle, "key": key, "sha256": sha256, "size": size}
                for (image_id, bundle), (key, sha256, size) in sorted(pictures.items(), key=str)
            ]
        )
        session.execute(
            row.on_conflict_do_update(
                index_elements=["image_id", "bundle"],
                set_={column: row.excluded[column] for column in ("key", "sha256", "size")},
            )
        )
