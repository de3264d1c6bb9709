"""The documents about how long a site keeps what it has, erasure, and the quota of uploads."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from store.operations import retention
from web.contract.base import Body, Count, Document, Id, Page, Query, picked

MAX_DAYS = 36_500
MAX_BYTES = 10**15
MAX_ERASED = 100

_Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]
_KEPT = "Days after the batch ended; null is for ever."
#: An accession number, a UID or an id.
_Name = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True)]


class Retention(Document):
    """How long things are kept."""

    keep_originals_days: _Days | None = Field(description=_KEPT)
    keep_results_days: _Days | None = Field(description=_KEPT)


class NewRetention(Body):
    """How long things are to be kept."""

    keep_originals_days: _Days | None = Field(description=_KEPT)
    keep_results_days: _Days | None = Field(description=_KEPT)


class Find(Query):
    """What studies are looked for by."""

    find: _Name | None = Field(None, description="An accession number, a Study Instance UID, a study's id.")


class ErasableStudy(Document):
    """A study that could be erased, and what that would take along."""

    id: Id
    accession: str
    study_uid: str
    study_date: str
    images: Count
    batches: Count
    in_use: bool = Field(description="Images of it are being read: it cannot be erased now.")
    on_hold: bool = Field(description="A legal hold: it cannot be erased.")
    signed: bool

    @classmethod
    def of(cls, match: retention.StudyMatch) -> ErasableStudy:
        """Return a study that matches what was looked for."""
        return cls(
            **picked(match.study, "id", "accession", "study_uid", "study_date"),
            **picked(match, "images", "batches", "in_use", "on_hold", "signed"),
        )


class ErasableStudies(Page[ErasableStudy]):
    """Studies that match what was looked for."""


class Erasure(Body):
    """What to erase."""

    studies: list[UUID] = Field([], max_length=MAX_ERASED)
    named: _Name = Field(
        "",
        description="An accession number or UID: images that have it and belong to no study, because they"
        " were cancelled, refused or never submitted, go too.",
    )
    password: str = Field("", description="Of the account, once more: always with an API key.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.studies or self.named):
            raise ValueError(f"choose 1 to {MAX_ERASED} studies, or name an accession number or UID")
        return self


class Erased(Document):
    """What went."""

    studies: Count
    images: Count


class Quota(Document):
    """How much a site holds in uploads, and how much it may."""

    own_bytes: int | None = Field(description="The site's own; null: the server's setting counts.")
    limit_bytes: int | None = Field(description="What counts; null is no bound.")
    used_bytes: Count


class NewQuota(Body):
    """How much a site may hold in uploads."""

    own_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)] | None = Field(
        description="Null leaves it to the server's setting."
    )
