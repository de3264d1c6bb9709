"""The document about what an administrator sets for the whole site."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field

from store.base import tables
from vocabulary.times import known_zone
from web.contract.base import Body, Document, Words, picked

_ZONE = (
    "A name such as Europe/Berlin, in which pages, reports and mails write times, and in which the days of "
    "filters begin; null: UTC, and on pages the browser's own. Times of the API are in UTC, whatever it is."
)


class Site(Document):
    """What is set for the whole site."""

    name: str
    time_zone: str | None = Field(description=_ZONE)
    starts_with_map: bool = Field(description="Whether pictures open with the attention map.")

    @classmethod
    def of(cls, site: tables.Site) -> Self:
        """Return what is set for a site."""
        return cls(**picked(site, "name", "time_zone", "starts_with_map"))


class NewSite(Body):
    """What is to be set for the whole site."""

    time_zone: Annotated[Words, AfterValidator(known_zone)] | None = Field(description=_ZONE)
    starts_with_map: bool
