"""Pages of a long list: some items, and an opaque cursor of those that follow."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from store.base.days import FIRST, LAST
from store.base.errors import InvalidCursor

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor of those that follow (None at the end)."""

    items: list[T]
    next_cursor: str | None


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


def whole(bits: int) -> Callable[[str], int]:
    """Return a reader of a number that is not negative and fits into an integer of so many bits."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= 1 << (bits - 1):
            raise ValueError(text)
        return int(text)

    return parse
