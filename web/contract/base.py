"""What the models of the API's documents share: their base classes and the kinds of value."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from store.base.days import parse_day
from vocabulary.times import instant

API = "/api/v1"


class Document(BaseModel):
    """An answer. It has the members that are published, and no others; its values are ready to be sent."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        serialize_by_alias=True,
        json_schema_serialization_defaults_required=True,
        hide_input_in_errors=True,
    )


class Body(BaseModel):
    """The JSON object of a request. A member that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Query(BaseModel):
    """The parameters of an address. One that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, hide_input_in_errors=True)

    def kept(self) -> dict[str, str]:
        """Return what was asked for but the place in the list, as it stands in an address."""
        asked = self.model_dump(exclude={"cursor", "limit"}, exclude_none=True)
        return {name: str(value) for name, value in asked.items()}


def _moment(when: object) -> object:
    return instant(when) if isinstance(when, datetime) else when


def _digits(text: object) -> object:
    """Take a number of an address in plain digits alone: Python reads more than that as one."""
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("must be a number")
    return text


def _day(text: object) -> date:
    return parse_day(text if isinstance(text, str) else "")


def published(**schema: Any) -> Field:  # type: ignore[valid-type]
    """Publish more of a value than is checked when it is answered."""
    return Field(json_schema_extra=schema)


# what is answered

Id = Annotated[str, BeforeValidator(str), WithJsonSchema({"type": "string", "format": "uuid"})]
Moment = Annotated[str, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
Link = Annotated[str, WithJsonSchema({"type": "string", "format": "uri-reference"})]
Links = dict[str, Link]
#: A share, 0-1; not checked when it is answered, so that no rounding breaks an answer.
Share = Annotated[float, published(minimum=0, maximum=1)]
Count = Annotated[int, published(minimum=0)]

# what is asked

Digits = Annotated[int, BeforeValidator(_digits)]
Day = Annotated[Any, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
RegionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_ -]{0,40}$")]
Words = Annotated[str, StringConstraints(max_length=200)]
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=600)]


class Cursored(Query):
    """Where in a list to go on."""

    cursor: Cursor | None = Field(None, description="From the last page's `next`.")


class Paged(Cursored):
    """Where in a list to go on, and how many items to answer."""

    limit: Annotated[int, Field(ge=1, le=1000), BeforeValidator(_digits)] | None = Field(
        None, description="Items a page."
    )


Item = TypeVar("Item", bound=Document)


class Page(Document, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next: str | None = Field(None, description="The address of the next page; null at the end.")


def next_link(path: str, cursor: str | None, asked: Query | None = None) -> str | None:
    """Return the address of the next page, or None at the end."""
    if cursor is None:
        return None
    kept = asked.model_dump(exclude={"cursor"}, exclude_none=True) if asked else {}
    return f"{path}?{urlencode({**kept, 'cursor': cursor})}"


class LineError(Document):
    """A line of a manifest that cannot be used."""

    line: int = Field(description="The header is line 1.")
    message: str


class MemberError(Document):
    """A member of the body, or a parameter of the query, that cannot be used."""

    member: str
    message: str


class Problem(Document):
    """A problem (RFC 9457)."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: Link
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; see the list of error codes.")
    advice: str = Field(description="What to do next.")
    errors: list[LineError | MemberError] | SkipJsonSchema[None] = Field(
        None, description="Of a manifest, a body or a query: each thing that cannot be used."
    )


def picked(row: object, *names: str) -> dict[str, Any]:
    """Return attributes of a row that a document has under the same names."""
    return {name: getattr(row, name) for name in names}
