"""Forms are taken apart as they arrive; what is not a file is small and few."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from web.base.errors import MalformedForm
from web.intake.uploads import MAX_FIELDS, Field, FilePart, read_form

PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


def parts(body: bytes) -> list[Field | FilePart]:
    return list(read_form(io.BytesIO(body + b"--b--\r\n"), "b", 100_000))


def test_a_form_with_some_fields_is_read() -> None:
    body = b"".join(PART % (f"field{n}".encode(), b"value") for n in range(MAX_FIELDS))
    assert [part.value for part in parts(body)] == ["value"] * MAX_FIELDS  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        b"".join(PART % (b"n%d" % n, b"") for n in range(MAX_FIELDS + 1)),
        PART % (b"n" * 101, b""),
        PART % (b"n", b"v" * 5000),
    ],
    ids=["too many fields", "a long name", "a long value"],
)
def test_a_form_beyond_its_bounds_is_refused(body: bytes) -> None:
    with pytest.raises(RequestEntityTooLarge):
        parts(body)


class Endless(io.RawIOBase):
    """360 MB of fields, a megabyte of name each, made as they are read."""

    def __init__(self) -> None:
        self.sent = 0

    def read(self, n: int = -1) -> bytes:
        self.sent += n
        assert self.sent < 360 << 20
        begin = b'--b\r\nContent-Disposition: form-data; name="' if self.sent <= n else b""
        return (begin + b"n" * n)[:n]


def test_names_without_end_are_refused_early() -> None:
    tracemalloc.start()
    source = Endless()
    with pytest.raises((RequestEntityTooLarge, MalformedForm)):
        list(read_form(source, "b", 100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.sent < 1 << 20
    assert peak < 2 << 20
