"""The documents about taking results away: what is wanted, and the file that is prepared of it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from store.results.downloads import MAX_STUDIES, Format, Part
from store.results.exports import ExportRow, ExportState
from store.results.results import COLUMNS
from vocabulary.states import ImageStatus, Triage
from web.contract.base import API, Body, Count, Day, Document, Id, Link, Moment, Page, Query, picked

_Column = Literal[tuple(COLUMNS)]  # type: ignore[valid-type]


def _split(text: object) -> object:
    return text.split(",") if isinstance(text, str) else text


#: Of an address, where several words are separated by commas.
_SPLIT = (BeforeValidator(_split), WithJsonSchema({"type": "string"}))


class _Choice(BaseModel):
    """Which images, as what kind of file."""

    format: Format
    batch: UUID | None = Field(None, description="One batch; all that were submitted when absent.")
    status: ImageStatus | None = None
    triage: Triage | None = None
    region: Annotated[str, StringConstraints(max_length=40)] | None = None
    since: Day | None = Field(
        None, description="Day of upload, of the site's time zone, included; as is until."
    )
    until: Day | None = None
    bom: bool | None = Field(
        None, description="Whether CSV begins with a byte order mark, by which Excel knows UTF-8."
    )


class NewExport(_Choice, Body):
    """What somebody wants to take away."""

    columns: list[_Column] | None = Field(
        None, description="Of the tables; those of results.csv when absent."
    )
    parts: list[Part] | None = Field(None, description="Of a ZIP; tables, reports and heatmaps when absent.")
    studies: Annotated[list[UUID], Field(max_length=MAX_STUDIES)] | None = Field(
        None, description="Only these studies."
    )


class ResultsQuery(_Choice, Query):
    """What somebody wants to take away at once."""

    columns: Annotated[list[_Column], *_SPLIT] | None = Field(
        None, description="Several, separated by commas."
    )
    parts: Annotated[list[Part], *_SPLIT] | None = Field(None, description="Several, separated by commas.")


class TableQuery(Query):
    """How a batch's CSV is written."""

    bom: bool = Field(
        False, description="Whether it begins with a byte order mark, by which Excel knows UTF-8."
    )


def _absent(value: object) -> bool:
    return value is None


class Wanted(Document):
    """What was wanted of a prepared file; what was not narrowed is absent."""

    format: Format
    batch: Id | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    status: ImageStatus | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    triage: Triage | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    region: str | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    since: str | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    until: str | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    zone: str | SkipJsonSchema[None] = Field(
        None, exclude_if=_absent, description="The time zone of these days; UTC when absent."
    )
    bom: bool | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    studies: list[Id] | SkipJsonSchema[None] = Field(None, exclude_if=_absent)
    columns: list[str]
    parts: list[Part]


class Export(Document):
    """A file that is prepared, or was."""

    id: Id
    state: ExportState
    error_code: str | None
    name: str
    request: Wanted
    done: Count
    total: Count
    missing: Count = Field(description="Members whose bytes the store does not have.")
    size: Count | None
    sha256: str | None
    created_at: Moment
    expires_at: Moment | None = Field(description="When the file is deleted.")
    links: dict[str, Link | None]

    @classmethod
    def of(cls, row: ExportRow) -> Export:
        """Return a file and how far it is."""
        export, here = row.export, f"{API}/exports/{row.export.id}"
        file = f"{here}/file" if row.state is ExportState.READY else None
        return cls(
            **picked(export, "id", "name", "request", "size", "sha256", "created_at", "expires_at"),
            **picked(row, "state", "error_code"),
            done=export.n_done,
            total=export.n_total,
            missing=export.n_missing,
            links={"self": here, "cancel": f"{here}/cancel", "file": file},
        )


class Exports(Page[Export]):
    """A site's prepared files."""
