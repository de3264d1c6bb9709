"""The requester's manifest: what is taken, and which line is wrong."""

from __future__ import annotations

import io

import pytest

from store.base.tables import Priority
from store.intake.batches import ManifestRow
from web.base.errors import ManifestInvalid
from web.intake.manifests import read_manifest


def read(text: str | bytes) -> list[ManifestRow]:
    return read_manifest(io.BytesIO(text.encode() if isinstance(text, str) else text))


def errors(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(ManifestInvalid) as caught:
        read(text)
    return caught.value.errors


def test_all_columns() -> None:
    assert read("path,accession,study,view,laterality,priority\na/1.png,A1,S1,AP,left,urgent\n") == [
        ManifestRow("a/1.png", "A1", "S1", "AP", "L", Priority.URGENT)
    ]


def test_what_spreadsheets_write() -> None:
    assert read("\ufeffPath;Accession\r\n.\\a\\1.png; A1 \r\n\r\n;\r\n") == [
        ManifestRow("a/1.png".removeprefix("./"), "A1")
    ]


def test_quoted_values_may_hold_commas() -> None:
    assert read('path,accession\n"a, b.png",7\n') == [ManifestRow("a, b.png", "7")]


def test_nothing_but_a_header_is_an_empty_manifest() -> None:
    assert read("path,view\n") == []


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("", 1, "path"),
        ("file,accession\n", 1, "path"),
        ("path,acession\nx,1\n", 1, "acession"),
        ("path,path\nx,1\n", 1, "twice"),
        ("path,laterality\na.png,L\nb.png,links\n", 3, "laterality"),
        ("path,priority\na.png,now\n", 2, "priority"),
        ("path,view\na.png\n", 2, "values"),
        ("path,view\n,AP\n", 2, "empty"),
        ("path\na.png\nb.png\na.png\n", 4, "line 2"),
        ("path,accession\na.png," + "9" * 200 + "\n", 2, "128"),
        ("path\n\u0000.png\n", 2, "control"),
        (b"path\na.png\n\xff\xfe.png\n", 3, "UTF-8"),
    ],
)
def test_the_bad_line_is_named(text: str | bytes, line: int, word: str) -> None:
    found = errors(text)
    assert [at for at, _ in found] == [line]
    assert word in found[0][1]


def test_several_bad_lines_are_named_at_once() -> None:
    assert [line for line, _ in errors("path,priority\na,x\nb,low\nc,y\n")] == [2, 4]
