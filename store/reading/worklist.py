"""The worklist: which studies wait for a reader, in what order. One row a study, kept beside the findings.

A row is made when the study's finding is saved, or when its batch ends without one, and never by a page:
a list of a million studies is read from an index, a page at a time.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from enum import IntEnum, StrEnum
from typing import Any
from urllib.parse import parse_qs

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    any_,
    case,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from settings import get_settings
from store.accounts.accounts import Identity
from store.base.days import begin_of, end_of
from store.base.errors import NotFound, ServiceError
from store.base.paging import Keyset, Page, moment, share, words
from store.base.session import session_scope
from store.base.tables import Batch, Image, User, UserSession
from store.reading.worklist_search import holds, index_words, query_of, studies_with
from store.reading.worklist_tables import WorklistRow, WorklistView
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import ADULT


class Rank(IntEnum):
    """The classes in their order; within one the oldest comes first, of the reviewed the newest.

    Those from 1 to 4 are the triages, in their order.
    """

    AMENDED = -2  # what was signed no longer holds: somebody may be acting on it
    URGENT_POSITIVE = -1  # of the urgent
    URGENT = 0  # the requester's, and whoever waited too long
    POSITIVE = 1
    DOUBT = 2
    NOT_READ = 3  # not assessable, rejected, failed
    NEGATIVE = 4
    REVIEWED = 9

    @property
    def word(self) -> str:
        """The class for a person: the urgent are one."""
        return "urgent" if self is Rank.URGENT_POSITIVE else self.name.lower()


class Sort(StrEnum):
    """The columns by which the list is sorted."""

    NAME = "name"
    PROBABILITY = "probability"
    REGION = "region"
    ARRIVED = "arrived"
    READER = "reader"


class Mark(StrEnum):
    """How a study left the list without a reader's answer."""

    READ = "marked read"
    DISMISSED = "dismissed"


#: The urgent ones, positive or not.
_URGENT = (int(Rank.URGENT_POSITIVE), int(Rank.URGENT))

#: Counted no further than this: the number is a hint, and a page must not count a million rows.
MAX_COUNTED = 1000
#: Of words that very many studies hold, a page looks at no more than these studies.
MAX_WALKED = 20_000
#: Studies whose rows are written in one statement.
PART = 500


class TooManyViews(ServiceError):
    """More views than a list of them is good for."""

    code, status = "too_many_views", 409
    title = "You have as many views as can be kept."
    advice = "Delete one of them first."


@dataclass(frozen=True)
class Filters:
    """What the list is narrowed to; None does not narrow.

    Attributes
    ----------
    rank
        One class.
    reviewed
        False for what waits, True for what is reviewed, None for both.
    since, until
        First and last day of arrival.
    zone
        The time zone in which those days begin; None for UTC.
    search
        Beginnings of words of paths, accession and study UID; a study must hold them all.
    sort, descending
        A column to sort by instead of the list's own order; that one backwards when `sort` is None.
    """

    rank: Rank | None = None
    triage: str | None = None
    region: str | None = None
    status: str | None = None
    batch: uuid.UUID | None = None
    bundle: str | None = None
    since: date | None = None
    until: date | None = None
    zone: str | None = None
    reviewed: bool | None = False
    search: str | None = None
    sort: Sort | None = None
    descending: bool = False


@dataclass(frozen=True)
class Item:
    """A row with the words that belong to it: its batch's label, and who has opened it last."""

    row: WorklistRow
    label: str
    opened_by: str | None


# IS TRUE keeps the planner from an index on the batch: of a batch that is younger than the table's statistics
# it believes that it has one image, and would read all of it once for each study.
_REFRESH = text(
    """
    WITH worst AS (
        SELECT i.*, row_number() OVER same AS place, count(*) OVER whole AS n_images,
               min(coalesce(i.priority, :priority)) OVER whole AS worst_priority,
               max(i.accession) OVER whole AS any_accession, max(i.study_date) OVER whole AS any_date,
               min(i.age_years) OVER whole AS lowest_age,
               bool_or(i.status = 'failed') OVER whole AS any_failed
        FROM images i
        WHERE (i.batch_id = :batch) IS TRUE AND i.study_id = ANY(:studies)
          AND (i.finding_id IS NOT NULL AND i.triage IS NOT NULL OR i.status IN ('rejected', 'failed')
               OR i.status = 'cancelled' AND EXISTS (
                    SELECT FROM images r WHERE (r.batch_id = :batch) IS TRUE AND r.study_id = i.study_id
                        AND r.finding_id IS NOT NULL AND r.triage IS NOT NULL))
          AND i.reason IS DISTINCT FROM 'duplicate_in_study'
        WINDOW whole AS (PARTITION BY i.study_id),
               same AS (PARTITION BY i.study_id ORDER BY
                        array_position(CAST(:triages AS text[]), coalesce(i.triage, 'not_assessable')),
                        CASE WHEN i.triage IS NOT NULL THEN i.probability END DESC NULLS LAST,
                        i.number, i.path, i.seq)
    ), said AS (
        SELECT DISTINCT ON (study_id) study_id, triage, reasons, n_images, basis FROM study_findings
        WHERE study_id = ANY(:studies) AND bundle = :bundle ORDER BY study_id, version DESC
    ), signed AS (
        SELECT DISTINCT ON (study_id) study_id, triage, reasons, n_images FROM study_findings
        WHERE study_id = ANY(:studies) AND signed_at IS NOT NULL ORDER BY study_id, signed_at DESC
    ), fresh AS (
        SELECT w.*, coalesce(said.basis, '') AS basis, said.triage AS study_triage,
               CASE WHEN w.triage IS NOT NULL THEN w.probability END AS known_probability,
               EXISTS (SELECT FROM reviews WHERE reviews.study_id = w.study_id AND NOT EXISTS (
                    SELECT FROM review_withdrawals t WHERE t.review_id = reviews.id)) AS was_reviewed,
               (SELECT coalesce(jsonb_agg(DISTINCT told.flag), '[]') FROM (
                    SELECT jsonb_array_elements_text(i.flags) AS flag FROM images i
                    WHERE i.study_id = w.study_id AND (i.batch_id = :batch) IS TRUE
                    UNION ALL SELECT 'not_validated_in_children' FROM images i
                    WHERE i.study_id = w.study_id AND (i.batch_id = :batch) IS TRUE AND i.age_years < :adult
                    UNION ALL SELECT 'study_identity_conflict' FROM studies s
                    WHERE s.id = w.study_id AND s.uid_shared) AS told) AS all_flags,
               :arrived + make_interval(secs => :wait) AS rises_at,
               CASE WHEN said.triage IS NOT NULL THEN 'done' WHEN w.any_failed THEN 'failed'
                    ELSE 'rejected' END AS study_status,
               CASE WHEN (signed.triage, signed.reasons, signed.n_images)
                        <> (said.triage, said.reasons, said.n_images) THEN -2
                    WHEN w.worst_priority = 0 THEN CASE WHEN said.triage = 'positive' THEN -1 ELSE 0 END
                    ELSE array_position(CAST(:triages AS text[]), coalesce(said.triage, 'not_assessable'))
                    END AS class
        FROM worst w LEFT JOIN said USING (study_id) LEFT JOIN signed USING (study_id) WHERE w.place = 1
    )
    INSERT INTO worklist AS old (study_id, site_id, batch_id, image_id, bundle, basis, rank, since,
        arrived_at, day, priority, risen, status, triage, reason, probability, region, n_images, path,
        accession, study_date, reread, flags, age_years)
    SELECT study_id, site_id, :batch, id, :bundle, basis,
           CASE WHEN NOT late THEN class WHEN class = 1 THEN -1 ELSE 0 END,
           CASE WHEN late THEN rises_at ELSE :arrived END, :arrived,
           (:arrived AT TIME ZONE 'UTC')::date, worst_priority, late, study_status, study_triage, reason,
           known_probability, coalesce(region, ''), n_images, path, any_accession, any_date, was_reviewed,
           all_flags, lowest_age
    FROM (SELECT *, class > 0 AND :wait > 0 AND rises_at < clock_timestamp() AS late FROM fresh) AS f
    ORDER BY study_id
    ON CONFLICT (study_id) DO UPDATE SET
        (before_rank, before_since,
         batch_id, image_id, bundle, basis, rank, since, arrived_at, day, priority, risen, status, triage,
         reason, probability, region, n_images, path, accession, study_date, flags, age_years,
         reviewed_at, answer, signed_at, reread)
        = (SELECT CASE WHEN same THEN old.before_rank END, CASE WHEN same THEN old.before_since END,
                  excluded.batch_id, excluded.image_id, excluded.bundle, excluded.basis,
                  CASE WHEN same THEN old.rank ELSE excluded.rank END,
                  CASE WHEN same THEN old.since ELSE excluded.since END,
                  excluded.arrived_at, excluded.day, excluded.priority, excluded.risen, excluded.status,
                  excluded.triage, excluded.reason, excluded.probability, excluded.region,
                  excluded.n_images, excluded.path, excluded.accession, excluded.study_date,
                  excluded.flags, excluded.age_years,
                  CASE WHEN same THEN old.reviewed_at END, CASE WHEN same THEN old.answer END,
                  CASE WHEN same THEN old.signed_at END, NOT same AND excluded.reread
           FROM (SELECT old.reviewed_at IS NOT NULL AND old.basis = excluded.basis
                        AND old.bundle = excluded.bundle AS same) AS s)
    WHERE old.arrived_at <= excluded.arrived_at
    """
)


def refresh(session: Session, batch: Batch, study_ids: Sequence[uuid.UUID]) -> None:
    """Write the rows of these studies as `batch` shows them; in the transaction that changed them.

    A batch of a bundle that the site had not promoted is no clinical work and gives none. A study that was
    reviewed waits again, marked as to be read again, only when its finding stands on something else now.
    Where that contradicts what was signed (`studies.contradicts`) it comes before everything else.
    """
    if not batch.promoted or batch.submitted_at is None:
        return
    parameters = {
        "batch": batch.id,
        "bundle": batch.bundle,
        "priority": batch.priority,
        "arrived": batch.submitted_at,
        "wait": 3600.0 * get_settings().worklist_wait_hours,
        "studies": list(study_ids),
        "adult": ADULT,
        "triages": [triage.value for triage in Triage],
    }
    session.execute(_REFRESH, parameters)
    index_words(session, batch.id, study_ids)


def fill(batch: Batch) -> None:
    """Write the rows of an ended batch that its findings did not bring: what was rejected or has failed."""
    shown = select(WorklistRow.study_id).where(
        WorklistRow.study_id == Image.study_id, WorklistRow.batch_id == batch.id
    )
    query = (
        select(Image.study_id)
        .where(
            Image.batch_id == batch.id,
            Image.study_id.is_not(None),
            (Image.status != ImageStatus.DONE) | ~shown.exists(),
        )
        .distinct()
    )
    with session_scope() as session:
        waiting = sorted(study_id for study_id in session.scalars(query) if study_id is not None)
    for start in range(0, len(waiting), PART):
        with session_scope() as session:
            refresh(session, batch, waiting[start : start + PART])


def escalate_overdue(session: Session, limit: int = 1000) -> int:
    """Escalate studies that waited too long to urgent; return how many."""
    hours = get_settings().worklist_wait_hours
    if hours <= 0:
        return 0
    wait = timedelta(hours=hours)
    late = (
        select(WorklistRow.study_id)
        .where(
            WorklistRow.rank > Rank.URGENT,
            WorklistRow.rank < Rank.REVIEWED,
            # not the clock, which may go on meanwhile: the index would be read to its end
            WorklistRow.arrived_at < func.statement_timestamp() - wait,
        )
        .order_by(WorklistRow.arrived_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    risen = session.execute(
        update(WorklistRow)
        .where(WorklistRow.study_id.in_(late))
        .values(
            rank=case(
                (WorklistRow.rank == int(Rank.POSITIVE), int(Rank.URGENT_POSITIVE)), else_=int(Rank.URGENT)
            ),
            since=WorklistRow.arrived_at + wait,
            risen=True,
        )
        .returning(WorklistRow.study_id)
        .execution_options(synchronize_session=False)
    )
    return len(risen.all())


#: 1 of what is reviewed, 0 of what waits: an index's own words.
_REVIEWED_PART: ColumnElement[int] = literal_column("(worklist.rank / 9)", Integer)


def _conditions(site_id: uuid.UUID, filters: Filters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [WorklistRow.site_id == site_id]
    if filters.rank is not None and filters.sort is not None:
        conditions.append(_REVIEWED_PART.in_([int(filters.rank is Rank.REVIEWED)]))
    if filters.rank is Rank.URGENT:
        conditions.append(WorklistRow.rank.in_(_URGENT))
    elif filters.rank is not None:
        conditions.append(WorklistRow.rank == int(filters.rank))
    elif filters.sort is not None and filters.reviewed is not None:
        conditions.append(_REVIEWED_PART.in_([int(filters.reviewed)]))
    elif filters.reviewed is not None:
        waits = WorklistRow.rank < int(Rank.REVIEWED)
        conditions.append(WorklistRow.rank == int(Rank.REVIEWED) if filters.reviewed else waits)
    for column, value in (
        (WorklistRow.triage, filters.triage),
        (WorklistRow.region, filters.region),
        (WorklistRow.status, filters.status),
        (WorklistRow.batch_id, filters.batch),
        (WorklistRow.bundle, filters.bundle),
    ):
        if value is not None:
            conditions.append(column == value)
    if filters.status is not None and filters.status != ImageStatus.DONE:
        conditions.append(WorklistRow.status != literal_column("'done'"))  # the partial index's own words
    if filters.since is not None:
        begin = begin_of(filters.since, filters.zone)
        conditions.append(WorklistRow.day >= begin.date())
        if begin.time() != time():  # the row itself is looked at on the first day alone
            conditions.append((WorklistRow.day > begin.date()) | (WorklistRow.arrived_at >= begin))
    if filters.until is not None:
        end = end_of(filters.until, filters.zone)
        if end.time() == time():
            conditions.append(WorklistRow.day < end.date())
        else:
            conditions.append(WorklistRow.day <= end.date())
            conditions.append((WorklistRow.day < end.date()) | (WorklistRow.arrived_at < end))
    return conditions


Query = Select[WorklistRow]


def _rows(
    session: Session, site_id: uuid.UUID, query: Query, search: str | None, limit: int
) -> tuple[list[WorklistRow], WorklistRow | None]:
    """Return a page's rows, and the row after which the next page begins."""
    if search:
        wanted = query_of(session, site_id, search)
        if wanted is None:
            return [], None
        found = studies_with(session, wanted)
        if found is None:
            return _walked(session, query, wanted, limit)
        # asked before and by itself: joined to it, the planner would rather read the whole table
        query = query.where(WorklistRow.study_id == any_(literal(found, ARRAY(UUID))))
    rows = list(session.scalars(query.limit(limit + 1)))
    return rows[:limit], rows[limit - 1] if len(rows) > limit else None


def _walked(
    session: Session, query: Query, wanted: str, limit: int
) -> tuple[list[WorklistRow], WorklistRow | None]:
    """Walk the list in its order for words that very many studies hold: soon found, or far behind."""
    part = aliased(WorklistRow, query.limit(MAX_WALKED).subquery())
    rows = list(session.scalars(select(part).where(holds(wanted, part.study_id)).limit(limit + 1)))
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1]
    return rows, session.scalar(query.offset(MAX_WALKED - 1).limit(1))


def _rank(text: str) -> int:
    return int(Rank(int(text)))


_ORDER = Keyset((WorklistRow.rank, WorklistRow.since, WorklistRow.study_id), (_rank, moment, uuid.UUID))
_ORDERS = {
    Sort.NAME: Keyset((WorklistRow.place_name, WorklistRow.study_id), (words, uuid.UUID)),
    Sort.PROBABILITY: Keyset((WorklistRow.place_share, WorklistRow.study_id), (share, uuid.UUID)),
    Sort.REGION: Keyset(
        (WorklistRow.region, WorklistRow.rank, WorklistRow.since, WorklistRow.study_id),
        (words, _rank, moment, uuid.UUID),
    ),
    Sort.ARRIVED: Keyset((WorklistRow.arrived_at, WorklistRow.study_id), (moment, uuid.UUID)),
    Sort.READER: Keyset((WorklistRow.place_touched, WorklistRow.study_id), (moment, uuid.UUID)),
}


def _order(filters: Filters) -> Keyset:
    """Return the list's order; of the reviewed the newest first."""
    if filters.sort is not None:
        return replace(_ORDERS[filters.sort], descending=filters.descending)
    newest_first = filters.reviewed is True or filters.rank is Rank.REVIEWED
    return replace(_ORDER, descending=newest_first is not filters.descending)


def _page_of(
    session: Session, site_id: uuid.UUID, filters: Filters, order: Keyset, cursor: str | None, limit: int
) -> tuple[list[WorklistRow], WorklistRow | None]:
    query = order.after(select(WorklistRow).where(*_conditions(site_id, filters)), cursor)
    return _rows(session, site_id, query, filters.search, limit)


def _of_both(
    session: Session, site_id: uuid.UUID, filters: Filters, order: Keyset, cursor: str | None, limit: int
) -> tuple[list[WorklistRow], WorklistRow | None]:
    """Merge what waits with what is reviewed: an index sorts each of them, and no index both."""

    def place(row: WorklistRow) -> tuple[Any, ...]:
        return tuple(getattr(row, column.key) for column in order.columns)

    parts = [
        _page_of(session, site_id, replace(filters, reviewed=reviewed), order, cursor, limit)
        for reviewed in (False, True)
    ]
    found = sorted((row for rows, _ in parts for row in rows), key=place, reverse=order.descending)
    ends = sorted((last for _, last in parts if last), key=place, reverse=order.descending)
    if ends:  # behind the first end the other part may have more
        known = place(ends[0])
        found = [row for row in found if (place(row) >= known if order.descending else place(row) <= known)]
    if len(found) > limit:
        return found[:limit], found[limit - 1]
    return found, ends[0] if ends else None


def list_studies(
    session: Session, site_id: uuid.UUID, filters: Filters, *, cursor: str | None = None, limit: int = 50
) -> Page[Item]:
    """Return a page of the list in its order; of the reviewed the newest first. Raises `InvalidCursor`.

    A page of a search for words that very many studies hold may be short, and yet have a next one.
    """
    order = _order(filters)
    both = filters.sort is not None and filters.reviewed is None and filters.rank is None
    rows, last = (_of_both if both else _page_of)(session, site_id, filters, order, cursor, limit)
    labels: dict[uuid.UUID, str] = {}
    openers: dict[uuid.UUID, str] = {}
    if rows:
        named = select(Batch.id, Batch.label).where(Batch.id.in_({row.batch_id for row in rows}))
        labels = {id_: label for id_, label in session.execute(named)}
        people = select(User.id, User.email).where(User.id.in_({row.opened_by for row in rows}))
        openers = {id_: email for id_, email in session.execute(people)}
    items = [
        Item(row, labels.get(row.batch_id, ""), openers.get(row.opened_by) if row.opened_by else None)
        for row in rows
    ]
    return Page(items, order.cursor_of(last) if last else None)


def next_after(
    session: Session, site_id: uuid.UUID, filters: Filters, study_id: uuid.UUID
) -> uuid.UUID | None:
    """Return the study that follows this one in the list, or the first one when it is not in the list."""
    row = session.get(WorklistRow, study_id)
    if row is not None and row.site_id == site_id:
        page = list_studies(session, site_id, filters, cursor=_order(filters).cursor_of(row), limit=1)
        if page.items:
            return page.items[0].row.study_id
    first = list_studies(session, site_id, filters, limit=2).items
    return next((item.row.study_id for item in first if item.row.study_id != study_id), None)


def counts(session: Session, site_id: uuid.UUID) -> dict[Rank, int]:
    """Return how many studies each class holds, counted up to `MAX_COUNTED` + 1."""
    parts = [
        select(literal(int(rank)), func.count()).select_from(
            select(WorklistRow.study_id)
            .where(WorklistRow.site_id == site_id, WorklistRow.rank == int(rank))
            .limit(MAX_COUNTED + 1)
            .subquery()
        )
        for rank in Rank
    ]
    found = {Rank(rank): int(n) for rank, n in session.execute(union_all(*parts))}
    found[Rank.URGENT] += found.pop(Rank.URGENT_POSITIVE)
    return found


def choices(session: Session, site_id: uuid.UUID) -> list[tuple[uuid.UUID, str]]:
    """Return the newest batches that the list may be narrowed to: id and label."""
    query = (
        select(Batch.id, Batch.label)
        .where(Batch.site_id == site_id, Batch.promoted, Batch.submitted_at.is_not(None))
        .order_by(Batch.created_at.desc(), Batch.id.desc())
        .limit(100)
    )
    return [(id_, label) for id_, label in session.execute(query)]


def record_opened(session: Session, site_id: uuid.UUID, study_id: uuid.UUID, user_id: uuid.UUID) -> None:
    """Record who opened a study last."""
    session.execute(
        update(WorklistRow)
        .where(WorklistRow.study_id == study_id, WorklistRow.site_id == site_id)
        .values(opened_by=user_id, opened_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


def set_aside(
    session: Session, site_id: uuid.UUID, study_ids: Sequence[uuid.UUID], mark: Mark
) -> list[uuid.UUID]:
    """Take studies that wait off the list without an answer; return those that waited."""
    now = func.clock_timestamp()
    left = session.execute(
        update(WorklistRow)
        .where(
            WorklistRow.site_id == site_id,
            WorklistRow.study_id.in_(study_ids),
            WorklistRow.rank < int(Rank.REVIEWED),
        )
        .values(
            before_rank=WorklistRow.rank,
            before_since=WorklistRow.since,
            rank=int(Rank.REVIEWED),
            since=now,
            reviewed_at=now,
            answer=mark.value,
        )
        .returning(WorklistRow.study_id)
        .execution_options(synchronize_session=False)
    )
    return list(left.scalars())


#: What lets a study that was answered or set aside wait again where it stood.
WAITS_AGAIN: dict[InstrumentedAttribute[Any], Any] = {
    WorklistRow.rank: WorklistRow.before_rank,
    WorklistRow.since: WorklistRow.before_since,
    WorklistRow.before_rank: None,
    WorklistRow.before_since: None,
    WorklistRow.reviewed_at: None,
    WorklistRow.answer: None,
}


def put_back(session: Session, site_id: uuid.UUID, study_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Put studies that were set aside back where they stood; return them."""
    back = session.execute(
        update(WorklistRow)
        .where(
            WorklistRow.site_id == site_id,
            WorklistRow.study_id.in_(study_ids),
            WorklistRow.rank == int(Rank.REVIEWED),
            WorklistRow.answer.in_([mark.value for mark in Mark]),
            WorklistRow.before_rank.is_not(None),
        )
        .values(WAITS_AGAIN)
        .returning(WorklistRow.study_id)
        .execution_options(synchronize_session=False)
    )
    return list(back.scalars())


# what was done last, for the page that offers to undo it


def record_action(session: Session, identity: Identity, done: dict[str, Any] | None) -> None:
    """Record a person's last action in this session, to be shown once with its undo."""
    session.execute(
        update(UserSession)
        .where(UserSession.user_id == identity.user_id, UserSession.csrf_token == identity.csrf_token)
        .values(last_done=done if done is not None else null())
        .execution_options(synchronize_session=False)
    )


def pop_action(session: Session, identity: Identity) -> dict[str, Any] | None:
    """Return and clear a person's last action in this session."""
    mine = select(UserSession.last_done).where(
        UserSession.user_id == identity.user_id, UserSession.csrf_token == identity.csrf_token
    )
    done = session.scalar(mine)
    if done is not None:
        record_action(session, identity, None)
    return done


# views that a person keeps

MAX_VIEWS = 30


def views(session: Session, user_id: uuid.UUID) -> list[WorklistView]:
    """Return a person's views by name."""
    mine = select(WorklistView).where(WorklistView.user_id == user_id)
    return list(session.scalars(mine.order_by(func.lower(WorklistView.name)).limit(MAX_VIEWS)))


def keep_view(session: Session, user_id: uuid.UUID, name: str, query: str) -> WorklistView:
    """Keep a view under a name; one of that name is replaced. Raises `TooManyViews`."""
    # one after the other: two at once do not both find the last place free
    session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))
    known = session.scalar(
        select(WorklistView).where(WorklistView.user_id == user_id, WorklistView.name == name)
    )
    if known is not None:
        known.query = query
        return known
    if len(views(session, user_id)) >= MAX_VIEWS:
        raise TooManyViews
    view = WorklistView(user_id=user_id, name=name, query=query)
    session.add(view)
    session.flush()
    return view


def forget_view(session: Session, user_id: uuid.UUID, view_id: uuid.UUID) -> None:
    """Delete one of a person's views. Raises `NotFound`."""
    mine = session.scalar(
        select(WorklistView).where(WorklistView.id == view_id, WorklistView.user_id == user_id)
    )
    if mine is None:
        raise NotFound
    session.delete(mine)


def delete_views_naming(session: Session, site_id: uuid.UUID, words: Collection[str]) -> int:
    """Delete views of a site's people whose name or search holds one of these words; return how many."""
    wanted = {word.casefold() for word in words if word}
    of_site = select(WorklistView).join(User, User.id == WorklistView.user_id).where(User.site_id == site_id)
    n = 0
    for view in session.scalars(of_site):
        said = " ".join((view.name, *parse_qs(view.query).get("q", ()))).casefold()
        if any(word in said for word in wanted):
            session.delete(view)
            n += 1
    return n
