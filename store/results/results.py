"""Results as flat rows: chosen by batch, filter or date, with chosen columns, in memory that stays flat."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, literal, select, true
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from store.base.days import begin_of, end_of
from store.base.session import get_engine
from store.base.tables import Batch, Bundle, Image, Priority, Study, StudyFinding
from store.bundles.words import families, label_meaning, thresholds
from store.reading.worklist import Rank
from store.reading.worklist_tables import WorklistRow
from store.results.safe_names import MemberNames, one_part
from vocabulary.media import EXTENSIONS
from vocabulary.reasons import REASONS, Reason
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import finding_words, shown_flags

#: Rows that are read at a time.
FETCH = 1000
_NOT_DONE = frozenset({ImageStatus.REJECTED, ImageStatus.FAILED, ImageStatus.CANCELLED})


@dataclass(frozen=True)
class Selection:
    """Which images of a site: of one batch, or of all that were submitted, narrowed by what is not None.

    Attributes
    ----------
    since, until
        Days of arrival, both included.
    zone
        The time zone in which those days begin; None for UTC.
    studies
        Only these, where any is named.
    trials
        Whether batches belong to it that were read by bundles which the site had not promoted.
    """

    site_id: uuid.UUID
    batch_id: uuid.UUID | None = None
    status: str | None = None
    triage: str | None = None
    region: str | None = None
    since: date | None = None
    until: date | None = None
    studies: tuple[uuid.UUID, ...] = ()
    trials: bool = False
    zone: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what images and their batches must fulfil."""
        chosen: list[ColumnElement[bool]] = [Image.site_id == self.site_id, Batch.run_id.is_(None)]
        if self.batch_id is not None:
            chosen.append(Image.batch_id == self.batch_id)
        else:
            chosen.append(Batch.submitted_at.is_not(None))
        if not self.trials:
            chosen.append(Batch.promoted.is_(True))
        for column, value in (
            (Image.status, self.status),
            (Image.triage, self.triage),
            (Image.region, self.region),
        ):
            if value is not None:
                chosen.append(column == value)
        if self.studies:
            chosen.append(Image.study_id.in_(self.studies))
        if self.since is not None:
            chosen.append(Image.created_at >= begin_of(self.since, self.zone))
        if self.until is not None:
            chosen.append(Image.created_at < end_of(self.until, self.zone))
        return chosen

    @property
    def is_whole_batch(self) -> bool:
        """Tell whether it is one batch without any filter."""
        whole = Selection(self.site_id, self.batch_id, trials=self.trials)
        return self == whole and self.batch_id is not None


class Row(NamedTuple):
    """One image with what its batch's bundle says of it, and its study's latest finding by that bundle."""

    id: uuid.UUID
    batch_id: uuid.UUID
    batch_label: str
    bundle: str
    path: str
    status: str
    reason: str | None
    region: str | None
    region_probability: float | None
    probability: float | None
    triage: str | None
    flags: list[Any] | None
    attention_regions: list[Any] | None
    suspected_places: list[Any] | None
    sha256: str
    size: int
    width: int | None
    height: int | None
    study_id: uuid.UUID | None
    accession: str
    study_uid: str
    series_uid: str
    sop_uid: str
    study_date: str
    body_part: str
    laterality: str
    view: str
    age_years: int | None
    media_type: str | None
    original_key: str | None
    overlay_key: str | None
    created_at: datetime
    finished_at: datetime | None
    priority: int
    study_triage: str | None
    n_images: int | None
    report_key: str | None
    number: int | None
    study_shared: bool | None
    submitted_at: datetime | None
    waiting_rank: int | None
    waiting_since: datetime | None
    risen: bool | None
    seq: int


def _query(selection: Selection, *, with_lists: bool) -> Select[Any]:
    latest = (
        select(StudyFinding.triage, StudyFinding.n_images, StudyFinding.report_key)
        .where(StudyFinding.study_id == Image.study_id, StudyFinding.bundle == Batch.bundle)
        .order_by(StudyFinding.version.desc())
        .limit(1)
        .lateral("latest")
    )
    from_batch = {
        "batch_label": Batch.label,
        "bundle": Batch.bundle,
        "submitted_at": Batch.submitted_at,
        "priority": func.coalesce(Image.priority, Batch.priority),
    }
    from_study = {
        "study_triage": latest.c.triage,
        "n_images": latest.c.n_images,
        "report_key": latest.c.report_key,
    }
    from_worklist = {
        "waiting_rank": WorklistRow.rank,
        "waiting_since": WorklistRow.since,
        "risen": WorklistRow.risen,
    }
    others = from_batch | from_study | from_worklist | {"study_shared": Study.uid_shared}
    if not with_lists:
        others |= {name: literal(None) for name in LIST_COLUMNS}
    columns = [others[name].label(name) if name in others else getattr(Image, name) for name in Row._fields]
    return (
        select(*columns)
        .join(Batch, Batch.id == Image.batch_id)
        .outerjoin(Study, Study.id == Image.study_id)
        .outerjoin(latest, true())
        .outerjoin(
            WorklistRow, (WorklistRow.study_id == Image.study_id) & (WorklistRow.batch_id == Image.batch_id)
        )
        .where(*selection.conditions())
    )


def waiting_class(row: Row) -> tuple[int, datetime | None]:
    """Return the class in which the image's study waits on the worklist, and since when; ties go by study.

    The row of the worklist says both. Where there is none, or the study is reviewed, they are what they were
    when it came; of a study the least class of its images counts.
    """
    if row.waiting_rank is not None and row.waiting_rank != Rank.REVIEWED:
        return row.waiting_rank, row.waiting_since
    triage = Triage(row.study_triage) if row.study_triage else Triage.NOT_ASSESSABLE
    if row.priority == Priority.URGENT.rank or row.risen:
        return int(Rank.URGENT_POSITIVE if triage is Triage.POSITIVE else Rank.URGENT), row.submitted_at
    return list(Triage).index(triage) + 1, row.submitted_at


def _groups(session: Session, selection: Selection) -> list[list[uuid.UUID]]:
    """Return the batches that hold what is chosen, the oldest first: small ones together."""
    if selection.batch_id is not None:
        return [[selection.batch_id]]
    query = select(Batch.id, Batch.n_total).where(
        Batch.site_id == selection.site_id, Batch.run_id.is_(None), Batch.submitted_at.is_not(None)
    )
    if not selection.trials:
        query = query.where(Batch.promoted)
    if selection.studies:
        query = query.where(Batch.id.in_(select(Image.batch_id).where(Image.study_id.in_(selection.studies))))
    if selection.since is not None:  # images arrive before their batch is submitted, and after it is made
        query = query.where(Batch.submitted_at >= begin_of(selection.since, selection.zone))
    if selection.until is not None:
        query = query.where(Batch.created_at < end_of(selection.until, selection.zone))
    groups: list[list[uuid.UUID]] = []
    room = 0
    for id_, n in session.execute(query.order_by(Batch.created_at, Batch.id)):
        if not groups or n > room or len(groups[-1]) >= FETCH:
            groups.append([])
            room = FETCH
        groups[-1].append(id_)
        room -= n
    return groups


def iter_rows(selection: Selection, *, with_lists: bool = False) -> Iterator[Row]:
    """Yield the chosen images batch by batch in the order of arrival; memory stays flat whatever the number.

    They are read by pages, each in a short transaction of its own: whoever takes the rows may stall for as
    long as they like. What arrives after the beginning is left out. Only what a line can show is loaded: no
    class-activation map, and attention regions only `with_lists`.
    """
    with Session(get_engine()) as session:
        last = session.scalar(select(func.max(Image.seq))) or 0
        groups = _groups(session, selection)
    query = _query(selection, with_lists=with_lists).where(Image.seq <= last)
    for ids in groups:
        page = query.where(Image.batch_id.in_(ids))
        if len(ids) > 1:
            place = func.array_position(array(ids), Image.batch_id)
            yield from _read(page.order_by(place, Image.seq))
            continue
        after = 0
        while rows := _read(page.where(Image.seq > after).order_by(Image.seq).limit(FETCH)):
            yield from rows
            after = rows[-1].seq


def _read(query: Select[Any]) -> list[Row]:
    with Session(get_engine()) as session:
        return [Row._make(row) for row in session.execute(query)]


def count(session: Session, selection: Selection) -> int:
    """Return how many images are chosen; of a whole batch it is its counter."""
    if selection.is_whole_batch and selection.batch_id is not None:
        return int(session.scalar(select(Batch.n_total).where(Batch.id == selection.batch_id)) or 0)
    query = select(func.count()).select_from(Image).join(Batch, Batch.id == Image.batch_id)
    return int(session.scalar(query.where(*selection.conditions())) or 0)


# lines


@dataclass(frozen=True)
class BundleWords:
    """What a bundle means by its label, and where it cuts."""

    meaning: str
    thresholds: Mapping[str, Mapping[str, float]]
    families: Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A row, and the names of its members inside an archive (empty where there is none)."""

    row: Row
    words: BundleWords
    report: str
    report_is_new: bool
    heatmap: str
    original: str

    def error(self) -> tuple[str, ...] | None:
        """Return the row's line of ``errors.csv``, or None when nothing is wrong with it."""
        row = self.row
        if row.status not in _NOT_DONE:
            return None
        said = REASONS[Reason(row.reason)] if row.reason else None
        words = (said.sentence, said.advice) if said else ("", "")
        return (row.path, row.status, row.reason or "", *words, row.sha256, str(row.id))


ERROR_COLUMNS = ("filename", "status", "reason", "sentence", "advice", "sha256", "image_id")

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One column of a table: what kind of values it holds, and where they come from."""

    kind: type[str] | type[int] | type[float]
    value: Callable[[Line], Cell]


def _threshold(name: str) -> Callable[[Line], Cell]:
    def value(line: Line) -> Cell:
        row = line.row
        return (
            line.words.thresholds.get(row.region or "", {}).get(name) if row.probability is not None else None
        )

    return value


def _flags(line: Line) -> str:
    row = line.row
    shown = shown_flags(
        row.flags or (),
        reason=row.reason,
        region=row.region,
        age_years=row.age_years,
        study_shared=bool(row.study_shared),
    )
    return " ".join(shown)


def _moment(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat(timespec="seconds") if when else None


#: Every column that a table can have; the first ones are `RESULT_COLUMNS`.
COLUMNS: dict[str, Column] = {
    "filename": Column(str, lambda line: line.row.path),
    "status": Column(str, lambda line: line.row.status),
    "reason": Column(str, lambda line: line.row.reason),
    "region": Column(str, lambda line: line.row.region),
    "region_probability": Column(float, lambda line: line.row.region_probability),
    "finding": Column(str, lambda line: finding_words(line.row.triage, line.words.meaning)),
    "probability": Column(float, lambda line: line.row.probability),
    "triage": Column(str, lambda line: line.row.triage),
    "bundle": Column(str, lambda line: line.row.bundle),
    "report": Column(str, lambda line: line.report),
    "heatmap": Column(str, lambda line: line.heatmap),
    "sha256": Column(str, lambda line: line.row.sha256),
    "image_id": Column(str, lambda line: str(line.row.id)),
    "study_id": Column(str, lambda line: str(line.row.study_id) if line.row.study_id else None),
    "accession": Column(str, lambda line: line.row.accession),
    "study_uid": Column(str, lambda line: line.row.study_uid),
    "sop_uid": Column(str, lambda line: line.row.sop_uid),
    "study_date": Column(str, lambda line: line.row.study_date),
    "laterality": Column(str, lambda line: line.row.laterality),
    "view": Column(str, lambda line: line.row.view),
    "study_triage": Column(str, lambda line: line.row.study_triage),
    "image_number": Column(int, lambda line: line.row.number),
    "flags": Column(str, _flags),
    "family": Column(str, lambda line: line.words.families.get(line.row.region or "")),
    "low": Column(float, _threshold("low")),
    "high": Column(float, _threshold("high")),
    "age_years": Column(int, lambda line: line.row.age_years),
    "batch_id": Column(str, lambda line: str(line.row.batch_id)),
    "batch_label": Column(str, lambda line: line.row.batch_label),
    "label_meaning": Column(str, lambda line: line.words.meaning),
    "attention_regions": Column(str, lambda line: json.dumps(line.row.attention_regions or [])),
    "suspected_places": Column(str, lambda line: json.dumps(line.row.suspected_places or [])),
    "series_uid": Column(str, lambda line: line.row.series_uid),
    "body_part": Column(str, lambda line: line.row.body_part),
    "width": Column(int, lambda line: line.row.width),
    "height": Column(int, lambda line: line.row.height),
    "size": Column(int, lambda line: line.row.size),
    "original": Column(str, lambda line: line.original),
    "uploaded_at": Column(str, lambda line: _moment(line.row.created_at)),
    "finished_at": Column(str, lambda line: _moment(line.row.finished_at)),
}
RESULT_COLUMNS = tuple(COLUMNS)[: tuple(COLUMNS).index("age_years") + 1]
#: Lists of each image, not loaded unless a column shows them.
LIST_COLUMNS = frozenset({"attention_regions", "suspected_places"})


def bundle_words(bundle: Bundle) -> BundleWords:
    """Return what lines need to know of a bundle."""
    return BundleWords(label_meaning(bundle), thresholds(bundle), families(bundle))


def iter_lines(selection: Selection, *, with_lists: bool = False) -> Iterator[Line]:
    """Yield the chosen rows with the names of their members, each unlike all others in any case.

    Where several batches are chosen, each batch has a folder of its own.
    """
    names = MemberNames()
    words: dict[str, BundleWords] = {}
    for row in iter_rows(selection, with_lists=with_lists):
        if row.bundle not in words:
            with Session(get_engine()) as session:
                words[row.bundle] = bundle_words(session.get_one(Bundle, row.bundle))
        folder = "" if selection.batch_id is not None else f"{str(row.batch_id)[:8]}/"
        stem = names.stem(folder + row.path)
        report, is_new = "", False
        if row.report_key is not None:
            preferred = folder + (one_part(row.accession) or row.path)
            report, is_new = names.report(row.report_key, row.n_images or 1, preferred)
        extension = EXTENSIONS.get(row.media_type or "", "bin")
        yield Line(
            row,
            words[row.bundle],
            report,
            is_new,
            heatmap=f"heatmaps/{stem}.jpg" if row.overlay_key else "",
            original=f"originals/{stem}.{extension}" if row.original_key else "",
        )
