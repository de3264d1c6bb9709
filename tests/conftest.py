"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, create_engine, text

from cli.child import Child
from cli.embedded import Servers, embedded
from settings import get_settings
from store.base import blobs as blob_module
from store.base import session as session_module
from store.base.blobs import BlobStore
from store.base.tables import Base
from store.queue import dispatch as dispatch_module

ROOT = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell lets its background jobs ignore SIGINT, and so would the commands that the tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Find at a module's end what its tests left open in reference cycles, not in a later module's test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs beside the repository, never part of it; skips where they are absent."""
    folder = Path(os.environ.get("FRACTUREAI_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set FRACTUREAI_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A folder below which an unprivileged Postgres can work (`tmp_path` lies in one closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="fractureai-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def running_servers(home: Path) -> Iterator[tuple[Servers, dict[str, Child]]]:
    """A real Postgres and a real Valkey for the whole run of one test process; their processes by name."""
    with embedded(home) as (addresses, children):
        yield addresses, {child.name: child for child in children}


@pytest.fixture(scope="session")
def servers(running_servers: tuple[Servers, dict[str, Child]]) -> Servers:
    """Where they are."""
    return running_servers[0]


def _forget() -> None:
    """Drop what this process keeps of its settings, so that the next test's count."""
    get_settings.cache_clear()
    blob_module.get_blobs.cache_clear()
    dispatch_module._publisher.cache_clear()


@pytest.fixture(scope="session")
def migrated(servers: Servers) -> None:
    """The tables, made by the migrations themselves."""
    environment = {**os.environ, **servers.environment()}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


@pytest.fixture
def settings_env(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Real servers, and a blob folder of this test's own; set more with the monkeypatch returned."""
    for name, value in servers.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FRACTUREAI_BLOB_URL", f"file://{tmp_path}/blobs")
    monkeypatch.setenv("FRACTUREAI_SECRET_KEY", "a secret for tests alone")
    _forget()
    yield monkeypatch
    _forget()


@pytest.fixture
def kept_for_a_retry(settings_env: pytest.MonkeyPatch) -> None:
    """Uploads of cancelled images stay for an hour; by ``usefixtures``, before what starts a service."""
    settings_env.setenv("FRACTUREAI_CANCELLED_KEEP_SECONDS", "3600")
    get_settings.cache_clear()


@pytest.fixture
def database(settings_env: pytest.MonkeyPatch, migrated: None) -> Iterator[Engine]:
    """An empty, migrated database, as its owner sees it; the product comes by an account of its own."""
    address = get_settings().database_owner_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(address, pool_pre_ping=True)
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # audit refuses otherwise
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))
    yield engine
    engine.dispose()
    session_module.get_engine().dispose()


@pytest.fixture
def blobs(settings_env: pytest.MonkeyPatch) -> BlobStore:
    """This test's blob store."""
    return blob_module.get_blobs()


@pytest.fixture
def broker(settings_env: pytest.MonkeyPatch, servers: Servers) -> Iterator[redis.Redis]:
    """An empty broker."""
    client = redis.Redis.from_url(servers.broker_url)
    client.flushall()
    yield client
    client.close()
