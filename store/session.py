"""One engine per process, and a session that commits or rolls back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from settings import get_settings

_engine: Engine | None = None
_engine_pid: int | None = None


def get_engine() -> Engine:
    """Return this process's engine; a forked child gets one of its own."""
    global _engine, _engine_pid  # noqa: PLW0603 - one per process is the point
    if _engine is None or _engine_pid != os.getpid():
        if _engine is not None:
            _engine.dispose(close=False)
        url = get_settings().require("database_url").database_url
        if url.startswith("postgresql://"):
            url = "postgresql+psycopg://" + url.removeprefix("postgresql://")
        _engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=20,
            pool_timeout=10,
            connect_args={
                "connect_timeout": 5,
                "application_name": "fractureai",
                "options": "-c statement_timeout=60000 -c lock_timeout=20000"
                " -c idle_in_transaction_session_timeout=60000",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20000,
            },
        )
        _engine_pid = os.getpid()
    return _engine


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
