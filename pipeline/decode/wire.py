"""The fixed form in which a decoded picture leaves the sandboxed process: JSON of known fields, and bytes.

The process that wrote it may be in a stranger's hands, so nothing is believed: every field is checked against
the dataclass that it fills, every length against the bytes that came. No pickle.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pipeline.types import Radiograph, Rejected, Skipped, StudyFacts
from vocabulary.reasons import Reason

#: Of one message between the two processes.
MAX_MESSAGE = 1 << 16
MAX_TEXT = 512
#: To the process that forks: make a child; say how a child ended.
FORK, END = b"F", b"E"
#: From a child: the pseudonym of this is wanted; this is what decoding came to.
IDENTITY, ANSWER = b"I", b"A"
_MAX_ITEMS = 64
MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "application/dicom"})
#: Sent as bytes beside the message, not in it.
_BLOBS = frozenset({"pixels", "stored"})

_T = TypeVar("_T")


class MalformedAnswer(Exception):
    """The sandboxed process sent what it never sends; it may be in a stranger's hands."""


def pack(value: object) -> Any:
    """Turn a value of the fields' types into what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: pack(getattr(value, f.name)) for f in fields(value) if f.name not in _BLOBS}
    if isinstance(value, tuple):
        return [pack(item) for item in value]
    return value.value if isinstance(value, Enum) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if name not in _BLOBS}


def unpack(kind: type[_T], value: object) -> _T:
    """Check a value against a type: str, int, float, bool, an enum, a tuple, a dataclass, or None of them.

    Raises
    ------
    MalformedAnswer
    """
    if is_dataclass(kind):
        return kind(**_fields(kind, value))
    return cast(_T, _plain(kind, value))


def _fields(kind: type, value: object) -> dict[str, Any]:
    hints = _hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise MalformedAnswer(f"not the fields of {kind.__name__}")
    return {name: unpack(hints[name], value[name]) for name in hints}


def _plain(kind: Any, value: object) -> Any:
    origin = get_origin(kind)
    if origin in {Union, types.UnionType}:
        if value is None and type(None) in get_args(kind):
            return None
        (inner,) = (k for k in get_args(kind) if k is not type(None))
        return unpack(inner, value)
    if origin is tuple:
        inner, dots = get_args(kind)
        if dots is not Ellipsis or not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise MalformedAnswer("not a short list")
        return tuple(unpack(inner, item) for item in value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise MalformedAnswer(f"not one of {kind.__name__}") from None
    if type(value) is not kind:
        raise MalformedAnswer(f"not {kind}")
    if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
        raise MalformedAnswer("text that is too long or not printable")
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise MalformedAnswer("a number out of range")
    if isinstance(value, float) and not math.isfinite(value):
        raise MalformedAnswer("not a number")
    return value


def answer(result: Radiograph | Rejected | Skipped) -> bytes:
    """Write what decoding came to; the pixels and the bytes to keep go beside it."""
    if isinstance(result, Radiograph):
        said = {"radiograph": pack(result), "stored": len(result.stored)}
    else:
        word = "rejected" if isinstance(result, Rejected) else "skipped"
        detail = "".join(c for c in result.detail if c.isprintable())
        said = {word: result.reason.value, "detail": detail[:MAX_TEXT]}
    return json.dumps(said).encode()


def failure(error: Exception) -> bytes:
    """Write that decoding failed for a reason that is no fault of the file: the error's kind alone."""
    return json.dumps({"failed": type(error).__name__}).encode()


def read_answer(message: bytes, *, max_pixels: int) -> dict[str, Any] | Rejected | Skipped:
    """Read `answer`: the checked fields of a `Radiograph` and ``stored_size``, or a verdict.

    Raises
    ------
    MalformedAnswer
        It is not one, or contradicts itself.
    RuntimeError
        It is a `failure`.
    """
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        raise MalformedAnswer("not JSON") from None
    if not isinstance(said, dict):
        raise MalformedAnswer("not an object")
    if set(said) == {"failed"}:
        raise RuntimeError(f"the decoder failed: {unpack(str, said['failed'])}")
    for word, kind in (("rejected", Rejected), ("skipped", Skipped)):
        if set(said) == {word, "detail"}:
            return kind(unpack(Reason, said[word]), unpack(str, said["detail"]))
    if set(said) != {"radiograph", "stored"}:
        raise MalformedAnswer("not an answer")
    found = _fields(Radiograph, said["radiograph"])
    found["stored_size"] = size = unpack(int, said["stored"])
    width, height = found["width"], found["height"]
    if min(width, height) < 1 or width * height > max_pixels or size < 1:
        raise MalformedAnswer("an impossible size")
    if found["media_type"] not in MEDIA_TYPES or not isinstance(found["facts"], StudyFacts):
        raise MalformedAnswer("an unknown media type")
    return found
