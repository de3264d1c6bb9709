"""The documents about what a bundle may call negative at a site."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from store.reading import validations
from web.contract.base import API, Body, Count, Document, Links, Moment, Page, Share, picked

#: More than any site validates with.
MAX_IMAGES = 10_000_000
FIGURES = ("positives", "found", "negatives", "cleared")
_FOUND = "Of the positives: not below the lower threshold."
_CLEARED = "Of the negatives: below the lower threshold."
_Images = Annotated[int, Field(ge=0, le=MAX_IMAGES)]


class SiteValidation(Document):
    """A site's own figures of a body part."""

    positives: Count
    found: Count = Field(description=_FOUND)
    negatives: Count
    cleared: Count = Field(description=_CLEARED)
    sensitivity: Share
    interval: list[Share] = Field(description="95%, Wilson.")
    dataset: str
    at: Moment


class Negative(Document):
    """Whether a bundle may call a body part negative here."""

    region: str
    may_say_negative: bool
    by_bundle: bool = Field(description="The bundle's own evidence allows it.")
    validation: SiteValidation | None
    links: Links

    @classmethod
    def of(cls, bundle: str, part: validations.PartNegative) -> Negative:
        """Return what a bundle may say of a part, and why."""
        kept, sensitivity = part.validation, part.sensitivity
        figures = None
        if kept is not None and sensitivity is not None:
            figures = SiteValidation(
                **picked(kept, *FIGURES, "dataset", "at"),
                sensitivity=sensitivity[0],
                interval=list(sensitivity[1:]),
            )
        return cls(
            region=part.region,
            may_say_negative=part.allowed,
            by_bundle=part.by_bundle,
            validation=figures,
            links={"self": f"{API}/bundles/{bundle}/negatives/{part.region}"},
        )


class Negatives(Page[Negative]):
    """Every part that a bundle reads."""


class NewValidation(Body):
    """A site's own figures, on which a bundle is to call a body part negative."""

    positives: _Images
    found: _Images = Field(description=_FOUND)
    negatives: _Images
    cleared: _Images = Field(description=_CLEARED)
    sha256: str = Field(description="Of the bundle.")
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=200)]

    @field_validator("dataset", mode="before")
    @classmethod
    def _one_line(cls, text: object) -> object:
        text = " ".join(text.split()) if isinstance(text, str) else text
        if isinstance(text, str) and not text.isprintable():
            raise ValueError("must be a name")
        return text

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.found > self.positives or self.cleared > self.negatives:
            raise ValueError("found is a part of positives, and cleared of negatives")
        return self
