"""PgBouncer in transaction mode between us and the database: supported by settings, refused without."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from cli.child import unprivileged
from cli.embedded import Servers, free_port
from cli.prepare import migrate_database
from settings import SettingsError, from_environ, get_settings
from store.base import session as session_module
from store.base.session import own_connection, refuse_unnamed_pooler, session_scope
from tests.running import PATIENCE, assert_sound, light_service, submit, wait_for, wait_until_ended

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer: scripts/setup.sh faults")


def forget_engine() -> None:
    if session_module._engine is not None:
        session_module._engine.dispose()
    session_module._engine = None
    get_settings.cache_clear()


@pytest.fixture
def pooled(
    site_id: uuid.UUID, servers: Servers, home: Path, service_settings: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """A pooler of two server connections before the database; `database_url` leads to it."""
    there = urlsplit(servers.database_url)
    port = free_port()
    folder = home / f"pooler-{port}"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(
        f"""[databases]
* = host={there.hostname} port={there.port} user={there.username} password={there.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 500
ignore_startup_parameters = options
"""
    )
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None  # it refuses to run as root
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, str(folder / "pgbouncer.ini")],
            stderr=log,
            **unprivileged(user),  # type: ignore[call-overload]
        )
    try:
        wait_for(lambda: _listens(port), PATIENCE, "the pooler")
        address = there._replace(netloc=there.netloc.replace(f":{there.port}", f":{port}"))
        service_settings.setenv("FRACTUREAI_DATABASE_URL", address.geturl())
        forget_engine()
        yield service_settings
    finally:
        process.kill()
        process.wait()
        # whoever is torn down after this asks the database itself
        service_settings.setenv("FRACTUREAI_DATABASE_URL", servers.database_url)
        service_settings.delenv("FRACTUREAI_DATABASE_POOLER", raising=False)
        forget_engine()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def named(pooled: pytest.MonkeyPatch, servers: Servers) -> None:
    pooled.setenv("FRACTUREAI_DATABASE_POOLER", "transaction")
    pooled.setenv("FRACTUREAI_DATABASE_DIRECT_URL", servers.database_url)
    forget_engine()


@pytest.mark.usefixtures("pooled")
def test_a_pooler_that_no_setting_names_is_refused() -> None:
    with pytest.raises(SettingsError, match="FRACTUREAI_DATABASE_POOLER"):
        refuse_unnamed_pooler()


def test_the_direct_address_is_needed_too() -> None:
    with pytest.raises(SettingsError, match="database_direct_url"):
        from_environ({"FRACTUREAI_DATABASE_POOLER": "transaction"})


@pytest.mark.usefixtures("named")
def test_every_transaction_has_its_limits_and_repeats_its_statements() -> None:
    refuse_unnamed_pooler()
    migrate_database()
    wrong: list[BaseException] = []

    def ask() -> None:
        try:
            for n in range(30):
                with session_scope() as session:
                    assert session.scalar(text("SHOW lock_timeout")) == "20s"
                    assert session.scalar(text("SELECT CAST(:n AS int) + 1"), {"n": n}) == n + 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    with own_connection() as own, session_scope() as session:
        own.execute(text("SELECT pg_advisory_lock(77)"))
        assert not session.scalar(text("SELECT pg_try_advisory_lock(77)")), "a session of its own"


@pytest.mark.faults
@pytest.mark.usefixtures("named")
def test_a_batch_is_read_through_it(
    site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], tmp_path: Path
) -> None:
    with light_service(tmp_path):
        assert_sound(wait_until_ended(submit(site_id, few)), calm)
