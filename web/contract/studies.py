"""The documents about studies: the finding, its versions, what readers said, how they stand to a bundle."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlencode
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from store.base import tables
from store.reading import review_tables, reviews
from store.reading.study_view import StudyReading
from vocabulary.states import Answer, Triage
from web.contract.base import (
    API,
    Body,
    Count,
    Digits,
    Document,
    Id,
    Link,
    Moment,
    Page,
    Query,
    Share,
    Words,
    picked,
)
from web.contract.images import Image
from web.contract.reasons import Reason

MAX_COMMENT = 2000
_PLACE = ("x", "y", "width", "height")
_Pixels = Annotated[int, Field(ge=0, lt=2**31)]


class ReportQuery(Query):
    """Which version of a study's report."""

    version: Digits | None = Field(None, description="Of the finding; the newest when absent.")
    bundle: Words | None = Field(None, description="Which read it; the newest batch's when absent.")


class StudyVersion(Document):
    """A version of a study's finding that has a report."""

    version: int
    bundle: str
    triage: Triage
    images: Count
    created_at: Moment
    signed_by: str | None
    signed_at: Moment | None
    links: dict[str, Link | None]

    @classmethod
    def of(cls, version: tables.StudyFinding) -> StudyVersion:
        """Return a version."""
        asked = urlencode({"version": version.version, "bundle": version.bundle})
        report = f"{API}/studies/{version.study_id}/report?{asked}" if version.report_key else None
        return cls(
            **picked(version, "version", "bundle", "triage", "created_at", "signed_by", "signed_at"),
            images=version.n_images,
            links={"report": report},
        )


class Study(Document):
    """A study with its finding and its images, as the bundle of its newest batch made them."""

    id: Id
    batch_id: Id
    bundle: str
    accession: str
    study_uid: str
    study_date: str
    age_years: int | None = Field(description="The lowest that an image states; not validated under 18.")
    triage: Triage | None = Field(description="As bad as its worst image.")
    reasons: list[Reason]
    version: int | None
    created_at: Moment | None = Field(description="Of this version; signing makes one.")
    read_at: Moment | None = Field(description="When the bundle read the images.")
    deciding_image: Id | None = Field(description="Of several images, the worst.")
    amended: StudyVersion | None = Field(
        description="What was signed before images arrived or the bundle changed: read again."
    )
    versions: list[StudyVersion] = Field(description="All that have a report, newest first.")
    images: list[Image]
    links: dict[str, Link | None]

    @classmethod
    def of(cls, found: StudyReading) -> Study:
        """Return a study."""
        said, here = found.finding, f"{API}/studies/{found.study.id}"
        reported = any(report.bundle == found.bundle.name for report in found.reports)
        return cls(
            **picked(found.study, "id", "accession", "study_uid", "study_date"),
            batch_id=found.batch.id,
            bundle=found.bundle.name,
            age_years=min(
                (a for row in found.images if (a := row.image.age_years) is not None), default=None
            ),
            triage=said and said.triage,
            reasons=[Reason.of(code) for code in said.reasons] if said else [],
            version=said and said.version,
            created_at=said and said.created_at,
            read_at=found.read_at,
            deciding_image=found.deciding and found.deciding.id,
            amended=found.amended and StudyVersion.of(found.amended),
            versions=[StudyVersion.of(version) for version in found.reports],
            images=[Image.of(row, found.bundle) for row in found.images],
            links={
                "self": here,
                "page": f"/studies/{found.study.id}",
                "report": f"{here}/report" if reported else None,
            },
        )


# what readers said


class Place(Document):
    """Where on an image a reader saw something; a point has neither width nor height."""

    image_id: Id
    x: int
    y: int
    width: int
    height: int


class Review(Document):
    """A reader's answer, and how it stands to what the AI had said."""

    id: Id
    study_id: Id
    bundle: str
    version: int | None = Field(description="Of the finding that the reader saw.")
    ai_triage: Triage | None
    answer: Answer
    agreement: Literal["agree", "disagree", "open"]
    comment: str
    place: Place | None
    reader: str
    account: str = Field(description="With which the reader signs in; empty for old answers.")
    created_at: Moment
    signing: Literal["waits", "signed", "failed"] | None
    signed_at: Moment | None

    @classmethod
    def of(cls, said: reviews.ReviewEntry) -> Review:
        """Return an answer of a study's history."""
        review: review_tables.Review = said.review
        same = ("id", "study_id", "bundle", "version", "answer", "comment", "reader", "account", "created_at")
        place = None if review.image_id is None else Place(**picked(review, "image_id", *_PLACE))
        return cls(
            **picked(review, *same),
            **picked(said, "signing", "signed_at"),
            ai_triage=review.triage,
            agreement=said.agreement.value,
            place=place,
        )


class Reviews(Page[Review]):
    """What readers said of a study, the newest first."""


class NewReview(Body):
    """What a reader says."""

    answer: Answer
    comment: Annotated[str, StringConstraints(max_length=MAX_COMMENT)] | None = None
    version: _Pixels | None = Field(
        None, description="Of the finding seen; refused when the study has changed."
    )
    image_id: UUID | None = Field(None, description="Of the place; a point has neither width nor height.")
    x: _Pixels | None = None
    y: _Pixels | None = None
    width: _Pixels | None = None
    height: _Pixels | None = None
    sign: bool = False
    password: str | None = Field(None, description="The reader's own, once more; needed to sign.")

    @model_validator(mode="after")
    def _whole_place(self) -> Self:
        said = [getattr(self, name) for name in _PLACE]
        if self.image_id is None and any(number is not None for number in said):
            raise ValueError("a place needs the image that it lies on")
        if self.image_id is not None and (self.x is None or self.y is None):
            raise ValueError("a place needs x and y")
        return self

    def place(self) -> reviews.Place | None:
        """Return the place that the reader marked."""
        if self.image_id is None:
            return None
        return reviews.Place(self.image_id, self.x or 0, self.y or 0, self.width or 0, self.height or 0)


class AgreementCount(Document):
    """How many studies had an answer beside what the bundle had said."""

    answer: Answer
    ai_triage: Triage | None
    studies: Count


class Agreement(Document):
    """Readers' answers against a bundle: how often the two agreed where both gave a clear answer."""

    bundle: str
    reviewed: Count
    compared: Count
    agree: Count
    disagree: Count
    agreement: Share | None
    counts: list[AgreementCount]
    notice: str

    @classmethod
    def of(cls, bundle: str, tally: reviews.Tally) -> Agreement:
        """Return the counts."""
        return cls(
            **picked(tally, "compared", "agree", "disagree"),
            bundle=bundle,
            reviewed=tally.n,
            agreement=tally.agree / tally.compared if tally.compared else None,
            counts=[
                AgreementCount(answer=answer, ai_triage=triage or None, studies=n)
                for (answer, triage), n in sorted(tally.table.items())
            ],
            notice="Over studies that people chose to review: neither sensitivity nor specificity.",
        )
