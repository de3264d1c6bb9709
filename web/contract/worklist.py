"""The documents about the worklist: what narrows it, and its rows."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import Field, StringConstraints

from store.base.tables import Priority
from store.reading.worklist import Filters, Item, Rank, Sort
from store.reading.worklist_tables import WorklistView
from vocabulary.anatomy import family_of
from vocabulary.states import ImageStatus, Triage
from web.contract.base import (
    API,
    Body,
    Count,
    Cursored,
    Day,
    Document,
    Id,
    Links,
    Moment,
    Page,
    Paged,
    RegionName,
    Share,
    Words,
    picked,
)
from web.contract.batches import PRIORITIES
from web.contract.reasons import Flag, Reason

CLASSES = {rank.word: rank for rank in Rank if rank is not Rank.URGENT_POSITIVE}
STATUSES = (ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED)
_REVIEWED = {"no": False, "yes": True, "all": None}

#: By which the list may be sorted; behind a minus the largest first.
SORTS = ("class", *Sort)
_Sort = Literal[(*SORTS, *(f"-{name}" for name in SORTS))]  # type: ignore[valid-type]
_Class = Literal[tuple(CLASSES)]  # type: ignore[valid-type]
_Status = Literal[STATUSES]  # type: ignore[valid-type]


class WorklistFilters(Cursored):
    """What narrows the list."""

    rank: _Class | None = Field(None, alias="class", description="Only this class.")
    triage: Triage | None = Field(None, description="Only these.")
    region: RegionName | None = Field(None, description="Only this region, in lower case.")
    status: _Status | None = Field(None, description="Only these.")
    batch: UUID | None = Field(None, description="Only of this batch.")
    bundle: Words | None = Field(None, description="Only read by this bundle.")
    since: Day | None = Field(
        None, alias="from", description="Arrived on this day, of the site's time zone, or later."
    )
    until: Day | None = Field(None, description="Arrived on this day, of the site's time zone, or earlier.")
    reviewed: Literal["no", "yes", "all"] | None = Field(
        None, description="Reviewed or not. When absent, no; a search looks in all."
    )
    q: Words | None = Field(
        None,
        description="Words of paths, accession and study UID, or their beginnings; a study holds them all."
        " A page of words that very many studies hold may have few items or none, yet a next.",
    )

    sort: _Sort | None = Field(
        None,
        description="By this column instead of the list's own order, class; with a minus the largest first.",
    )

    def filters(self, zone: str | None) -> Filters:
        """Return what the store narrows the list to; days are those of the site's time zone."""
        by = (self.sort or "class").removeprefix("-")
        return Filters(
            sort=Sort(by) if by != "class" else None,
            descending=(self.sort or "").startswith("-"),
            **picked(self, "triage", "region", "status", "batch", "bundle", "since", "until"),
            zone=zone,
            rank=CLASSES[self.rank] if self.rank else None,
            reviewed=_REVIEWED[self.reviewed or ("all" if self.q else "no")],
            search=self.q,
        )


class WorklistQuery(WorklistFilters, Paged):
    """What narrows the list, and how many at a time."""


#: Studies that are chosen at once; a page of the list has no more.
MAX_CHOSEN = 200


class ChosenStudies(Body):
    """Studies with which something is done at once; those that are not there are passed over."""

    studies: Annotated[list[UUID], Field(min_length=1, max_length=MAX_CHOSEN)]


class ChangedStudies(Document):
    """The studies with which it was done."""

    studies: list[Id]


class RetriedImages(Document):
    """What is read again."""

    images: Count


class NewView(Body):
    """What narrows and orders the list, to be kept under a name."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=60, strip_whitespace=True)] = Field(
        description="One of the same name is replaced."
    )
    filters: WorklistFilters = Field(description="As in the address of the list.")


class View(Document):
    """A view of the list that a person keeps."""

    id: Id
    name: str
    filters: dict[str, str] = Field(description="As in the address of the list.")
    links: Links

    @classmethod
    def of(cls, view: WorklistView) -> View:
        """Return a view."""
        asked = f"?{view.query}" if view.query else ""
        return cls(
            **picked(view, "id", "name"),
            filters=dict(parse_qsl(view.query)),
            links={
                "self": f"{API}/worklist/views/{view.id}",
                "studies": f"{API}/worklist{asked}",
                "page": f"/worklist{asked}",
            },
        )


class Views(Page[View]):
    """A person's views, by name."""


class WorklistRow(Document):
    """A study that waits for a reader, or was read."""

    study_id: Id
    batch_id: Id
    batch_label: str
    bundle: str
    rank: _Class = Field(alias="class", description="Its place in the order; urgent before all others.")
    arrived_at: Moment
    waited_too_long: bool = Field(description="It counts as urgent since it waited so long.")
    priority: Priority
    status: _Status
    triage: Triage | None
    reason: Reason | None
    probability: Share | None
    region: str | None
    family: str | None
    images: Count
    filename: str = Field(description="Of the image that decides.")
    accession: str
    study_date: str
    age_years: int | None = Field(description="The lowest that an image states.")
    opened_by: str | None
    opened_at: Moment | None
    answer: str | None
    reviewed_at: Moment | None
    signed_at: Moment | None
    read_again: bool = Field(description="It was reviewed before and has changed since.")
    flags: list[Flag]
    links: Links

    @classmethod
    def of(cls, item: Item) -> WorklistRow:
        """Return a row of the list."""
        row = item.row
        same = (
            "study_id",
            "batch_id",
            "bundle",
            "arrived_at",
            "status",
            "triage",
            "probability",
            "accession",
        )
        later = ("study_date", "age_years", "opened_at", "answer", "reviewed_at", "signed_at")
        return cls(
            **picked(row, *same, *later),
            **{"class": Rank(row.rank).word},
            batch_label=item.label,
            waited_too_long=row.risen,
            priority=PRIORITIES[row.priority],
            reason=Reason.of(row.reason),
            region=row.region or None,
            family=family_of(row.region, {}) or None,
            images=row.n_images,
            filename=row.path,
            opened_by=item.opened_by,
            read_again=row.reread,
            flags=Flag.each(row.flags),
            links={
                "self": f"{API}/studies/{row.study_id}",
                "page": f"/studies/{row.study_id}",
                "image": f"{API}/images/{row.image_id}",
            },
        )


class Worklist(Page[WorklistRow]):
    """Studies in the order in which they are to be read."""
