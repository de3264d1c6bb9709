"""Readings as FHIR resources, read from the rows of a site; what a bundle on trial says is not among them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, Select, or_, select
from sqlalchemy.orm import Session

from store.base.errors import NotFound
from store.base.paging import Keyset, Page, moment
from store.base.tables import Batch, Bundle, Study, StudyFinding
from store.bundles.words import label_meaning
from store.reading import studies
from store.reading.reported import Reported, ReportedImage
from store.results import fhir_resources
from store.results.fhir_resources import Resource
from vocabulary.states import Triage


def _readings(site_id: uuid.UUID) -> Select[StudyFinding, Study, Bundle]:
    return (
        select(StudyFinding, Study, Bundle)
        .join(Study, Study.id == StudyFinding.study_id)
        .join(Batch, Batch.id == StudyFinding.batch_id)
        .join(Bundle, Bundle.name == StudyFinding.bundle)
        .where(StudyFinding.site_id == site_id, Batch.promoted, Batch.run_id.is_(None), Study.study_uid != "")
    )


def _reported(session: Session, rows: Sequence[Row[StudyFinding, Study, Bundle]]) -> list[Reported]:
    """Return readings as they are told: the images are those that the study has by now."""
    found = []
    for finding, study, bundle in rows:
        state = studies.study_state(session, study.id, finding.bundle)
        images = [
            ReportedImage(
                number=image.number or 0,
                sop_uid=image.sop_uid,
                region=image.region or "",
                laterality=image.laterality,
                triage=Triage(image.triage),
                probability=image.probability,
            )
            for image in state.images
            if image.finding_id is not None and image.triage and state.basis == finding.basis
        ]
        found.append(
            Reported(
                id=finding.id,
                study_uid=study.study_uid,
                accession=study.accession,
                patient=study.patient_hash,
                patient_system=f"{fhir_resources.SYSTEM}:pseudonym",
                bundle=bundle.name,
                bundle_hash=bundle.sha256,
                label_meaning=label_meaning(bundle),
                version=finding.version,
                triage=Triage(finding.triage),
                made_at=finding.created_at,
                images=images,
                signed_by=finding.signed_by or "",
                signed_at=finding.signed_at,
            )
        )
    return found


def _report(said: Reported) -> Resource:
    results = [f"Observation/{fhir_resources.observation_id(said.id, i.number)}" for i in said.images]
    return fhir_resources.report(said, results=results)


def _one(session: Session, site_id: uuid.UUID, report: uuid.UUID) -> Reported:
    rows = session.execute(_readings(site_id).where(StudyFinding.id == report)).all()
    if not rows:
        raise NotFound
    return _reported(session, rows)[0]


def get_report(session: Session, site_id: uuid.UUID, report: uuid.UUID) -> Resource:
    """Return a version of what is said of a study as a DiagnosticReport. Raises `NotFound`."""
    return _report(_one(session, site_id, report))


def get_observation(session: Session, site_id: uuid.UUID, report: uuid.UUID, number: int) -> Resource:
    """Return what a version says of one image, whose number in its study is given. Raises `NotFound`."""
    said = _one(session, site_id, report)
    for image in said.images:
        if image.number == number:
            place = f"Device/{fhir_resources.device_id(said.bundle, said.bundle_hash)}"
            return fhir_resources.observation(said, image, device_reference=place)
    raise NotFound


def get_device(session: Session, name: str) -> Resource:
    """Return the Device for a bundle by its name or its hash. Raises `NotFound`."""
    bundle = session.scalars(select(Bundle).where(or_(Bundle.name == name, Bundle.sha256 == name))).first()
    if bundle is None:
        raise NotFound
    return fhir_resources.device(bundle.name, bundle.sha256)


_BY_CREATION = Keyset((StudyFinding.created_at, StudyFinding.id), (moment, uuid.UUID))


def search_reports(
    session: Session,
    site_id: uuid.UUID,
    *,
    identifier: str | None = None,
    since: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Resource]:
    """Return DiagnosticReports, the oldest first.

    Parameters
    ----------
    identifier
        An accession number, or a Study Instance UID.
    since
        Reports that were made or signed then or later.

    Raises
    ------
    InvalidCursor
    """
    query = _readings(site_id)
    if identifier is not None:
        query = query.where(or_(Study.study_uid == identifier, Study.accession == identifier))
    if since is not None:
        query = query.where(or_(StudyFinding.created_at >= since, StudyFinding.signed_at >= since))
    rows = session.execute(_BY_CREATION.after(query, cursor).limit(limit + 1)).all()
    page = _BY_CREATION.page(list(rows), limit, lambda row: row[0])
    return Page([_report(said) for said in _reported(session, page.items)], page.next_cursor)
