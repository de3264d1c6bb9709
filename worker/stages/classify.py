"""Classify: tell the body region of each image, or why it is not assessed."""

from __future__ import annotations

import uuid
from typing import Any

from models.bundle import Bundle
from store.base.bulk import insert_rows, parameter
from store.base.session import session_scope
from store.base.tables import Finding
from vocabulary.reasons import Reason
from vocabulary.states import Stage, Triage
from worker.base.networks import scorer_of
from worker.stages.chunk import Chunk, ModelInputs
from worker.stages.runner import ChunkStage, Saving

#: What somebody has kept meanwhile stands.
_NEW = insert_rows(
    Finding,
    (
        *("id", "site_id", "sha256", "bundle", "precision", "region", "region_probability"),
        *("region_probabilities", "distance", "not_assessable", "triage", "flags"),
    ),
).on_conflict_do_nothing()


def _new_findings(chunk: Chunk, bundle: Bundle) -> list[dict[str, Any]]:
    """Tell the regions of what `bundle` has not seen yet, as rows of findings."""
    with session_scope() as session:
        known = chunk.finding_ids(session, bundle)
    todo = list({image.sha256: image for image in chunk.images if image.sha256 not in known}.values())
    if not todo:
        return []
    stack = ModelInputs(chunk.lease).take(todo, bundle.region_input_size)
    with scorer_of(bundle, chunk.purpose.precision) as scorer:
        chunk.purpose.count_passes(classified=len(todo))
        scores = scorer.classify(stack)
    rows = []
    for image, row, distance in zip(todo, scores.probabilities, scores.distances, strict=True):
        probabilities = {region: float(p) for region, p in zip(bundle.regions, row, strict=True)}
        way = bundle.route(probabilities, float(distance), image, map(Reason, image.flags))
        rows.append(
            {
                "id": uuid.uuid4(),
                "site_id": chunk.lease.site_id,
                "sha256": image.sha256,
                "bundle": bundle.name,
                "precision": chunk.purpose.precision,
                "region": way.region,
                "region_probability": way.probability,
                "region_probabilities": probabilities,
                "distance": float(distance),
                "not_assessable": way.not_assessable.value if way.not_assessable else None,
                "triage": Triage.NOT_ASSESSABLE.value if way.not_assessable else None,
                "flags": [flag.value for flag in way.flags],
            }
        )
    return rows


class Classify(ChunkStage[list[dict[str, Any]]]):
    """Tell each image's region, or why it is not assessed; what a bundle has said of the bytes stands."""

    name = Stage.CLASSIFY

    def compute(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return new findings as rows."""
        return [row for bundle in chunk.bundles for row in _new_findings(chunk, bundle)]

    def save(self, saving: Saving, result: list[dict[str, Any]]) -> bool:
        """Keep the findings that nobody has kept meanwhile."""
        if result:
            result.sort(key=lambda row: (str(row["bundle"]), str(row["sha256"])))
            saving.session.connection().execute(_NEW, parameter(result))
        findings = saving.chunk.finding_ids(saving.session, saving.chunk.bundle)
        for image in saving.images:
            image.finding_id = findings[image.sha256]
        return True
