"""The documents about images: what is asked of their list, and each with its finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from store.base import tables
from store.bundles.words import evidence, family, label_meaning, thresholds
from store.reading.images import ImageRow
from vocabulary.anatomy import coded_region
from vocabulary.reasons import Reason as Code
from vocabulary.rendering import RenderingCode
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import shown_flags
from web.contract.base import (
    API,
    Count,
    Cursored,
    Document,
    Id,
    Link,
    Page,
    Paged,
    RegionName,
    Share,
    picked,
)
from web.contract.bundles import PartEvidence, Thresholds
from web.contract.reasons import Flag, Reason

#: Why a bundle did not assess an image: that is a finding too.
NOT_ASSESSABLE = frozenset(
    {
        Code.REGION_UNSUPPORTED,
        Code.REGION_UNSURE,
        Code.UNFAMILIAR_IMAGE,
        Code.STUDY_INCOMPLETE,
        Code.TOO_LITTLE_CONTRAST,
    }
)


class ImageFilters(Cursored):
    """Which images of a batch."""

    status: ImageStatus | None = Field(None, description="Only these.")
    triage: Triage | None = Field(None, description="Only these.")
    region: RegionName | None = Field(None, description="Only this region, in lower case.")


class ImageQuery(ImageFilters, Paged):
    """Which images of a batch, and how many at a time."""


class AnatomicRegion(Document):
    """DICOM's terms for the part: Body Part Examined, and the code of CID 4031."""

    body_part_examined: str
    scheme: str
    code: str
    meaning: str


class RenderingStep(Document):
    """One step on the way from a file's values to the picture."""

    code: RenderingCode
    detail: str
    sentence: str

    @classmethod
    def each(cls, kept: Iterable[Mapping[str, str]]) -> list[RenderingStep]:
        """Return how an image's grey values came about, in order."""
        steps = (tables.RenderingStep(RenderingCode(step["code"]), step["detail"]) for step in kept)
        return [cls(**picked(step, *cls.model_fields)) for step in steps]


class AttentionRegion(Document):
    """Where the AI looked, in pixels of the original."""

    x: int
    y: int
    width: int
    height: int
    score: Share


class SuspectedPlace(Document):
    """A box of a bundle that was measured to draw it, in pixels of the original."""

    x: int
    y: int
    width: int
    height: int
    score: Share
    strong: bool = Field(description="At or above the bundle's upper score.")


class Image(Document):
    """An image with its finding, as the bundle of its batch made it."""

    id: Id
    batch_id: Id
    study_id: Id | None
    filename: str = Field(description="The path as uploaded.")
    status: ImageStatus
    reason: Reason | None
    region: str | None = Field(description="The body part, as the bundle calls it.")
    family: str | None = Field(description="Of the part: arm, leg, hip, shoulder.")
    anatomic_region: AnatomicRegion | None
    region_probability: Share | None
    region_probabilities: dict[str, Share]
    probability: Share | None = Field(description="Calibrated; null where nothing was assessed.")
    triage: Triage | None
    number: int | None = Field(description="In its study; on page, report and mark alike.")
    flags: list[Flag]
    thresholds: Thresholds | None
    evidence: PartEvidence | None
    bundle: str
    sha256: str | None = Field(description="Of the uploaded bytes; null if they cannot be had.")
    size: Count
    media_type: str | None = Field(description="Of the kept original.")
    width: int | None
    height: int | None
    accession: str
    study_uid: str
    sop_uid: str
    study_date: str
    laterality: str
    view: str
    age_years: int | None = Field(description="Of the patient; 90 stands for 90 and more.")
    study_triage: Triage | None
    attention_regions: list[AttentionRegion] = Field(
        description="Where the AI looked, in pixels of the original; not a fracture's outline."
        " On the body; none on a negative."
    )
    suspected_places: list[SuspectedPlace] = Field(
        description="Of a bundle that was measured to draw them; none on a negative."
    )
    rendering: list[RenderingStep] = Field(
        description="How the grey values of the picture came about, in order."
    )
    links: dict[str, Link | None]

    @classmethod
    def of(cls, row: ImageRow, bundle: tables.Bundle, *, findings: bool = True) -> Image:
        """Return an image; without `findings` it does not tell what the bundle says of it."""
        image, here = row.image, f"{API}/images/{row.image.id}"
        reason = Code(row.image.reason) if row.image.reason else None
        if not findings and image.reason in NOT_ASSESSABLE:
            reason = None
        links = {
            "self": here,
            "original": f"{here}/original" if image.original_key else None,
            "display": f"{here}/display" if image.display_key else None,
            "overlay": f"{here}/overlay" if image.overlay_key else None,
            "heat": f"{here}/heat" if image.heat_key else None,
            "pixels": f"{here}/pixels" if image.original_key and image.display_key else None,
            "report": f"{here}/report" if row.study_finding and row.study_finding.report_key else None,
            "batch": f"{API}/batches/{image.batch_id}",
            "page": f"/images/{image.id}",
            "study": f"{API}/studies/{image.study_id}" if image.study_id else None,
        }
        if not findings:
            links = {name: link if name == "batch" else None for name, link in links.items()}
        same = ("id", "batch_id", "study_id", "status", "number", "size", "media_type", "width", "height")
        header = ("accession", "study_uid", "sop_uid", "study_date", "laterality", "view", "age_years")
        return cls(
            **picked(image, *same, *header),
            **(_finding(row, bundle) if findings else _WITHHELD),
            filename=image.path,
            reason=Reason.of(reason),
            bundle=bundle.name,
            sha256=image.sha256 or None,
            rendering=RenderingStep.each(image.rendering),
            links=links,
        )


def _finding(row: ImageRow, bundle: tables.Bundle) -> dict[str, Any]:
    """Return what an image's document says of its finding."""
    image, region = row.image, row.image.region or ""
    assessed = image.probability is not None
    shown = evidence(bundle, region) if assessed else None
    flags = shown_flags(  # of the image itself, of its patient, of its study
        image.flags,
        reason=image.reason,
        region=image.region,
        age_years=image.age_years,
        study_shared=row.study is not None and row.study.uid_shared,
    )
    return {
        **picked(image, "region", "region_probability", "probability", "triage"),
        **picked(image, "attention_regions", "suspected_places"),
        "family": family(bundle, region),
        "anatomic_region": coded_region(region),
        "region_probabilities": row.finding.region_probabilities if row.finding else {},
        "flags": Flag.each(flags),
        "thresholds": thresholds(bundle).get(region) if assessed else None,
        "evidence": PartEvidence.of(shown, label_meaning(bundle), image.triage) if shown else None,
        "study_triage": row.study_finding.triage if row.study_finding else None,
    }


#: What stands in its place for those who may not see what the bundle says.
_WITHHELD: Mapping[str, Any] = {
    "region": None,
    "family": None,
    "anatomic_region": None,
    "region_probability": None,
    "region_probabilities": {},
    "probability": None,
    "triage": None,
    "flags": [],
    "thresholds": None,
    "evidence": None,
    "study_triage": None,
    "attention_regions": [],
    "suspected_places": [],
}


class Images(Page[Image]):
    """Images of a batch."""
