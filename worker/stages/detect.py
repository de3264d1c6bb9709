"""Detect: read each image by the fracture network of its region."""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from sqlalchemy.orm import Session

from models.bundle import Bundle
from models.scorer import FractureScores
from pipeline.triage import calibrate, judge, may_be_negative, triage
from pipeline.types import Float16Array, RegionModel
from store.base.bulk import parameter, update_rows
from store.base.session import session_scope
from store.base.tables import Finding, Image
from store.reading import validations
from vocabulary.reasons import Reason
from vocabulary.states import Stage, Triage
from worker.base.networks import scorer_of
from worker.stages.chunk import Chunk, ModelInputs
from worker.stages.runner import ChunkStage, Saving


@dataclass(frozen=True)
class _Score:
    logit: float
    cam: Float16Array
    places: list[dict[str, Any]] | None

    def columns(self) -> dict[str, Any]:
        """Return what is kept of it, whatever it is said of."""
        height, width = self.cam.shape
        cam = self.cam.astype(np.float16).tobytes()
        return {"logit": self.logit, "cam": cam, "cam_height": height, "cam_width": width}


def _scored(image: Image, bundle: Bundle, answer: FractureScores, number: int) -> _Score:
    """Take the answer for one image, with its suspected places where the bundle draws them."""
    places, width, height = None, image.width, image.height
    if width and height and (found := answer.places(number, width, height, bundle.places)) is not None:
        places = [asdict(place.in_pixels(width, height)) for place in found]
    return _Score(float(answer.logits[number]), answer.cams[number], places)


@dataclass(frozen=True)
class _Scored:
    """What a bundle has scored anew, by (sha256, network), and the findings that it is about, by sha256."""

    scores: dict[tuple[str, str], _Score]
    findings: dict[str, Finding]


def _new_scores(chunk: Chunk, bundle: Bundle) -> _Scored:
    """Score what `bundle` has not scored yet."""
    with session_scope() as session:
        findings = chunk.findings(session, bundle)
        scored = chunk.purpose.scored_networks(session, list(findings.values()))
    groups: defaultdict[str, dict[str, Image]] = defaultdict(dict)
    for image in chunk.images:
        required = chunk.purpose.required_networks(bundle, findings[image.sha256])
        for network in required - scored.get(image.sha256, set()):
            groups[network][image.sha256] = image
    scores: dict[tuple[str, str], _Score] = {}
    stacks = ModelInputs(chunk.lease) if groups else None
    for network, images_by_sha in sorted(groups.items()):
        images = list(images_by_sha.values())
        stack = cast(ModelInputs, stacks).take(images, bundle.input_size(network))
        with scorer_of(bundle, chunk.purpose.precision) as scorer:
            chunk.purpose.count_passes(detected=len(images))
            answer = scorer.detect(network, stack)
        for number, image in enumerate(images):
            scores[image.sha256, network] = _scored(image, bundle, answer, number)
    return _Scored(scores, findings)


_Scores = dict[str, _Scored]


class Detect(ChunkStage[_Scores]):
    """Read each image by its region's network: probability and class-activation map in one pass."""

    name = Stage.DETECT

    def compute(self, chunk: Chunk) -> _Scores:
        """Return by bundle what it has not scored yet."""
        return {bundle.name: _new_scores(chunk, bundle) for bundle in chunk.bundles}

    def save(self, saving: Saving, result: _Scores) -> bool:
        """Keep the scores, and put what was said of each image beside it."""
        session, chunk = saving.session, saving.chunk
        earned = {b.name: _may_say_negative(session, chunk.lease.site_id, b) for b in chunk.bundles}
        for bundle in sorted(chunk.bundles, key=lambda b: b.name):
            allowed = earned[bundle.name]
            rows, scored = [], result[bundle.name]
            for (sha256, network), score in sorted(scored.scores.items()):
                finding = scored.findings[sha256]  # what is read of it here never changes
                reader = bundle.model_for(finding.region)
                if finding.not_assessable is None and reader is not None and reader.network == network:
                    rows.append(_score_row(finding, reader, score, allowed))
                else:
                    chunk.purpose.save_unrouted_score(session, finding, network, score.columns())
            if rows:
                session.connection().execute(_SAY, parameter(rows))
        allowed = earned.get(chunk.bundle.name)
        if allowed is None:  # its run reads by others
            allowed = _may_say_negative(session, chunk.lease.site_id, chunk.bundle)
        findings = chunk.findings(session, chunk.bundle)
        for image in saving.images:
            _apply_finding(image, findings[image.sha256], chunk.bundle, allowed)
        return True


def _reader(bundle: Bundle, region: str) -> RegionModel:
    model = bundle.model_for(region)
    if model is None:
        raise LookupError(f"bundle {bundle.name} has no network for {region}")
    return model


def _may_say_negative(session: Session, site_id: uuid.UUID, bundle: Bundle) -> frozenset[str]:
    """Return the regions that the bundle may call negative here: by its evidence or the site's validation."""
    earned = {region for region, model in bundle.models.items() if model.may_say_negative}
    return validations.validated(session, site_id, bundle.name) | earned


_SAID = ("network", "probability", "triage", "suspected_places", "logit", "cam", "cam_height", "cam_width")
#: The first to score a finding has said it.
_SAY = update_rows(Finding, _SAID).where(Finding.__table__.c.logit.is_(None))


def _score_row(
    finding: Finding, reader: RegionModel, score: _Score, may_say_negative: frozenset[str]
) -> dict[str, Any]:
    """Return what a score makes of a finding, as `_SAY` takes it."""
    probability = calibrate(score.logit, reader.calibration)
    never_negative = finding.region not in may_say_negative or not may_be_negative(map(Reason, finding.flags))
    return {
        "id": finding.id,
        "network": reader.network,
        "probability": probability,
        "triage": triage(probability, reader.thresholds, never_negative=never_negative).value,
        "suspected_places": score.places,
        **score.columns(),
    }


def _apply_finding(image: Image, finding: Finding, bundle: Bundle, may_say_negative: frozenset[str]) -> None:
    """Copy the shared finding to the image's row, with this image's own flags."""
    image.finding_id = finding.id
    image.region, image.region_probability = finding.region, finding.region_probability
    flags = {Reason(flag) for flag in (*image.flags, *finding.flags)}
    not_assessable = finding.not_assessable
    if Reason.TOO_LITTLE_CONTRAST in flags:  # the finding of these bytes may be older than that measure
        flags.remove(Reason.TOO_LITTLE_CONTRAST)
        not_assessable = Reason.TOO_LITTLE_CONTRAST.value
    if not_assessable is not None:
        image.reason = not_assessable
        image.triage, image.probability = Triage.NOT_ASSESSABLE.value, None
    elif finding.probability is not None:
        reader = _reader(bundle, finding.region)
        said, flags = judge(
            finding.probability, reader, flags, may_say_negative=finding.region in may_say_negative
        )
        image.probability, image.triage = finding.probability, said.value
    image.flags = sorted(flag.value for flag in flags)
