"""What a study's images amount to, and its PDF: new versions of study findings are written here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.bundle import Bundle
from pipeline.evidence import part_evidence
from pipeline.report import render
from pipeline.report.types import BundleCard, EarlierSignature, ReportImage, Signature, StudyReport
from pipeline.study import ImageOutcome, study_finding
from pipeline.types import AttentionRegion, StudyFacts, SuspectedBox
from pipeline.types import Finding as ReadFinding
from settings import VERSION
from store.base.blobs import get_blobs
from store.base.bulk import among
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Site, Study, StudyFinding
from store.reading import studies
from vocabulary.anatomy import family_of
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import shown_flags
from worker.base.networks import cached_bundle

#: Studies whose findings are read and written together: a killed worker's reports are written again.
REPORTS_AT_ONCE = 32


FACTS = tuple(StudyFacts.__dataclass_fields__)


def write_studies(study_ids: Sequence[uuid.UUID], batch: Batch) -> None:
    """Write a new version of each study's finding and report if what it stands on has changed."""
    with session_scope() as session:
        todo, states, latest = studies_due(session, study_ids, batch)
        if not todo:
            return
        site = session.get_one(Site, batch.site_id)
        rows = {study.id: study for study in session.scalars(select(Study).where(among(Study.id, todo)))}
        signed = studies.last_signed(session, todo)
        read = [image.finding_id for id_ in todo for image in states[id_].images if image.finding_id]
        findings = {f.id: f for f in session.scalars(select(Finding).where(among(Finding.id, read)))}
    folder = f"reports/{batch.site_id}/{uuid.uuid4()}/"  # this attempt replaces no other's reports
    new = []
    with get_blobs().group() as group:
        for id_ in todo:
            images, before = states[id_].images, latest.get(id_)
            version = before.version + 1 if before else 1
            said = study_finding([_outcome(image) for image in images])
            reasons = study_reasons(rows[id_], said.reasons)
            kept: studies.Report | None = None
            if batch.with_report:
                document = study_report(
                    site,
                    rows[id_],
                    batch,
                    version,
                    said.triage,
                    reasons,
                    images,
                    findings,
                    earlier=earlier_signature(signed.get(id_), batch.bundle, states[id_].basis),
                )
                pdf = render.render_report(document)
                key = f"{folder}{id_}-{batch.bundle}-v{version}.pdf"
                kept = studies.Report(key, *group.put(key, pdf))
            new.append(
                studies.NewFinding(id_, states[id_].basis, said.triage, reasons, len(images), version, kept)
            )
        group.keep()
    with session_scope() as session:
        saved = studies.save_findings(session, batch, new)
    for finding in new:
        if finding.study_id not in saved and finding.report is not None:
            get_blobs().delete(finding.report.key)  # another worker wrote this version; its key differs


def study_reasons(study: Study, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Return a finding's reasons, and whether other patients' images came under the study's identifier."""
    conflict = Reason.STUDY_IDENTITY_CONFLICT
    return (*reasons, conflict) if study.uid_shared and conflict not in reasons else reasons


def studies_due(
    session: Session, study_ids: Sequence[uuid.UUID], batch: Batch
) -> tuple[list[uuid.UUID], dict[uuid.UUID, studies.StudyState], dict[uuid.UUID, StudyFinding]]:
    """Return the studies that want a new version, and of all what they stand on and what was said last."""
    # of a study that is not ready: whoever explains its last image writes it
    ids = sorted(studies.ready(session, study_ids, batch.id), key=str)
    states = studies.study_states(session, ids, batch.bundle)
    latest = studies.latest_findings(session, ids, batch.bundle)

    def wants(id_: uuid.UUID) -> bool:
        before = latest.get(id_)
        if before is not None and before.basis == states[id_].basis:
            return batch.with_report and before.report_key is None
        return any(_was_read(image) for image in states[id_].images)  # else the rows say why

    return [id_ for id_ in ids if wants(id_)], states, latest


def _was_read(image: Image) -> bool:
    """Tell whether the image was assessed; its finding is there earlier, as soon as the region is known."""
    return image.finding_id is not None and image.triage is not None


def _status(image: Image) -> ImageStatus:
    """Return how the image counts in a study: once it is read it is as good as done."""
    return ImageStatus.DONE if _was_read(image) else ImageStatus(image.status)


def _reasons(image: Image) -> tuple[Reason, ...]:
    codes = ([image.reason] if image.reason else []) + [f for f in image.flags if f != image.reason]
    return tuple(Reason(code) for code in codes)


def _outcome(image: Image) -> ImageOutcome:
    return ImageOutcome(
        status=_status(image),
        triage=Triage(image.triage) if image.triage and image.finding_id else None,
        probability=image.probability if _was_read(image) else None,
        reasons=_reasons(image),
    )


def _facts(image: Image) -> StudyFacts:
    return StudyFacts(**{name: getattr(image, name) for name in FACTS})


def earlier_signature(signed: StudyFinding | None, bundle: str, basis: str) -> EarlierSignature | None:
    """Return what a report says of the version that was signed last, if any was."""
    if signed is None or signed.signed_at is None:
        return None
    return EarlierSignature(
        version=signed.version,
        bundle=signed.bundle,
        reader=signed.signed_by or "",
        signed_at=signed.signed_at,
        amended=(signed.bundle, signed.basis) != (bundle, basis),
    )


def study_report(
    site: Site,
    study: Study,
    batch: Batch,
    version: int,
    worst: Triage,
    reasons: tuple[Reason, ...],
    images: list[Image],
    findings: dict[uuid.UUID, Finding],
    signature: Signature | None = None,
    earlier: EarlierSignature | None = None,
) -> StudyReport:
    """Gather what a study's report says; its pictures are read from the blob store."""
    bundle = cached_bundle(batch.bundle)
    numbers = studies.numbers(images)
    pages = tuple(
        _report_image(
            numbers[image.id],
            image,
            findings.get(image.finding_id) if image.finding_id else None,
            bundle,
            batch,
        )
        for image in images
    )
    first = images[0]
    facts = StudyFacts(
        accession=study.accession or first.accession,
        study_uid=study.study_uid,
        study_date=study.study_date or first.study_date,
        study_time=first.study_time,
        laterality=first.laterality if len({image.laterality for image in images}) == 1 else "",
        age_years=next((image.age_years for image in images if image.age_years is not None), None),
        patient_hash=study.patient_hash,
        body_part=first.body_part,
        view=first.view if len(images) == 1 else "",
    )
    return StudyReport(
        site_name=site.name,
        study_id=str(study.id),
        version=version,
        created_at=datetime.now(UTC),
        facts=facts,
        triage=worst,
        reasons=reasons,
        images=pages,
        bundle=BundleCard(
            name=bundle.name,
            sha256=bundle.sha256,
            label_meaning=bundle.label_meaning,
            trained_on=bundle.trained_on,
            limits=bundle.limits,
        ),
        software_version=VERSION,
        signature=signature,
        earlier=earlier,
        time_zone=site.time_zone,
    )


def _report_image(
    number: int, image: Image, finding: Finding | None, bundle: Bundle, batch: Batch
) -> ReportImage:
    blobs = get_blobs()
    reader = bundle.model_for(finding.region) if finding and finding.not_assessable is None else None
    read = None
    if finding is not None and image.triage is not None:
        read = ReadFinding(
            region=finding.region,
            region_probability=finding.region_probability,
            region_probabilities=finding.region_probabilities,
            probability=finding.probability,
            triage=Triage(image.triage),
            reasons=_reasons(image),
            attention_regions=tuple(AttentionRegion(**region) for region in image.attention_regions),
            suspected_places=tuple(SuspectedBox(**place) for place in image.suspected_places),
        )
    evidence = part_evidence(bundle.manifest, finding.region) if finding is not None and reader else None
    return ReportImage(
        number=number,
        image_id=str(image.id),
        status=_status(image),
        facts=_facts(image),
        width=image.width or 0,
        height=image.height or 0,
        reason=Reason(image.reason) if image.reason else None,
        finding=read,
        thresholds=reader.thresholds if reader else None,
        prevalence=reader.calibration.prevalence if reader else None,
        network=reader.network if reader else "",
        pooled=reader.pooled if reader else False,
        family=family_of(finding.region, bundle.families) if finding and reader else "",
        evidence=evidence,
        flags=shown_flags(
            image.flags, reason=image.reason, region=image.region, age_years=None, study_shared=False
        ),
        original_jpeg=blobs.get(image.display_key) if image.display_key else None,
        overlay_jpeg=blobs.get(image.overlay_key) if image.overlay_key and batch.with_heatmap else None,
    )
