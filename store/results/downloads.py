"""What people take away, as streams of bytes: tables of several kinds, and a ZIP made as it is sent."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import IO, Any
from uuid import UUID

from sqlalchemy.orm import Session

from settings import VERSION
from store.base.blobs import get_blobs
from store.base.cells import cell
from store.base.errors import BlobMissing
from store.base.session import get_engine
from store.base.tables import Batch, Bundle
from store.bundles.words import label_meaning, thresholds
from store.results.index_page import IndexPage
from store.results.results import (
    COLUMNS,
    ERROR_COLUMNS,
    LIST_COLUMNS,
    RESULT_COLUMNS,
    Cell,
    Line,
    Selection,
    iter_lines,
)
from store.results.zips import PIECE, Sink, ZipStream, file_pieces
from vocabulary.states import TERMINAL_BATCH_STATUSES, Triage
from vocabulary.times import instant

NOTICE = "AI output, to be verified by a clinician. Not a medical device."
_ROW_GROUP = 5000
#: Studies that a request may name one by one.
MAX_STUDIES = 500


class Format(StrEnum):
    """What kind of file, in the order in which the page offers them."""

    ZIP = "zip"
    XLSX = "xlsx"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    PDF = "pdf"

    @property
    def words(self) -> str:
        """Return what the page calls it."""
        return _FORMATS[self][0]

    @property
    def media_type(self) -> str:
        """Return the file's media type."""
        return _FORMATS[self][1]


#: What the page calls each kind of file, and its media type.
_FORMATS = {
    Format.ZIP: ("ZIP: tables, reports, pictures", "application/zip"),
    Format.XLSX: ("Excel table", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    Format.CSV: ("CSV table", "text/csv; charset=utf-8"),
    Format.JSONL: ("JSON Lines table", "application/jsonl; charset=utf-8"),
    Format.PARQUET: ("Parquet table", "application/vnd.apache.parquet"),
    Format.PDF: ("One PDF with all reports of a batch", "application/pdf"),
}


class Part(StrEnum):
    """What a ZIP may hold beside its manifest."""

    TABLES = "tables"
    REPORTS = "reports"
    HEATMAPS = "heatmaps"
    ORIGINALS = "originals"


DEFAULT_PARTS = (Part.TABLES, Part.REPORTS, Part.HEATMAPS)


class InvalidExportRequest(ValueError):
    """What was asked for cannot be made; the text says why."""


@dataclass(frozen=True)
class ExportRequest:
    """What somebody wants to take away: which images, as what kind of file, with which columns and parts.

    Attributes
    ----------
    bom
        Whether CSV begins with the mark by which Excel knows UTF-8; other programs may show it.

    Raises
    ------
    InvalidExportRequest
        The days are out of order, or a merged PDF is not of one batch.
    """

    selection: Selection
    format: Format
    columns: tuple[str, ...] = RESULT_COLUMNS
    parts: tuple[Part, ...] = DEFAULT_PARTS
    bom: bool = False

    def __post_init__(self) -> None:
        chosen = self.selection
        if chosen.since and chosen.until and chosen.since > chosen.until:
            raise InvalidExportRequest("since must not be after until")
        if self.format is Format.PDF and chosen.batch_id is None:
            raise InvalidExportRequest("a merged PDF is made of one batch: name it as 'batch'")

    @classmethod
    def of_document(cls, site_id: UUID, kept: Mapping[str, Any], *, trials: bool) -> ExportRequest:
        """Return the request that `document` wrote.

        Parameters
        ----------
        trials
            Whether batches of bundles on trial may be among what is chosen; the document does not say it.
        """
        since, until = (date.fromisoformat(kept[day]) if day in kept else None for day in ("since", "until"))
        selection = Selection(
            site_id,
            UUID(kept["batch"]) if "batch" in kept else None,
            kept.get("status"),
            kept.get("triage"),
            kept.get("region"),
            since,
            until,
            tuple(UUID(study_id) for study_id in kept.get("studies", ())),
            trials=trials,
            zone=kept.get("zone"),
        )
        return cls(
            selection,
            Format(kept["format"]),
            tuple(kept.get("columns", RESULT_COLUMNS)),
            tuple(map(Part, kept.get("parts", DEFAULT_PARTS))),
            kept.get("bom", False),
        )

    def document(self) -> dict[str, Any]:
        """Return the request as JSON that `of_document` reads."""
        chosen = asdict(self.selection)
        for name in ("site_id", "trials", "studies"):
            chosen.pop(name)
        chosen["batch"] = chosen.pop("batch_id")
        kept: dict[str, Any] = {name: str(value) for name, value in chosen.items() if value is not None}
        if self.bom:
            kept["bom"] = True
        if self.selection.studies:
            kept["studies"] = [str(study_id) for study_id in self.selection.studies]
        return {**kept, "format": self.format.value, "columns": list(self.columns), "parts": list(self.parts)}

    @property
    def file_name(self) -> str:
        """Return the name under which a browser saves it."""
        if self.selection.batch_id is not None:
            scope = str(self.selection.batch_id)[:8]
        else:
            days = [day.isoformat() for day in (self.selection.since, self.selection.until) if day]
            scope = "chosen" if self.selection.studies else "-to-".join(days) or "all"
        return f"fractureai-{scope}-{'reports' if self.format is Format.PDF else 'results'}.{self.format}"


@dataclass
class Progress:
    """How far a file has come; `on_step` is called after each row and member, and may raise to end it."""

    done: int = 0
    total: int = 0
    missing: list[str] = field(default_factory=list)
    on_step: Callable[[], None] = lambda: None

    def step(self) -> None:
        """Count one more."""
        self.done += 1
        self.on_step()


def stream(request: ExportRequest, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield the file in pieces, the first at once, in flat memory.

    Parameters
    ----------
    request
        Of any format but PDF, which the worker merges (`worker.results.exports`).
    progress
        Counted up as rows and members go out.
    """
    makers = {
        Format.CSV: _stream_csv,
        Format.XLSX: _stream_xlsx,
        Format.JSONL: _stream_jsonl,
        Format.PARQUET: _stream_parquet,
        Format.ZIP: _stream_zip,
    }
    return makers[request.format](request, progress or Progress())


def _lines(request: ExportRequest, progress: Progress) -> Iterator[Line]:
    for line in iter_lines(request.selection, with_lists=bool(LIST_COLUMNS & set(request.columns))):
        yield line
        progress.step()


def _groups(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    while group := list(itertools.islice(lines, size)):
        yield group


def _cells(line: Line, columns: Sequence[str]) -> list[Cell]:
    return [COLUMNS[name].value(line) for name in columns]


# tables


class _CsvText:
    """Writes CSV lines into a buffer and hands out their bytes."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._writer = csv.writer(self._text)

    def write(self, values: Sequence[Cell]) -> None:
        self._writer.writerow(
            [f"{v:.6f}" if isinstance(v, float) else cell(v) if isinstance(v, str) else v for v in values]
        )

    def __len__(self) -> int:
        return self._text.tell()

    def take(self) -> bytes:
        taken = self._text.getvalue().encode("utf-8", "replace")
        self._text.seek(0)
        self._text.truncate()
        return taken


def _csv_bytes(values: Sequence[Cell]) -> bytes:
    text = _CsvText()
    text.write(values)
    return text.take()


def _csv_pieces(lines: Iterator[Line], columns: Sequence[str], *, bom: bool) -> Iterator[bytes]:
    text = _CsvText()
    text.write(columns)
    yield (codecs.BOM_UTF8 if bom else b"") + text.take()
    for line in lines:
        text.write(_cells(line, columns))
        if len(text) >= PIECE:
            yield text.take()
    yield text.take()


def _stream_csv(request: ExportRequest, progress: Progress) -> Iterator[bytes]:
    return _csv_pieces(_lines(request, progress), request.columns, bom=request.bom)


def _stream_xlsx(request: ExportRequest, progress: Progress) -> Iterator[bytes]:
    from store.results.spreadsheet import workbook_pieces

    return workbook_pieces(
        request.columns, (_cells(line, request.columns) for line in _lines(request, progress))
    )


def _stream_jsonl(request: ExportRequest, progress: Progress) -> Iterator[bytes]:
    yield b""
    for lines in _groups(_lines(request, progress), 100):
        yield "".join(
            json.dumps(
                dict(zip(request.columns, _cells(line, request.columns), strict=True)), ensure_ascii=False
            )
            + "\n"
            for line in lines
        ).encode("utf-8", "replace")


def _stream_parquet(request: ExportRequest, progress: Progress) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, kinds[COLUMNS[name].kind]) for name in request.columns])
    sink = Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for lines in _groups(_lines(request, progress), _ROW_GROUP):
            columns = zip(*(_cells(line, request.columns) for line in lines), strict=True)
            arrays = [pa.array(list(c), field_.type) for c, field_ in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


# the archive


def _noted(
    lines: Iterator[Line],
    request: ExportRequest,
    media: IO[bytes],
    errors: IO[bytes],
    index: IndexPage,
    progress: Progress,
) -> Iterator[Line]:
    """Pass lines on; note for later which members, which errors and which studies they bring."""
    for line in lines:
        index.add(line)
        row = line.row
        if error := line.error():
            errors.write(_csv_bytes(error))
        members = (
            (Part.HEATMAPS, line.heatmap, row.overlay_key),
            (Part.REPORTS, line.report if line.report_is_new else "", row.report_key),
            (Part.ORIGINALS, line.original, row.original_key),
        )
        for part, name, key in members:
            if part in request.parts and name and key:
                media.write(json.dumps([name, key]).encode() + b"\n")
                progress.total += 1
        yield line


def _stream_zip(request: ExportRequest, progress: Progress) -> Iterator[bytes]:
    """Yield the archive: tables, then members in the order of arrival, ``manifest.json`` at the end.

    The database is read while the first table goes out and let go of before the first picture. Of a batch
    that still runs it holds what is done, and the manifest says ``"complete": false``; as it does when bytes
    that the database knows are missing from the store, which it then lists.
    """
    with Session(get_engine()) as session:
        batch = session.get(Batch, request.selection.batch_id) if request.selection.batch_id else None
    with (
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as media,
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as errors,
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as members,
        IndexPage() as index,
    ):
        archive = ZipStream(batch.created_at if batch else datetime.now(UTC), members)
        errors.write(_csv_bytes(ERROR_COLUMNS))
        lines = _noted(_lines(request, progress), request, media, errors, index, progress)
        if Part.TABLES in request.parts:
            size = 600 * max(progress.total, batch.n_total if batch else 0)  # a guess, for a CSV beyond 4 GiB
            yield from archive.add(
                "results.csv",
                _csv_pieces(lines, request.columns, bom=request.bom),
                compress=True,
                size=size,
            )
            yield from archive.add("errors.csv", file_pieces(errors), compress=True, size=size)
        else:
            yield from (b"" for _ in lines)
        media.seek(0)
        for noted in media:
            name, key = json.loads(noted)
            try:
                pieces = get_blobs().stream(key)
            except BlobMissing:
                progress.missing.append(name)
                continue
            yield from archive.add(name, pieces, compress=False)
            progress.step()
        title = (batch.label or f"Batch {str(batch.id)[:8]}") if batch else "Results"
        page = index.pieces(title, request.parts, progress.missing, request.selection.zone)
        yield from archive.add("index.html", page, compress=True)
        manifest = _manifest_pieces(request, batch, progress.missing, members)
        yield from archive.add("manifest.json", manifest, compress=True)
        yield archive.close()


def _batch_head(batch: Batch, bundle: Bundle) -> dict[str, Any]:
    return {
        "batch": {
            "id": str(batch.id),
            "label": batch.label,
            "status": batch.status,
            "created_at": instant(batch.created_at),
            "submitted_at": instant(batch.submitted_at) if batch.submitted_at else None,
            "finished_at": instant(batch.finished_at) if batch.finished_at else None,
        },
        "bundle": {
            "name": bundle.name,
            "sha256": bundle.sha256,
            "label_meaning": label_meaning(bundle),
            "files": bundle.files,
        },
        "thresholds": thresholds(bundle),
        "counts": {
            "total": batch.n_total,
            **{s: getattr(batch, f"n_{s}") for s in ("done", "rejected", "failed", "cancelled", "skipped")},
        },
        "triage": {t.value: getattr(batch, f"t_{t.value}") for t in Triage},
    }


def _manifest_pieces(
    request: ExportRequest, batch: Batch | None, missing: Sequence[str], members: IO[bytes]
) -> Iterator[bytes]:
    head: dict[str, Any] = {
        "format": "fractureai-results/1",
        "complete": not missing and (batch is None or batch.status in TERMINAL_BATCH_STATUSES),
        "selection": request.document(),
        "versions": {"fractureai": VERSION},
        "notice": NOTICE,
        "missing": list(missing),
    }
    if batch is not None:
        with Session(get_engine()) as session:
            head |= _batch_head(batch, session.get_one(Bundle, batch.bundle))
    text = json.dumps(head, indent=2, ensure_ascii=False)
    yield text.removesuffix("\n}").encode("utf-8", "replace") + b',\n  "members": {\n'
    yield from file_pieces(members)
    yield b"\n  }\n}\n"
