"""The worklist: who stands where, what narrows it, and that no page of it reads the whole table."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, event, select, text, update

from store.base.errors import InvalidCursor
from store.base.session import get_engine, session_scope
from store.base.tables import Batch, Bundle, Image, Priority, Site, StudyFinding
from store.bundles import promotions
from store.intake import batches
from store.intake.batches import NewFile
from store.reading import worklist, worklist_search
from store.reading.worklist import Filters, Rank, Sort
from store.reading.worklist_tables import WorklistRow
from tests.db.conftest import make_site
from tests.reading import read_batch

#: First byte of the hash that gives the triage; see `tests.reading`.
POSITIVE, DOUBT, NEGATIVE = "f0", "80", "05"


def read(
    site: uuid.UUID,
    files: dict[str, str],
    *,
    priority: Priority = Priority.NORMAL,
    label: str = "",
    bundle: str | None = None,
    facts: dict[str, dict[str, str]] | None = None,
    **how: frozenset[str],
) -> Batch:
    """Read a batch; `files` maps a path to the first byte of its hash."""
    with session_scope() as session:
        batch, _ = batches.create_batch(
            session, site_id=site, user_id=None, priority=priority, label=label, bundle=bundle
        )
        new = [
            NewFile(path, byte + uuid.uuid4().hex + "0" * 30, 10, f"incoming/{path}")
            for path, byte in files.items()
        ]
        batches.add_files(session, batch.id, site, new)
        batch = batches.submit(session, batch.id, site)
    read_batch(batch.id, facts=lambda path: (facts or {}).get(path, {}), **how)
    return batch


def paths(site: uuid.UUID, wish: Filters = Filters(), limit: int = 50) -> list[str]:  # noqa: B008
    """Walk the whole list, a page at a time."""
    found: list[str] = []
    cursor = None
    while True:
        with session_scope() as session:
            page = worklist.list_studies(session, site, wish, cursor=cursor, limit=limit)
        found += [item.row.path for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_urgent_then_positive_then_doubt_then_not_read_then_negative(site: uuid.UUID, blobs: object) -> None:
    first = read(
        site,
        {"neg.png": NEGATIVE, "pos.png": POSITIVE, "bad.png": DOUBT, "doubt.png": DOUBT, "lost.png": DOUBT},
        reject=frozenset({"bad.png"}),
        fail=frozenset({"lost.png"}),
        label="Night",
    )
    read(site, {"pos2.png": POSITIVE})
    read(site, {"urgent.png": NEGATIVE}, priority=Priority.URGENT)
    read(make_site("B"), {"theirs.png": POSITIVE})
    order = paths(site)
    assert order[:4] == ["urgent.png", "pos.png", "pos2.png", "doubt.png"]
    assert set(order[4:6]) == {"bad.png", "lost.png"}  # both wait since the same moment
    assert order[6:] == ["neg.png"]
    assert paths(site, limit=1) == order
    assert paths(site, Filters(triage="positive")) == ["pos.png", "pos2.png"]
    assert paths(site, Filters(status="failed")) == ["lost.png"]
    assert paths(site, Filters(batch=first.id, region="hand", triage="doubt")) == ["doubt.png"]
    assert paths(site, Filters(bundle="other")) == []
    today = datetime.now(UTC).date()
    assert len(paths(site, Filters(since=today - timedelta(1), until=today + timedelta(1)))) == 7
    assert paths(site, Filters(until=today - timedelta(2))) == []
    with session_scope() as session:
        assert worklist.counts(session, site) == {
            Rank.AMENDED: 0, Rank.URGENT: 1, Rank.POSITIVE: 2, Rank.DOUBT: 1, Rank.NOT_READ: 2,
            Rank.NEGATIVE: 1, Rank.REVIEWED: 0,
        }  # fmt: skip
        assert ("Night", first.id) in [(label, id_) for id_, label in worklist.choices(session, site)]
        item = worklist.list_studies(session, site, Filters(status="rejected")).items[0]
        assert (item.label, item.row.reason, item.row.triage) == ("Night", "truncated", None)


def test_within_the_urgent_the_positive_come_first(site: uuid.UUID, blobs: object) -> None:
    read(site, {"first.png": NEGATIVE, "doubt.png": DOUBT}, priority=Priority.URGENT)
    read(site, {"late.png": POSITIVE}, priority=Priority.URGENT)
    read(site, {"pos.png": POSITIVE})
    order = paths(site)
    assert order[0] == "late.png"
    assert set(order[1:3]) == {"first.png", "doubt.png"}
    assert order[3] == "pos.png"
    assert paths(site, limit=1) == order
    assert paths(site, Filters(rank=Rank.URGENT), limit=1) == order[:3]
    with session_scope() as session:
        assert worklist.counts(session, site)[Rank.URGENT] == 3
        session.execute(update(WorklistRow).values(arrived_at=WorklistRow.arrived_at - timedelta(hours=49)))
        worklist.escalate_overdue(session)
    assert set(paths(site)[:2]) == {"late.png", "pos.png"}  # whoever waited too long, too


def test_a_number_is_found_without_the_zeros_at_its_beginning(site: uuid.UUID, blobs: object) -> None:
    read(site, {"a.png": POSITIVE}, facts={"a.png": {"study_uid": "1.2.3", "accession": "0001238"}})
    for search in ("1238", "123", "0001238", "000"):
        assert paths(site, Filters(search=search)) == ["a.png"], search
    assert paths(site, Filters(search="238")) == []


def test_a_study_is_one_row_with_its_worst_image(site: uuid.UUID, blobs: object) -> None:
    study = {"study_uid": "1.2.3", "accession": "ACC-77"}
    read(site, {"a.dcm": NEGATIVE, "b.dcm": POSITIVE}, facts={"a.dcm": study, "b.dcm": study})
    assert paths(site) == ["b.dcm"]
    for search in ("a.dcm", "B.D", "acc-7", "1.2.3"):
        assert paths(site, Filters(search=search)) == ["b.dcm"]
    assert paths(site, Filters(search="cc-77")) == []
    # sent again: the newest batch is shown, once
    read(site, {"again.dcm": NEGATIVE}, facts={"again.dcm": study})
    assert paths(site) == ["again.dcm"]
    assert paths(make_site("B"), Filters(search="acc")) == []


def test_what_was_signed_and_no_longer_holds_comes_first(site: uuid.UUID, blobs: object) -> None:
    study = {"study_uid": "1.2.3"}
    other = {"study_uid": "4.5.6"}
    read(site, {"a.dcm": NEGATIVE, "o.dcm": NEGATIVE}, facts={"a.dcm": study, "o.dcm": other})
    with session_scope() as session:
        session.execute(update(StudyFinding).values(signed_at=datetime.now(UTC), signed_by="Ana"))
        session.execute(update(WorklistRow).values(rank=int(Rank.REVIEWED), reviewed_at=datetime.now(UTC)))
    read(site, {"urgent.png": POSITIVE}, priority=Priority.URGENT)
    read(site, {"b.dcm": NEGATIVE}, facts={"b.dcm": study})
    assert paths(site, limit=1) == ["b.dcm", "urgent.png"]
    assert paths(site, Filters(rank=Rank.AMENDED)) == ["b.dcm"]
    with session_scope() as session:  # another bundle reads the other one, and says the same
        session.add(Bundle(name="b2", sha256="2" * 64, manifest={}, files={}))
        session.flush()
        promotions.promote(session, site, None, "b2")
    read(site, {"o.dcm": NEGATIVE}, facts={"o.dcm": other})
    assert paths(site) == ["b.dcm", "urgent.png", "o.dcm"]
    read(site, {"o2.dcm": POSITIVE}, facts={"o2.dcm": other}, priority=Priority.URGENT)
    assert paths(site) == ["b.dcm", "o2.dcm", "urgent.png"]
    with session_scope() as session:
        assert worklist.counts(session, site)[Rank.AMENDED] == 2


def test_a_study_is_found_by_every_word_of_what_it_is_called(site: uuid.UUID, blobs: object) -> None:
    names = ["wards/2024/IMG_0042.png", "Müller, Ö/IMG_0043.png", "o'brien/2024.05/x-ray(1).png"]
    study = {"study_uid": "1.2.840.113619.2", "accession": "ACC-77"}
    read(site, dict.fromkeys(names, POSITIVE), facts={names[0]: study})
    for search, found in {
        "img_0042": [0], "0042": [0], "IMG": [0, 1], "wards/2024/IMG_0042.png": [0], "2024 img": [0],
        "png": [0, 1, 2], "acc 2024 img": [0], "77": [0], "1.2.840.11": [0], "113619": [0], "2.840": [],
        "MÜLLER": [1], "mu\u0308ller ö": [1], "0043 0042": [], "mg_0042": [],
        "o'brien": [2], "x-ray(1)": [2], "2024.05": [2], "05": [2], "2024": [0, 2], "'x' & !y | z:*": [],
        "png' | 'img": [0, 1], "%": [], " .,;: ": [], "\\": [], "x" * 200: [], "png " * 50: [0, 1, 2],
    }.items():  # fmt: skip
        assert sorted(paths(site, Filters(search=search))) == sorted(names[n] for n in found), search
    assert paths(make_site("B"), Filters(search="png")) == []


def test_a_word_that_very_many_studies_hold_is_found_page_by_page(
    site: uuid.UUID, blobs: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(site, {f"common/{n:02d}.png": POSITIVE for n in range(12)})
    read(site, {f"rare/{n}.png": NEGATIVE for n in range(6)})
    read(make_site("B"), {"common/theirs.png": POSITIVE})
    exact = {search: paths(site, Filters(search=search)) for search in ("png", "common", "rare", "rare 5")}
    monkeypatch.setattr(worklist_search, "MAX_LOOKED_UP", 3)
    monkeypatch.setattr(worklist, "MAX_WALKED", 5)
    for search, found in exact.items():
        assert paths(site, Filters(search=search), limit=2) == found, search
        assert paths(site, Filters(search=search)) == found, search
    assert [len(found) for found in exact.values()] == [18, 12, 6, 1]
    with session_scope() as session:
        page = worklist.list_studies(session, site, Filters(search="rare"))
        assert (page.items, page.next_cursor is None) == ([], False)
    assert paths(site, Filters(search="rare", triage="positive")) == []


def test_the_words_of_every_batch_that_showed_a_study_are_kept(site: uuid.UUID, blobs: object) -> None:
    study = {"study_uid": "1.2.3"}
    for name in ("first/a.dcm", "second/b.dcm"):
        read(site, {name: NEGATIVE}, facts={name: study})
    for search in ("first", "second", "a dcm b", "1.2.3"):
        assert paths(site, Filters(search=search)) == ["second/b.dcm"]


def test_a_bundle_that_is_not_the_sites_own_gives_no_work(site: uuid.UUID, blobs: object) -> None:
    with session_scope() as session:
        session.add(Bundle(name="trial", sha256="1" * 64, manifest={"name": "trial"}, files={}))
    read(site, {"trial.png": POSITIVE}, bundle="trial")
    assert paths(site) == []
    with session_scope() as session:
        session.get_one(Site, site).default_bundle = "trial"
    read(site, {"ours.png": POSITIVE}, bundle="trial")
    assert paths(site) == ["ours.png"]


def test_who_waited_too_long_counts_as_urgent_from_then_on(site: uuid.UUID, blobs: object) -> None:
    read(site, {"old.png": NEGATIVE})
    with session_scope() as session:
        assert worklist.escalate_overdue(session) == 0
        session.execute(update(WorklistRow).values(arrived_at=WorklistRow.arrived_at - timedelta(hours=49)))
        assert worklist.escalate_overdue(session) == 1
        assert worklist.escalate_overdue(session) == 0
    read(site, {"urgent.png": NEGATIVE}, priority=Priority.URGENT)
    read(site, {"pos.png": POSITIVE})
    assert paths(site) == ["old.png", "urgent.png", "pos.png"]
    with session_scope() as session:
        rows = session.scalars(select(WorklistRow)).all()
        assert {row.path for row in rows if row.risen} == {"old.png"}


def test_a_retry_that_succeeds_moves_the_study(site: uuid.UUID, blobs: object) -> None:
    batch = read(site, {"a.png": POSITIVE}, fail=frozenset({"a.png"}))
    assert paths(site, Filters(rank=Rank.NOT_READ)) == ["a.png"]
    with session_scope() as session:
        batches.retry(session, batch.id, site)
    read_batch(batch.id)
    assert paths(site, Filters(rank=Rank.POSITIVE)) == ["a.png"]
    assert paths(site, Filters(rank=Rank.NOT_READ)) == []


def test_the_next_study_and_who_opened_it(site: uuid.UUID, blobs: object) -> None:
    read(site, {"a.png": POSITIVE, "b.png": DOUBT, "c.png": NEGATIVE})
    with session_scope() as session:
        ids = [item.row.study_id for item in worklist.list_studies(session, site, Filters()).items]
        wish = Filters()
        assert worklist.next_after(session, site, wish, ids[0]) == ids[1]
        assert worklist.next_after(session, site, wish, ids[2]) == ids[0]  # and from the start again
        assert worklist.next_after(session, site, Filters(triage="positive"), ids[0]) is None
        with pytest.raises(InvalidCursor):
            worklist.list_studies(session, site, wish, cursor="nonsense")


@pytest.fixture
def statements(database: Engine) -> Iterator[list[tuple[str, object]]]:
    """What is asked of the worklist's tables, with its parameters."""
    seen: list[tuple[str, object]] = []

    def listen(_: object, __: object, statement: str, parameters: object, *more: object) -> None:
        if statement.startswith(("SELECT worklist", "SELECT anon", "SET LOCAL")):
            seen.append((statement, parameters))

    application = get_engine()  # not the owner's, which makes the tables
    event.listen(application, "before_cursor_execute", listen)
    yield seen
    event.remove(application, "before_cursor_execute", listen)


FILL = text(
    """
    WITH made AS (INSERT INTO studies (id, site_id, key)
        SELECT gen_random_uuid(), :site, 'bench:' || n FROM generate_series(1, 6000) n RETURNING id, key)
    INSERT INTO worklist (study_id, site_id, batch_id, image_id, bundle, rank, since, arrived_at, day,
        priority, status, triage, region, n_images, path)
    SELECT id, :site, :batch, id, 'b1', n % 5, now() - n * interval '1 minute', now(),
        current_date - (n % 90)::int, 1, CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'done' END,
        (ARRAY['positive', 'doubt', 'not_assessable', 'negative'])[1 + n % 4],
        (ARRAY['hand', 'leg'])[1 + n % 2], 1, n || '.png'
    FROM (SELECT id, substr(key, 7)::int AS n FROM made) AS made
    """
)


def test_every_combination_of_filters_is_read_from_an_index(
    database: Engine, statements: list[tuple[str, object]], blobs: object
) -> None:
    for name in ("A", "B", "C"):
        site = make_site(name)
        batch = read(site, {f"{name}.png": POSITIVE})
        with session_scope() as session:
            session.execute(FILL, {"site": site, "batch": batch.id})
            session.execute(
                text(
                    "INSERT INTO worklist_words SELECT study_id,"
                    " array_to_tsvector(ARRAY[left(site_id::text, 8) || left(path, -4),"
                    " left(site_id::text, 8) || 'png']) FROM worklist ON CONFLICT DO NOTHING"
                )
            )
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        rows = connection.execute(
            text("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > 500")
        )
        large = set(rows.scalars())
    assert {"worklist", "worklist_words"} <= large
    day = date.today() - timedelta(3)
    offered: dict[str, list[object]] = {
        "rank": [None, Rank.POSITIVE],
        "triage": [None, "doubt"],
        "region": [None, "hand"],
        "status": [None, "failed"],
        "batch": [None, batch.id],
        "bundle": [None, "b1"],
        "since": [None, day],
        "search": [None, "17", "png"],
        "sort": [None, *Sort],
    }
    with session_scope() as session:
        first = {
            sort: worklist.list_studies(session, site, Filters(sort=sort), limit=2).next_cursor
            for sort in offered["sort"]
        }
        for values in itertools.product(*offered.values()):
            if sum(value is not None for value in values) > 3:
                continue
            chosen = dict(zip(offered, values, strict=True))
            for reviewed, cursor in ((False, first[chosen["sort"]]), (None, None), (True, None)):
                wish = Filters(**chosen, reviewed=reviewed)
                worklist.list_studies(session, site, wish, cursor=cursor, limit=2)
    assert len(statements) > 250
    with database.connect() as connection:
        for statement, parameters in tuple(statements):
            if statement.startswith("SET LOCAL"):  # what the planner is told for one statement
                connection.exec_driver_sql(statement)
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            whole = {line.split("Seq Scan on ")[1].split()[0] for line in plan if "Seq Scan on " in line}
            assert not whole & large, "\n".join(plan)


COPY = text(
    """
    WITH made AS (INSERT INTO studies (id, site_id, key)
        SELECT gen_random_uuid(), :site, 'copy:' || gen_random_uuid() FROM generate_series(1, :n)
        RETURNING id)
    INSERT INTO images (id, site_id, batch_id, study_id, finding_id, path, sha256, size, status, stage,
        triage)
    SELECT gen_random_uuid(), :site, i.batch_id, made.id, i.finding_id, made.id || '.png', i.sha256, 10,
        i.status, i.stage, i.triage FROM images i CROSS JOIN made WHERE i.batch_id = :batch
    """
)


def test_a_batch_that_the_planner_does_not_know_yet_is_not_read_once_for_each_study(
    site: uuid.UUID, database: Engine, blobs: object
) -> None:
    """Statistics are older than a batch that has just come: it seems to hold one image."""
    known, fresh = (read(site, {"a.png": POSITIVE}) for _ in range(2))
    with session_scope() as session:
        session.execute(COPY, {"site": site, "batch": known.id, "n": 6000})
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    with session_scope() as session:
        session.execute(COPY, {"site": site, "batch": fresh.id, "n": 600})
        asked = list(session.scalars(select(Image.study_id).where(Image.batch_id == fresh.id).limit(500)))
        connection = session.connection()
        written: list[tuple[str, object]] = []

        def listen(_: object, __: object, statement: str, parameters: object, *more: object) -> None:
            if "INSERT INTO worklist" in statement:
                written.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", listen)
        worklist.refresh(session, session.get_one(Batch, fresh.id), [id_ for id_ in asked if id_])
        event.remove(connection, "before_cursor_execute", listen)
        assert len(written) == 2
        for statement, parameters in written:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            read_from = [line for line in plan if "images_batch" in line or "Seq Scan on images" in line]
            assert not read_from, "\n".join(plan)


def test_images_of_several_studies_and_a_cancelled_rest(site: uuid.UUID, blobs: object) -> None:
    batch = read(site, {"a.png": POSITIVE, "b.png": POSITIVE})
    with session_scope() as session:
        session.execute(update(WorklistRow).values(path="stale"))
        image = session.scalars(select(Image).where(Image.path == "b.png")).one()
        image.status, image.finding_id = "cancelled", None
        session.flush()
        worklist.refresh(session, session.get_one(Batch, batch.id), [image.study_id])
        assert {row.path for row in session.scalars(select(WorklistRow))} == {"stale"}
