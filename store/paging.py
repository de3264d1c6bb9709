"""Pages of a long list: some items, and an opaque cursor of those that follow."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from store.errors import InvalidCursor

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor of those that follow (None at the end)."""

    items: list[T]
    next_cursor: str | None


def encode_cursor(*parts: object) -> str:
    """Return the place after an item as letters that fit into an address."""
    return base64.urlsafe_b64encode(json.dumps([str(p) for p in parts]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, n: int) -> list[str]:
    """Return the `n` parts of a cursor. Raises `InvalidCursor`."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not (isinstance(parts, list) and len(parts) == n and all(isinstance(p, str) for p in parts)):
            raise ValueError(cursor)
    except ValueError:
        raise InvalidCursor from None
    return parts
