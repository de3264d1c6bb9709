"""Sessions run in UTC on a server of another zone, and so does our own server on any machine."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text

from cli.embedded import Servers
from store.base import session as session_module
from store.base.session import get_engine, own_connection

NOW = text(
    "SELECT current_setting('TimeZone'), moment, moment::date "
    "FROM (VALUES (TIMESTAMPTZ '2026-06-30 22:30+00')) AS told (moment)"
)


def _address(servers: Servers) -> str:
    return servers.environment()["FRACTUREAI_DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://")


@pytest.fixture
def server_in_berlin(database: Engine, servers: Servers) -> Iterator[None]:
    """The database's default zone is Berlin's, as on a server that took its machine's."""
    with psycopg.connect(servers.database_owner_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE \"{name}\" SET timezone TO 'Europe/Berlin'")
        database.dispose()
        yield
        connection.execute(f'ALTER DATABASE "{name}" RESET timezone')
        database.dispose()


@pytest.mark.usefixtures("server_in_berlin")
@pytest.mark.parametrize("pooler", ["", "transaction"])
def test_every_session_is_in_utc(settings_env: pytest.MonkeyPatch, servers: Servers, pooler: str) -> None:
    if pooler:
        settings_env.setenv("FRACTUREAI_DATABASE_POOLER", pooler)
        settings_env.setenv("FRACTUREAI_DATABASE_DIRECT_URL", _address(servers))
        session_module.get_settings.cache_clear()
        settings_env.setattr(session_module, "_engine", None)
    with get_engine().begin() as connection:
        zone, when, day = connection.execute(NOW).one()
    assert (zone, when.isoformat(), day.isoformat()) == ("UTC", "2026-06-30T22:30:00+00:00", "2026-06-30")
    with own_connection() as connection:
        assert connection.scalar(text("SELECT current_setting('TimeZone')")) == "UTC"
    if pooler:
        get_engine().dispose()


def test_our_own_server_does_not_take_the_machines_zone(servers: Servers) -> None:
    with psycopg.connect(_address(servers)) as connection:
        rows = connection.execute(
            "SELECT name, reset_val, source FROM pg_settings WHERE name IN ('TimeZone', 'log_timezone')"
        ).fetchall()
    assert [(zone, source) for _, zone, source in rows] == [("UTC", "command line")] * 2


def test_the_server_notices_a_client_that_the_network_took_away(settings_env: pytest.MonkeyPatch) -> None:
    """Its session may hold the lock of recovery; tests/faults/test_fleet.py cuts such a line."""
    with own_connection() as connection:
        idle, interval, count = (
            int(connection.scalar(text(f"SHOW tcp_keepalives_{name}")))
            for name in ("idle", "interval", "count")
        )
    assert 0 < idle + interval * count <= 30
