"""The merged PDF of a batch: its reports in the order of the worklist, in volumes that fit into memory."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pipeline.report.merge import merge_reports
from pipeline.report.types import BatchCover, BundleCard, ContentsEntry
from settings import VERSION
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing
from store.base.session import session_scope
from store.base.tables import Batch, Bundle, Site
from store.bundles.words import label_meaning
from store.results.downloads import ExportRequest, Format, Progress
from store.results.results import Row, iter_rows, waiting_class
from store.results.zips import ZipStream, file_pieces
from vocabulary.anatomy import part_words
from vocabulary.states import Triage

#: Reports in one file: joining holds them in memory.
VOLUME = 500


@dataclass
class _Study:
    """What the contents say of a study, gathered from its images."""

    first: Row
    regions: set[str] = field(default_factory=set)
    probability: float | None = None
    priority: int = 9
    waiting: tuple[int, str] = (99, "")

    def add(self, row: Row) -> None:
        self.priority = min(self.priority, row.priority)
        rank, since = waiting_class(row)
        self.waiting = min(self.waiting, (rank, since.isoformat() if since else ""))
        if row.region:
            self.regions.add(row.region)
        if row.probability is not None:
            self.probability = max(row.probability, self.probability or 0.0)

    @property
    def triage(self) -> Triage:
        return Triage(self.first.study_triage or Triage.NOT_ASSESSABLE)

    def place(self) -> tuple[int, str, str]:
        """Where the worklist has it."""
        return (*self.waiting, str(self.first.study_id or self.first.id))

    def entry(self) -> ContentsEntry:
        row = self.first
        return ContentsEntry(
            triage=self.triage,
            urgent=self.priority == 0,
            name=row.accession or row.path,
            study_date=re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", row.study_date),
            region=", ".join(part_words(region) for region in sorted(self.regions)),
            probability=self.probability,
            n_images=row.n_images or 1,
            page=None,
        )


def _studies(request: ExportRequest) -> list[_Study]:
    found: dict[str, _Study] = {}
    for row in iter_rows(request.selection):
        key = row.report_key or str(row.study_id or row.id)
        found.setdefault(key, _Study(row)).add(row)
    return sorted(found.values(), key=_Study.place)


def _cover(request: ExportRequest, studies: list[_Study]) -> BatchCover:
    counted = Counter(study.triage for study in studies)
    with session_scope() as session:
        batch = session.get_one(Batch, request.selection.batch_id)
        bundle = session.get_one(Bundle, batch.bundle)
        site = session.get_one(Site, batch.site_id)
    return BatchCover(
        site_name=site.name,
        batch_id=str(batch.id),
        label=batch.label,
        created_at=datetime.now(UTC),
        bundle=BundleCard(
            bundle.name, bundle.sha256, label_meaning(bundle), str(bundle.manifest.get("trained_on", ""))
        ),
        n_images=batch.n_total,
        triage={triage: counted[triage] for triage in Triage},
        ended={word: getattr(batch, f"n_{word}") for word in ("rejected", "failed", "cancelled")},
        entries=(),
        volume=1,
        volumes=1,
        software_version=VERSION,
        time_zone=site.time_zone,
    )


class MergedPdf:
    """One PDF with a cover; of a batch with more than `VOLUME` studies a ZIP of such volumes."""

    def __init__(self, request: ExportRequest, progress: Progress) -> None:
        studies = _studies(request)
        progress.total = len(studies)
        self._progress = progress
        self._cover = _cover(request, studies)
        self._parts = [studies[at : at + VOLUME] for at in range(0, len(studies), VOLUME)] or [[]]

    @property
    def kind(self) -> Format:
        """Return whether it is a PDF or a ZIP of them."""
        return Format.PDF if len(self._parts) == 1 else Format.ZIP

    def pieces(self) -> Iterator[bytes]:
        """Yield the file."""
        if self.kind is Format.PDF:
            yield from _volume(self._cover, self._parts[0], self._progress)
            return
        n = len(self._parts)
        with tempfile.SpooledTemporaryFile(max_size=1 << 20) as members:
            archive = ZipStream(self._cover.created_at, members)
            for number, part in enumerate(self._parts, 1):
                pieces = _volume(replace(self._cover, volume=number, volumes=n), part, self._progress)
                name = f"reports-{number}-of-{n}.pdf"
                yield from archive.add(name, pieces, compress=False, size=1 << 32)
            yield archive.close()


def _volume(cover: BatchCover, studies: list[_Study], progress: Progress) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as file:
        merge_reports(cover, _reports(studies, progress), file)
        yield from file_pieces(file)


def _reports(studies: list[_Study], progress: Progress) -> Iterator[tuple[ContentsEntry, bytes | None]]:
    for study in studies:
        yield study.entry(), _report(study, progress)
        progress.step()


def _report(study: _Study, progress: Progress) -> bytes | None:
    key = study.first.report_key
    if key is None:
        return None
    try:
        return get_blobs().get(key)
    except BlobMissing:
        progress.missing.append(key)
        return None
