"""Pages of a long list: some items, and an opaque cursor of those that follow."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, literal, tuple_

from store.base.days import FIRST, LAST
from store.base.errors import InvalidCursor

T = TypeVar("T")
Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor of those that follow (None at the end)."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True)
class Keyset:
    """The order of a list, and so what a cursor of it holds: the place of the last item that was shown.

    Attributes
    ----------
    columns
        What the list is ordered by; together they are unique.
    kinds
        How a part of a cursor is read, a column each; see `decode_cursor`.
    descending
        The largest first.
    """

    columns: tuple[Any, ...]
    kinds: tuple[Callable[[str], Any], ...]
    descending: bool = False

    def after(self, query: Query, cursor: str | None) -> Query:
        """Put a query in this order, narrowed to what follows the cursor. Raises `InvalidCursor`."""
        if cursor:
            place = tuple_(
                *(
                    literal(value, column.type)
                    for column, value in zip(self.columns, decode_cursor(cursor, *self.kinds), strict=True)
                )
            )
            mine: ColumnElement[Any] = tuple_(*self.columns)
            query = query.where(mine < place if self.descending else mine > place)
        return query.order_by(*(column.desc() if self.descending else column for column in self.columns))

    def page(self, rows: Iterable[T], limit: int, row_of: Callable[[T], object]) -> Page[T]:
        """Return the first `limit` rows, and the cursor of the others if there is one row more.

        Parameters
        ----------
        row_of
            Of an item, the mapped row whose attributes are the columns.
        """
        items = list(rows)
        cursor = self.cursor_of(row_of(items[limit - 1])) if len(items) > limit else None
        return Page(items[:limit], cursor)

    def cursor_of(self, row: object) -> str:
        """Return the cursor of what follows a mapped row."""
        values = [getattr(row, column.key) for column in self.columns]
        return encode_cursor(*(v.isoformat() if isinstance(v, datetime) else v for v in values))


def encode_cursor(*parts: object) -> str:
    """Return the place after an item as letters that fit into an address."""
    return base64.urlsafe_b64encode(json.dumps([str(p) for p in parts]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: Callable[[str], Any]) -> list[Any]:
    """Return the parts of a cursor, each read by its kind: `moment`, `whole` or `uuid.UUID`.

    Raises
    ------
    InvalidCursor
    """
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
            raise ValueError(cursor)
        return [kind(part) for kind, part in zip(kinds, parts, strict=True)]
    except (ValueError, OverflowError, RecursionError):
        raise InvalidCursor from None


def moment(text: str) -> datetime:
    """Read a moment that the database takes."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None or not FIRST <= when.date() <= LAST:
        raise ValueError(text)
    return when


def share(text: str) -> float:
    """Read a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def words(text: str) -> str:
    """Read a text that the database takes."""
    if "\x00" in text:
        raise ValueError(text)
    text.encode()  # half a pair of surrogates is no text
    return text


def whole(bits: int) -> Callable[[str], int]:
    """Return a reader of a number that is not negative and fits into an integer of so many bits."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= 1 << (bits - 1):
            raise ValueError(text)
        return int(text)

    return parse
