"""A table as an Excel workbook: typed cells, texts that are never formulas, row by row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import xlsxwriter

from store.results.results import Cell
from store.results.zips import file_pieces

#: What Excel holds in a sheet, below its line of names; the rest goes on in another sheet.
MAX_ROWS = 1_048_575
#: Characters that Excel holds in a cell; what is cut ends with an ellipsis.
MAX_TEXT = 32_767
_DAYS = frozenset({"study_date"})
_MOMENTS = frozenset({"uploaded_at", "finished_at"})
#: Excel's days begin here: an earlier one stays the text that it is.
_FIRST_DAY = date(1900, 3, 1)


class _Sheets:
    """Writes rows into a workbook, and opens another sheet when one is full."""

    def __init__(self, book: xlsxwriter.Workbook, columns: Sequence[str]) -> None:
        self._book = book
        self._columns = columns
        self._head = book.add_format({"bold": True, "bottom": 1})
        self._text = book.add_format({"num_format": "@"})
        self._share = book.add_format({"num_format": "0.000000"})
        self._day = book.add_format({"num_format": "yyyy-mm-dd"})
        self._moment = book.add_format({"num_format": 'yyyy-mm-dd hh:mm:ss "UTC"'})
        self._n_sheets = 0
        self._open()

    def _open(self) -> None:
        self._n_sheets += 1
        self._sheet = self._book.add_worksheet(
            "results" if self._n_sheets == 1 else f"results {self._n_sheets}"
        )
        self._sheet.freeze_panes(1, 1)
        for at, name in enumerate(self._columns):
            self._sheet.set_column(at, at, 32 if at == 0 else max(12, len(name) + 2))
            self._sheet.write_string(0, at, name, self._head)
        self._row = 0

    def add(self, values: Sequence[Cell]) -> None:
        if self._row == MAX_ROWS:
            self._open()
        self._row += 1
        for at, (name, value) in enumerate(zip(self._columns, values, strict=True)):
            if value is None or value == "":
                continue
            if isinstance(value, str):
                self._add_text(at, name, value)
            else:
                self._sheet.write_number(
                    self._row, at, value, self._share if isinstance(value, float) else None
                )

    def _add_text(self, at: int, name: str, value: str) -> None:
        if name in _DAYS:
            with suppress(ValueError):
                day = datetime.strptime(value, "%Y%m%d").date()
                if day >= _FIRST_DAY:
                    self._sheet.write_datetime(self._row, at, day, self._day)
                    return
        if name in _MOMENTS:
            moment = datetime.fromisoformat(value).replace(tzinfo=None)
            self._sheet.write_datetime(self._row, at, moment, self._moment)
            return
        shown = value if len(value) <= MAX_TEXT else f"{value[: MAX_TEXT - 1]}…"
        self._sheet.write_string(self._row, at, shown.encode("utf-8", "replace").decode(), self._text)

    def end(self) -> None:
        if self._n_sheets == 1:  # a filter over a sheet that goes on in another would hide half
            self._sheet.autofilter(0, 0, self._row, len(self._columns) - 1)


def workbook_pieces(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[bytes]:
    """Yield a workbook of one table in pieces, the first once all rows are written to disk.

    Texts are written as texts, whatever they look like: an id keeps its leading zeros, and nothing becomes a
    formula or a link. Days and moments (UTC) are Excel's own.
    """
    options: dict[str, Any] = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    yield b""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        book = xlsxwriter.Workbook(file, options | {"tmpdir": folder})
        sheets = _Sheets(book, columns)
        for row in rows:
            sheets.add(row)
        sheets.end()
        book.use_zip64()
        book.close()
        yield from file_pieces(file)
