"""What a report is made from: everything that one PDF may say, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.evidence import PartEvidence
from pipeline.types import Finding, StudyFacts, Thresholds
from vocabulary.reasons import Reason
from vocabulary.states import Answer, ImageStatus, Triage


@dataclass(frozen=True)
class BundleCard:
    """The bundle that read the study, in its own words.

    Attributes
    ----------
    label_meaning
        What a positive label says of an image: ``"fractured"`` or ``"abnormal"``; the report uses this word.
    trained_on
        The data that it learnt from, one sentence.
    limits
        Known limits, one sentence each.
    """

    name: str
    sha256: str
    label_meaning: str
    trained_on: str
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportImage:
    """One image of the study; without its file name, which may hold a person's name.

    Attributes
    ----------
    number
        In the study, from 1; an image keeps it in every version.
    reason
        Why the image was rejected, failed or cancelled.
    width, height
        Size of the original in pixels: the frame of the attention regions.
    thresholds, prevalence
        Operating points of the region's model, and the share of positive images it was calibrated at.
    network
        Name of the network that read the image.
    pooled
        Whether that network serves several regions.
    family
        What the region belongs to, or empty.
    evidence
        What the bundle has shown for the region; None where it was not read.
    original_jpeg, overlay_jpeg
        Pictures in the original's aspect, never mirrored; the overlay is None where heat maps are off.
    """

    number: int
    image_id: str
    status: ImageStatus
    facts: StudyFacts
    width: int = 0
    height: int = 0
    reason: Reason | None = None
    finding: Finding | None = None
    thresholds: Thresholds | None = None
    prevalence: float | None = None
    network: str = ""
    pooled: bool = False
    family: str = ""
    evidence: PartEvidence | None = None
    flags: tuple[Reason, ...] = ()
    original_jpeg: bytes | None = None
    overlay_jpeg: bytes | None = None


@dataclass(frozen=True)
class Mark:
    """Where a reader marked an image, in pixels of the original; a point has no width and no height.

    `number` is the image's.
    """

    number: int
    x: int
    y: int
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Signature:
    """A reader's answer, signed; it stands beside the AI's finding and changes nothing of it.

    Attributes
    ----------
    reader, account
        The name that the administrator or the identity provider gave, and what the reader signs in with.
    """

    reader: str
    account: str
    signed_at: datetime
    answer: Answer
    comment: str = ""
    mark: Mark | None = None


@dataclass(frozen=True)
class EarlierSignature:
    """The version of a report that was signed last, before this one.

    Attributes
    ----------
    bundle
        Which had read it.
    amended
        Whether this version stands on something else than what was signed.
    """

    version: int
    bundle: str
    reader: str
    signed_at: datetime
    amended: bool


@dataclass(frozen=True)
class StudyReport:
    """One study as read by one bundle.

    Attributes
    ----------
    version
        From 1; each later version replaces the earlier ones.
    created_at
        Aware, in UTC; also the date inside the PDF, so that equal input gives equal bytes.
    facts
        Of the study as a whole; each image has its own as well.
    triage, reasons
        The study's finding: that of its worst image, and why it is not better.
    images
        In the order of their numbers, the unreadable ones among them.
    """

    site_name: str
    study_id: str
    version: int
    created_at: datetime
    facts: StudyFacts
    triage: Triage
    reasons: tuple[Reason, ...]
    images: tuple[ReportImage, ...]
    bundle: BundleCard
    software_version: str
    signature: Signature | None = None
    earlier: EarlierSignature | None = None
    time_zone: str | None = None


@dataclass(frozen=True)
class ContentsEntry:
    """One study in the table of contents of a batch's merged reports.

    Attributes
    ----------
    name
        What the hospital finds the study by: its accession, else its first file's name.
    probability
        The highest of its images, or None where none was read.
    page
        Where its report starts, counted from 1 after the cover; None where it has no report.
    """

    triage: Triage
    urgent: bool
    name: str
    study_date: str
    region: str
    probability: float | None
    n_images: int
    page: int | None


@dataclass(frozen=True)
class BatchCover:
    """The first pages of a batch's merged reports.

    Attributes
    ----------
    triage
        Studies of the whole batch by finding, as the worklist counts them.
    ended
        Images of the whole batch by how they ended otherwise than read.
    volume, volumes
        Which of how many files this is, from 1.
    time_zone
        In which times are written; None for UTC.
    """

    site_name: str
    batch_id: str
    label: str
    created_at: datetime
    bundle: BundleCard
    n_images: int
    triage: Mapping[Triage, int]
    ended: Mapping[str, int]
    entries: tuple[ContentsEntry, ...]
    volume: int
    volumes: int
    software_version: str
    time_zone: str | None = None
