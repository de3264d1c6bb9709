"""One engine per process, a session that commits or rolls back, and connections outside the pool.

Connections of the pool carry nothing from one use to the next: what is set for one transaction is set with
``SET LOCAL``. Whoever needs state of a session (an advisory lock, a temporary table) takes `own_connection`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError, TimeoutError
from sqlalchemy.orm import Session

from settings import Settings, SettingsError, get_settings

_engine: Engine | None = None
_engine_pid: int | None = None

#: SQLSTATE classes, and single states, that say that the server or its machine is in trouble, not the query:
#: connection exception, insufficient resources, operator intervention (but not a cancelled query), system
#: error, and a standby that was not yet made the primary.
UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")
UNAVAILABLE_STATES = frozenset({"25006"})
DISK_FULL = "53100"


def is_unavailable(error: BaseException) -> bool:
    """Return whether the database was away, as opposed to a query that it refused, cancelled or broke off.

    A statement timeout, a lock timeout, a deadlock and a cancelled query are the fault of whoever asked:
    repeated for ever they would never end. psycopg files them under the same exception as a lost connection.
    """
    if isinstance(error, TimeoutError):  # no connection of the pool became free
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # the connection was refused, or lost
        return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return state in UNAVAILABLE_STATES or state.startswith(UNAVAILABLE_CLASSES)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the database had no room for what it was to write."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == DISK_FULL


def _url(address: str) -> str:
    if address.startswith("postgresql://"):
        return "postgresql+psycopg://" + address.removeprefix("postgresql://")
    return address


def _limits(settings: Settings) -> dict[str, int | str]:
    """Return the time limits of every connection, in milliseconds, and its time zone.

    A server may have the zone of its machine: times would be read in it, and days begin at its midnight.
    """
    return {
        "TimeZone": "UTC",
        "statement_timeout": round(1000 * settings.database_statement_seconds),
        "lock_timeout": round(1000 * settings.database_lock_seconds),
        "idle_in_transaction_session_timeout": 60_000,
    }


#: After how many seconds either side of a connection notices that the network took the other one away. The
#: server's own answer is two hours, for which a lost session would hold its locks, that of recovery too.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def _connect_args(settings: Settings) -> dict[str, Any]:
    return {
        "connect_timeout": 5,
        "application_name": "fractureai",
        **_KEEPALIVES,
        "tcp_user_timeout": 20000,
    }


def _options(settings: Settings) -> str:
    kept_alive = {f"tcp_{name}": seconds for name, seconds in _KEEPALIVES.items()}
    return " ".join(f"-c {name}={value}" for name, value in {**_limits(settings), **kept_alive}.items())


#: How long a connection passes for alive after it was used, in seconds. One that was lost meanwhile is an
#: error of its next statement, as one that is lost in the middle of a transaction is.
FRESH = 1.0


def _ask_the_idle(engine: Engine) -> None:
    """Have a connection asked whether it is alive before it is used, but not one that was used just now.

    A unit of work takes about twenty transactions in a row, a poll one or two: asking before each took a
    fifth of a poll's time.
    """

    @event.listens_for(engine, "connect")
    @event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ask(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info["used"] < FRESH:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise InvalidatePoolError from error


_decode = json.JSONDecoder().decode


def _from_json(data: bytes | str) -> Any:
    """Return what a column holds; most columns of an image hold an empty list."""
    if data in (b"[]", "[]"):
        return []
    return _decode(data if isinstance(data, str) else data.decode())


def get_engine() -> Engine:
    """Return this process's engine; a forked child gets one of its own."""
    global _engine, _engine_pid  # noqa: PLW0603 - one per process is the point
    if _engine is None or _engine_pid != os.getpid():
        if _engine is not None:
            _engine.dispose(close=False)
        settings = get_settings().require("database_url")
        arguments = _connect_args(settings)
        if settings.database_pooler:
            arguments["prepare_threshold"] = None  # the next transaction may be another server connection's
        else:
            arguments["options"] = _options(settings)
        _engine = create_engine(
            _url(settings.database_url),
            pool_pre_ping=False,  # `_ask_the_idle` does
            # those above are closed again after each use: for a crowd that shared five Postgres started one
            # process after the other, which took more of the processor than what was asked
            pool_size=12,
            max_overflow=13,
            pool_timeout=10,
            connect_args=arguments,
            json_deserializer=_from_json,
            hide_parameters=True,  # an error's text goes to logs: no names in it
        )
        _ask_the_idle(_engine)
        if settings.database_pooler:
            limits = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _limits(settings).items())

            @event.listens_for(_engine, "begin")
            def _set_limits(connection: Connection) -> None:
                connection.exec_driver_sql(limits)

        _engine_pid = os.getpid()
    return _engine


def refuse_unnamed_pooler() -> None:
    """Refuse to go on where a pooler stands before the database and no setting says so.

    In transaction mode every transaction may run on another server connection: prepared statements, time
    limits and locks of a session would be lost, or met by somebody else, now and then and under load.
    A pooler answers a new connection with a process id that is not the server's.

    Raises
    ------
    SettingsError
    """
    if get_settings().database_pooler:
        return
    with get_engine().connect() as connection:
        told = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        if told != connection.scalar(text("SELECT pg_backend_pid()")):
            raise SettingsError(
                "FRACTUREAI_DATABASE_URL leads to a connection pooler: set FRACTUREAI_DATABASE_POOLER to its"
                " mode, and FRACTUREAI_DATABASE_DIRECT_URL to the database itself"
            )


@contextmanager
def own_connection(*, autocommit: bool = True, as_owner: bool = False) -> Iterator[Connection]:
    """Yield a connection of its own, not of the pool and not through a pooler: for state of a session.

    It is closed however the block ends, so that whatever it holds (an advisory lock, a temporary table, a
    setting) ends with it.

    Parameters
    ----------
    autocommit
        Each statement commits by itself.
    as_owner
        As the owner of the tables, to change what they are; the application's own account may not.
    """
    settings = get_settings().require("database_url")
    owner = settings.database_owner_url if as_owner else ""
    engine = create_engine(
        _url(owner or settings.database_direct_url or settings.database_url),
        poolclass=NullPool,
        connect_args={**_connect_args(settings), "options": _options(settings)},
    )
    connection = engine.connect()
    if autocommit:
        connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        yield connection
    finally:
        connection.invalidate()
        connection.close()


@contextmanager
def statement_scope() -> Iterator[Session]:
    """Yield a session whose every statement is a transaction of its own, for what asks one or reads alone.

    BEGIN and COMMIT are each a way to the database and back, after which a thread waits its turn again.
    Through a pooler it is one transaction, which carries the time limits.
    """
    if get_settings().database_pooler:
        with session_scope() as session:
            yield session
        return
    with Session(_by_statement(get_engine()), expire_on_commit=False) as session:
        yield session
        session.commit()  # gives the connection back; there is nothing left to commit


@lru_cache(maxsize=1)
def _by_statement(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def session_scope(on_rollback: Callable[[], None] | None = None) -> Iterator[Session]:
    """Yield a session; commit when the block ends well, roll back when it raises.

    Parameters
    ----------
    on_rollback
        Called when certainly nothing was committed: to delete bytes that the rows would have named. It is
        not called when the commit itself fails: the connection may have broken after Postgres committed, and
        the rows may name the bytes. What no row names is found later by the sweep.
    """
    committing = False
    try:
        with Session(get_engine(), expire_on_commit=False) as session, session.begin():
            yield session
            session.flush()
            committing = True
    except BaseException:
        if on_rollback is not None and not committing:
            on_rollback()
        raise
