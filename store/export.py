"""What people take away of a batch: the CSV, and a ZIP with reports and heat maps, made as it is sent."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
import unicodedata
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from settings import VERSION
from store import batches
from store.batches import ImageRow
from store.blobs import get_blobs
from store.errors import BlobMissing
from store.tables import REASONS, TERMINAL_BATCH_STATUSES, Batch, Bundle, ImageStatus, Reason, Triage
from store.words import finding_words, label_meaning, thresholds

RESULT_COLUMNS = (
    "filename",
    "status",
    "reason",
    "region",
    "region_probability",
    "finding",
    "probability",
    "triage",
    "bundle",
    "report",
    "heatmap",
    "sha256",
    "image_id",
    "study_id",
    "accession",
    "study_uid",
    "sop_uid",
    "study_date",
    "laterality",
    "view",
    "study_triage",
)
ERROR_COLUMNS = ("filename", "status", "reason", "sentence", "advice", "sha256", "image_id")

_NOT_DONE = frozenset({ImageStatus.REJECTED, ImageStatus.FAILED, ImageStatus.CANCELLED})
_SUFFIXES = re.compile(r"\.(png|jpe?g|tiff?|webp|dcm|dicom|dic|ima)$", re.IGNORECASE)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?$", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MAX_PART, _MAX_STEM = 80, 180
_PIECE = 1 << 16


# words and cells


def reason_of(row: ImageRow) -> Reason | None:
    """Return why an image was refused, failed or not read."""
    return Reason(row.image.reason) if row.image.reason else None


def cell(text: str) -> str:
    """Make a text harmless in a spreadsheet: what a formula could start with gets an apostrophe before it.

    Texts that start with apostrophes before such a sign get one more, so that removing one always gives the
    text back (`uncell`). Ordinary names are not touched.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def uncell(text: str) -> str:
    """Undo `cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


# names inside the archive


def _part(text: str) -> str:
    text = _FORBIDDEN.sub("_", text).strip().rstrip(". ")
    return f"_{text}" if _RESERVED.match(text) else text


def _cut(text: str, most: int, whole: str) -> str:
    if len(text.encode()) <= most:
        return text
    mark = "~" + hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:8]
    return text.encode()[: most - len(mark)].decode("utf-8", "ignore") + mark


def safe_stem(path: str) -> str:
    """Return a relative path without an image's suffix that every operating system can unpack.

    No drive, no root, no way upwards, no control characters, nothing that Windows forbids or reserves, NFC,
    at most 80 bytes a part and 180 in all; what is cut carries a hash of the whole.
    """
    normal = unicodedata.normalize("NFC", path.encode("utf-8", "replace").decode()).replace("\\", "/")
    parts = [p for p in normal.split("/") if p not in {"", ".", ".."}]
    if parts:
        parts[-1] = _SUFFIXES.sub("", parts[-1]) or parts[-1]
    kept = [_cut(p, _MAX_PART, p) for p in map(_part, parts) if p]
    stem = "/".join(kept) or "unnamed"
    if len(stem.encode()) > _MAX_STEM:
        stem = _cut(kept[-1], _MAX_PART, kept[-1]) + "~" + hashlib.sha256(stem.encode()).hexdigest()[:8]
    return stem


class MemberNames:
    """Gives every image of a batch a stem that no other has, in any case of its letters.

    Only a hash is kept of each, and of each study with several images the stem of its report.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._studies: dict[uuid.UUID, str] = {}

    def stem(self, path: str) -> str:
        """Return the stem of the next image, the same in every pass over the batch."""
        wish = safe_stem(path)
        stem = wish
        while (key := self._key(stem)) in self._seen:
            first = self._key(wish)
            self._seen[first] += 1
            stem = f"{wish}-{self._seen[first]}"
        self._seen[key] = 1
        return stem

    @staticmethod
    def _key(stem: str) -> bytes:
        return hashlib.blake2b(stem.casefold().encode(), digest_size=10).digest()

    def report(self, row: ImageRow, stem: str) -> tuple[str, bool]:
        """Return the member name of the report of the image's study, and whether it is new."""
        found = row.study_finding
        if found is None or found.report_key is None:
            return "", False
        if found.n_images == 1:
            return f"reports/{stem}.pdf", True
        new = found.study_id not in self._studies
        return f"reports/{self._studies.setdefault(found.study_id, stem)}.pdf", new


# rows


@dataclass(frozen=True)
class Line:
    """One image's line of the CSV, and where the bytes of its members lie."""

    cells: tuple[str, ...]
    error: tuple[str, ...] | None
    report_key: str | None
    heatmap_key: str | None

    @property
    def report(self) -> str:
        """Member name of the report, or empty."""
        return self.cells[RESULT_COLUMNS.index("report")]

    @property
    def heatmap(self) -> str:
        """Member name of the heat map, or empty."""
        return self.cells[RESULT_COLUMNS.index("heatmap")]


def _line(row: ImageRow, names: MemberNames, bundle: str, label_meaning: str) -> Line:
    image, reason = row.image, reason_of(row)
    stem = names.stem(image.path)
    report, report_is_new = names.report(row, stem)
    heatmap = f"heatmaps/{stem}.jpg" if image.overlay_key else ""
    cells = (
        image.path,
        image.status,
        reason.value if reason else "",
        image.region or "",
        _share(image.region_probability),
        finding_words(image.triage, label_meaning),
        _share(image.probability),
        image.triage or "",
        bundle,
        report,
        heatmap,
        image.sha256,
        str(image.id),
        str(image.study_id or ""),
        image.accession,
        image.study_uid,
        image.sop_uid,
        image.study_date,
        image.laterality,
        image.view,
        row.study_finding.triage if row.study_finding else "",
    )
    error = None
    if image.status in _NOT_DONE:
        said = REASONS[reason] if reason else None
        error = (
            image.path,
            image.status,
            reason.value if reason else "",
            said.sentence if said else "",
            said.advice if said else "",
            image.sha256,
            str(image.id),
        )
    report_key = row.study_finding.report_key if row.study_finding and report_is_new else None
    return Line(cells, error, report_key, image.overlay_key)


def _lines(batch: Batch, label_meaning: str) -> Iterator[Line]:
    names = MemberNames()
    for row in batches.iter_results(batch.site_id, batch.id):
        yield _line(row, names, batch.bundle, label_meaning)


def _csv_text(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([cell(c) for c in cells])
    return text.getvalue().encode("utf-8", "replace")


def stream_csv(batch: Batch, bundle: Bundle) -> Iterator[bytes]:
    """Yield ``results.csv`` in pieces: one line an uploaded file, in the order of arrival."""
    buffer = bytearray(_csv_text(RESULT_COLUMNS))
    yield bytes(buffer)
    buffer.clear()
    for line in _lines(batch, label_meaning(bundle)):
        buffer += _csv_text(line.cells)
        if len(buffer) >= _PIECE:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


# bundles


# the archive


class _Sink(io.RawIOBase):
    """Where `zipfile` writes: what has come since the last `take`. It cannot seek back to patch."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces += data
        return len(data)

    def __len__(self) -> int:
        return len(self._pieces)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._pieces)
        self._pieces.clear()
        return taken


class _Archive:
    """A ZIP that is handed out piece by piece while it is written, with the hash of every member."""

    def __init__(self, moment: datetime, members: IO[bytes]) -> None:
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", allowZip64=True)
        self._moment = max(moment.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
        #: ``"name": "sha256"`` of every member so far, as JSON text: on disk when they are many.
        self.members = members
        self._count = 0

    def add(self, name: str, pieces: Iterator[bytes], *, compress: bool, size: int = 0) -> Iterator[bytes]:
        """Write one member from its pieces; yield the archive's bytes as they come.

        Pictures and PDFs are packed at level 0: as good as stored, but a reader that streams can find their
        end, which Java's cannot where a stored member's size follows it.
        """
        info = zipfile.ZipInfo(name, self._moment)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o100644 << 16
        info.file_size = size
        info._compresslevel = None if compress else 0  # type: ignore[attr-defined]
        digest = hashlib.sha256()
        with self._zip.open(info, "w", force_zip64=size > zipfile.ZIP64_LIMIT // 2) as member:
            yield self._sink.take()
            for piece in pieces:
                digest.update(piece)
                member.write(piece)
                if len(self._sink) >= _PIECE:
                    yield self._sink.take()
        yield self._sink.take()
        comma = b",\n" if self._count else b""
        self.members.write(comma + f"{json.dumps(name)}: {json.dumps(digest.hexdigest())}".encode())
        self._count += 1

    def close(self) -> bytes:
        """Write the directory of the archive; return its last bytes."""
        self._zip.close()
        return self._sink.take()


@dataclass
class _Spools:
    """What is noted, while the CSV goes out, for the members that follow it."""

    media: IO[bytes]
    errors: IO[bytes]

    def note(self, line: Line) -> None:
        if line.error:
            self.errors.write(_csv_text(line.error))
        for name, key in ((line.heatmap, line.heatmap_key), (line.report, line.report_key)):
            if name and key:
                self.media.write(json.dumps([name, key]).encode() + b"\n")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece


def _result_pieces(batch: Batch, meaning: str, spools: _Spools) -> Iterator[bytes]:
    yield _csv_text(RESULT_COLUMNS)
    for line in _lines(batch, meaning):
        spools.note(line)
        yield _csv_text(line.cells)


def _manifest_pieces(
    batch: Batch, bundle: Bundle, missing: Sequence[str], members: IO[bytes]
) -> Iterator[bytes]:
    complete = batch.status in TERMINAL_BATCH_STATUSES and not missing
    head = {
        "format": "fractureai-results/1",
        "complete": complete,
        "batch": {
            "id": str(batch.id),
            "label": batch.label,
            "status": batch.status,
            "created_at": batch.created_at.isoformat(),
            "submitted_at": batch.submitted_at.isoformat() if batch.submitted_at else None,
            "finished_at": batch.finished_at.isoformat() if batch.finished_at else None,
        },
        "bundle": {
            "name": bundle.name,
            "sha256": bundle.sha256,
            "label_meaning": label_meaning(bundle),
            "files": bundle.files,
        },
        "thresholds": thresholds(bundle),
        "versions": {"fractureai": VERSION},
        "counts": {
            "total": batch.n_total,
            **{s: getattr(batch, f"n_{s}") for s in ("done", "rejected", "failed", "cancelled", "skipped")},
        },
        "triage": {t.value: getattr(batch, f"t_{t.value}") for t in Triage},
        "notice": "AI output, to be verified by a clinician. Not a medical device.",
        "missing": list(missing),
    }
    text = json.dumps(head, indent=2, ensure_ascii=False)
    yield text.removesuffix("\n}").encode("utf-8", "replace") + b',\n  "members": {\n'
    yield from _pieces(members)
    yield b"\n  }\n}\n"


def stream_zip(batch: Batch, bundle: Bundle) -> Iterator[bytes]:
    """Yield ``results.zip`` in pieces, the first at once, in memory that does not grow with the pictures.

    Order: ``results.csv``, ``errors.csv``, heat maps and reports in the order of arrival, ``manifest.json``.
    The database is read while the CSV goes out and let go of before the first picture. Of a batch that still
    runs it holds what is done, and ``manifest.json`` says ``"complete": false``; as it does when bytes that
    the database knows are missing from the store, which it then lists.
    """
    missing: list[str] = []
    with (
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as media,
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as errors,
        tempfile.SpooledTemporaryFile(max_size=1 << 20) as members,
    ):
        archive = _Archive(batch.created_at, members)
        errors.write(_csv_text(ERROR_COLUMNS))
        results = _result_pieces(batch, label_meaning(bundle), _Spools(media, errors))
        csv_size = 600 * batch.n_total  # a guess, for the rare CSV beyond 4 GiB
        yield from archive.add("results.csv", results, compress=True, size=csv_size)
        yield from archive.add("errors.csv", _pieces(errors), compress=True, size=csv_size)
        media.seek(0)
        for text in media:
            name, key = json.loads(text)
            try:
                pieces = get_blobs().stream(key)
            except BlobMissing:
                missing.append(name)
                continue
            yield from archive.add(name, pieces, compress=False)
        yield from archive.add(
            "manifest.json", _manifest_pieces(batch, bundle, missing, members), compress=True
        )
        yield archive.close()
