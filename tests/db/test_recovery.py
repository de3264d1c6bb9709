"""Recovery goes on whatever broke: its lock, its steps; and what a database's error counts as."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import Engine, func, select, text, update

from cli.prepare import migrate_database
from settings import get_settings
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.session import get_engine, own_connection, session_scope
from store.base.tables import Maintenance, Work, WorkKind, WorkState
from store.operations import fsck, monitoring
from store.queue import work
from store.queue.work import Lease
from vocabulary.reasons import Reason
from worker import flow, reconcile

PATIENCE = 60.0


def wait_for(ask: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ask():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.05)


@contextmanager
def reconciling() -> Iterator[None]:
    """Run `reconcile` in a thread of its own."""
    ended = threading.Event()
    thread = threading.Thread(target=reconcile.loop, args=(ended.wait,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def quick(settings_env: pytest.MonkeyPatch, database: Engine) -> Iterator[pytest.MonkeyPatch]:
    """Locks and statements are waited for only shortly."""
    settings_env.setenv("FRACTUREAI_RECONCILE_SECONDS", "0.05")
    settings_env.setenv("FRACTUREAI_DATABASE_LOCK_SECONDS", "0.3")
    settings_env.setenv("FRACTUREAI_DATABASE_STATEMENT_SECONDS", "0.6")
    get_settings.cache_clear()
    _forget_engine()
    yield settings_env
    _forget_engine()


def _forget_engine() -> None:
    from store.base import session

    if session._engine is not None:
        session._engine.dispose()
    session._engine = None


def went_through(after: float = 0.0) -> bool:
    """Whether recovery went through within the last half second before now, or so many seconds after."""
    with session_scope() as session:
        row = session.get(Maintenance, monitoring.Step.RECOVER)
        return row is not None and row.succeeded_at is not None and row.error is None


def failed() -> bool:
    with session_scope() as session:
        row = session.get(Maintenance, monitoring.Step.RECOVER)
        return row is not None and row.error is not None


@pytest.mark.usefixtures("quick", "broker")
def test_recovery_goes_on_after_a_table_was_locked_for_longer_than_it_waits(site: uuid.UUID) -> None:
    """Its own advisory lock must not be left on a connection that goes back to the pool."""
    with session_scope() as session:
        unit = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4()).id
        session.execute(
            update(Work).values(state="running", lease_token=uuid.uuid4(), lease_until=func.now())
        )
    with own_connection(autocommit=False) as locker:
        locker.execute(text("LOCK TABLE work IN ACCESS EXCLUSIVE MODE"))
        with reconciling():
            wait_for(failed, "recovery that met the lock")
            locker.rollback()
            wait_for(went_through, "recovery that goes on")
    with session_scope() as session:
        assert session.get_one(Work, unit).attempt == 1


@pytest.mark.usefixtures("broker")
def test_recovery_goes_on_when_the_blob_store_was_away_at_the_start(
    site: uuid.UUID, quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir(exist_ok=True)
    quick.setenv("FRACTUREAI_BLOB_URL", "s3://none?endpoint=http://127.0.0.1:9")
    quick.setenv("FRACTUREAI_BLOB_TIMEOUT_SECONDS", "0.2")
    quick.setenv("AWS_ACCESS_KEY_ID", "x")
    quick.setenv("AWS_SECRET_ACCESS_KEY", "x")
    get_settings.cache_clear()
    with reconciling():

        def scratch_failed() -> bool:
            with session_scope() as session:
                row = session.get(Maintenance, "scratch")
                return row is not None and row.error is not None

        wait_for(scratch_failed, "the step that needs the store")
        with session_scope() as session:
            unit = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4()).id

        def sent() -> bool:
            with session_scope() as session:
                return session.get_one(Work, unit).state == WorkState.PUBLISHED

        wait_for(sent, "work that is sent all the same")
    with session_scope() as session:
        assert session.get_one(Maintenance, "old rows").succeeded_at is not None, "no step holds up another"


@pytest.mark.usefixtures("quick", "broker")
def test_every_step_is_noted_and_none_fails() -> None:
    """What health looks for is what the loop does."""
    with reconciling():

        def all_noted() -> bool:
            with session_scope() as session:
                done = select(func.count()).where(Maintenance.succeeded_at.is_not(None))
                return session.scalar(done) == len(monitoring.Step)

        wait_for(all_noted, "a whole round")
        with session_scope() as session:
            assert monitoring.step_problems(session) == {}


@pytest.mark.usefixtures("quick", "broker")
def test_two_reconciles_at_once_and_one_is_active(site: uuid.UUID) -> None:
    with reconciling(), reconciling():
        wait_for(went_through, "the active one")
        with session_scope() as session:
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted"
            assert session.scalar(text(held), {"key": AdvisoryLock.RECONCILE.value}) == 1


def leaves_nothing_in_the_pool() -> None:
    """Look at every connection that lies in the pool: no lock, no setting, no table of its own."""
    engine = get_engine()
    fresh = _settings_of(engine)
    for connection in [engine.connect() for _ in range(engine.pool.checkedin())]:
        with connection:
            assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
            assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")) == 0
            assert _shown(connection) == fresh
            assert connection.scalar(text("SELECT count(*) FROM pg_listening_channels()")) == 0


def _shown(connection: object) -> list[object]:
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem")
    names = (*limits, "search_path", "enable_seqscan", "default_transaction_isolation", "TimeZone")
    return [connection.scalar(text(f"SHOW {name}")) for name in names]  # type: ignore[attr-defined]


def _settings_of(engine: Engine) -> list[object]:
    connection = engine.connect()
    connection.detach()
    with connection:
        return _shown(connection)


@pytest.mark.usefixtures("broker")
def test_what_needs_a_session_of_its_own_leaves_nothing_in_the_pool(site: uuid.UUID, quick: object) -> None:
    with reconciling():
        wait_for(went_through, "a round")
    fsck.check()
    migrate_database()
    leaves_nothing_in_the_pool()


def test_a_migration_waits_for_another_one_for_longer_than_a_lock_timeout(
    quick: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick.setenv("FRACTUREAI_DATABASE_LOCK_SECONDS", "0.2")
    quick.setenv("FRACTUREAI_DATABASE_STATEMENT_SECONDS", "0.3")
    get_settings.cache_clear()
    ended: list[BaseException | None] = []

    def migrate() -> None:
        try:
            migrate_database()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    with own_connection(autocommit=False) as other:
        wait_for_lock(other, AdvisoryLock.MIGRATIONS)
        thread = threading.Thread(target=migrate)
        thread.start()
        with own_connection() as watcher:
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait_for(lambda: watcher.scalar(text(waits)), "the second to wait")
        time.sleep(0.6)
        assert not ended
        other.rollback()
        thread.join()
    assert ended == [None]


def run_until_it_ends(unit: uuid.UUID, execute: Callable[[Lease], bool]) -> Work:
    for _ in range(10):
        with session_scope() as session:
            session.execute(update(Work).where(Work.state == "due").values(due_at=func.now()))
        flow.run(unit, None, execute)
        with session_scope() as session:
            row = session.get_one(Work, unit)
        if row.state == WorkState.FAILED:
            break
    return row


def sleeps_too_long() -> None:
    with session_scope() as session:
        session.execute(text("SELECT pg_sleep(5)"))


def waits_for_a_lock() -> None:
    with own_connection(autocommit=False, as_owner=True) as locker, session_scope() as session:
        locker.execute(text("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE"))
        session.execute(text("SELECT count(*) FROM audit"))


def is_cancelled() -> None:
    with session_scope() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        killer = threading.Timer(0.1, _on_server, [f"SELECT pg_cancel_backend({pid})"])
        killer.start()
        session.execute(text("SELECT pg_sleep(0.5)"))


def is_in_a_deadlock() -> None:
    keys = "SELECT pg_advisory_xact_lock(:key)"
    with own_connection(autocommit=False, as_owner=True) as other, session_scope() as session:
        with own_connection(as_owner=True) as owner:
            owner.execute(text("GRANT SET ON PARAMETER deadlock_timeout TO fractureai_app"))
        session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
        session.execute(text("SET LOCAL lock_timeout = 0"))
        other.execute(text("SET lock_timeout = 0"))
        other.execute(text("SET statement_timeout = 0"))
        other.execute(text("SET deadlock_timeout = '10s'"))
        session.execute(text(keys), {"key": 1})
        other.execute(text(keys), {"key": 2})
        waiting = threading.Thread(target=lambda: _quietly(lambda: other.execute(text(keys), {"key": 1})))
        waiting.start()
        try:
            session.execute(text("SELECT pg_sleep(0.2)"))
            session.execute(text(keys), {"key": 2})
        finally:
            session.rollback()
            waiting.join()


def _quietly(do: Callable[[], object]) -> None:
    try:
        do()
    except Exception:
        return


def _on_server(statement: str) -> None:
    with own_connection() as connection:
        connection.execute(text(statement))


@pytest.mark.usefixtures("quick", "broker")
@pytest.mark.parametrize(
    ("breaks", "state"),
    [
        (sleeps_too_long, "57014"),
        (waits_for_a_lock, "55P03"),
        (is_cancelled, "57014"),
        (is_in_a_deadlock, "40P01"),
    ],
)
def test_a_query_that_is_broken_off_each_time_counts_and_ends(
    site: uuid.UUID, breaks: Callable[[], None], state: str
) -> None:
    with session_scope() as session:
        unit = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4()).id

    def execute(_: Lease) -> bool:
        breaks()
        return False

    row = run_until_it_ends(unit, execute)
    assert (row.state, row.attempt, row.error_code) == (WorkState.FAILED, 3, Reason.PROCESSING_ERROR)
    assert state in (row.error or "")


@pytest.mark.usefixtures("quick", "broker")
def test_a_database_that_goes_away_counts_no_attempt(site: uuid.UUID) -> None:
    with session_scope() as session:
        unit = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4()).id

    def execute(_: Lease) -> bool:
        with session_scope() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            _on_server(f"SELECT pg_terminate_backend({pid})")
            session.execute(select(Work))
        return False

    for _ in range(4):
        with session_scope() as session:
            session.execute(update(Work).where(Work.state == "due").values(due_at=func.now()))
        flow.run(unit, None, execute)
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.state, row.attempt) == (WorkState.DUE, 0)
        assert row.unavailable_reason == "AdminShutdown (57P01)"
        assert monitoring.unavailable_work(session)["AdminShutdown (57P01)"][0] == 1


def test_an_expired_lease_that_cannot_be_written_down_holds_up_no_other(
    site: uuid.UUID, broker: redis.Redis
) -> None:
    """Rows that only a mistake could leave, such as a chunk of a stage that nobody knows."""
    with session_scope() as session:
        odd = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4())
        good = work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4())
        session.flush()
        for unit in (odd, good):
            unit.state, unit.lease_token = WorkState.RUNNING.value, uuid.uuid4()
            unit.lease_until = func.now()
    with own_connection(as_owner=True) as owner:
        owner.execute(
            text(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
                " RAISE EXCEPTION 'refused'; END $$ LANGUAGE plpgsql"
            )
        )
        owner.execute(
            text(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON work FOR EACH ROW WHEN (OLD.id = '{odd.id}')"
                " EXECUTE FUNCTION refuse()"
            )
        )
    try:
        reconcile.recover()
        with session_scope() as session:
            assert session.get_one(Work, good.id).attempt == 1
            assert session.get_one(Work, odd.id).attempt == 0
    finally:
        with own_connection(as_owner=True) as owner:
            owner.execute(text("DROP TRIGGER refuse ON work"))


def test_psycopg_files_a_cancelled_query_under_the_same_exception_as_a_lost_connection() -> None:
    """If it no longer did, `is_unavailable` could be simpler."""
    assert issubclass(psycopg.errors.QueryCanceled, psycopg.OperationalError)
