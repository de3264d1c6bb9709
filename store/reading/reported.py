"""What a bundle says of a study, as it goes out: FHIR resources and DICOM objects are made of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vocabulary import words
from vocabulary.dicom import derived_uid
from vocabulary.states import Triage


@dataclass(frozen=True)
class ReportedImage:
    """What is said of one image; without a triage it was not read."""

    number: int
    sop_uid: str
    region: str = ""
    laterality: str = ""
    triage: Triage | None = None
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A version of what a bundle says of a study.

    Attributes
    ----------
    id
        Of the version: the id of its FHIR resources.
    patient
        Identifier of the subject: the id of the source where it may be told, else the site's pseudonym.
    patient_system
        Whose identifier that is.
    bundle_hash
        SHA-256 of the bundle's manifest: two bundles of one name are two algorithms.
    made_at
        When it was found.
    signed_by
        Who signed this version, and when; empty: nobody did.
    """

    id: uuid.UUID
    study_uid: str
    accession: str = ""
    patient: str = ""
    patient_system: str = ""
    bundle: str
    bundle_hash: str
    label_meaning: str
    version: int
    triage: Triage
    made_at: datetime
    images: Sequence[ReportedImage]
    signed_by: str = ""
    signed_at: datetime | None = None
    pdf: bytes | None = None

    @property
    def uid(self) -> str:
        """Of the report as a FHIR resource, whatever server asks for it."""
        return derived_uid("fhir", self.study_uid, self.bundle_hash, str(self.version), str(self.id))

    @property
    def noun(self) -> str:
        """What the bundle looks for, in words."""
        return words.noun(self.label_meaning)
