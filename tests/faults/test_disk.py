"""A full disk, seen from outside: 507 with what to do, nothing half-written, well when there is room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from cli.embedded import embedded
from settings import get_settings
from store.accounts import accounts
from store.base import blobs as blob_module
from store.base import session as session_module
from store.base.blobs import get_blobs
from store.base.session import get_engine, session_scope
from store.base.tables import Batch, Image, User
from tests.conftest import ROOT
from tests.faults.conftest import Breakable
from tests.faults.disk import fill
from tests.running import (
    ALL,
    PATIENCE,
    Service,
    assert_sound,
    light_service,
    submit,
    wait_for,
    wait_until_ended,
)
from tests.web.asking import Asker, ClosingClient
from web.factory import create_app


@pytest.fixture
def ask(site_id: uuid.UUID) -> Asker:
    with session_scope() as session:
        admin = session.scalars(select(User)).one()
        key = accounts.create_api_key(session, admin, "tests")[1]
    app = create_app()
    app.test_client_class = ClosingClient
    return Asker(app.test_client(use_cookies=False), key)


def assert_refused(answer: Any) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.json["code"] == "storage_full"
    assert answer.json["advice"]


def assert_nothing_half_written() -> None:
    with session_scope() as session:
        named = set(session.scalars(select(Image.incoming_key)))
    assert set(get_blobs().keys("incoming/")) == named
    assert not list(get_blobs().root.rglob(".new-*"))  # type: ignore[attr-defined]


class TestBlobs:
    def test_no_room_for_uploads(
        self,
        small_disk: Path,
        service_settings: pytest.MonkeyPatch,
        ask: Asker,
        pictures: dict[str, bytes],
    ) -> None:
        service_settings.setenv("FRACTUREAI_BLOB_URL", f"file://{small_disk}/blobs")
        get_settings.cache_clear()
        blob_module.get_blobs.cache_clear()
        made = ask.draft()
        files = list(pictures.items())
        assert ask.send(made, files[0]).status_code == 200
        fill(small_disk / "filler")
        assert_refused(ask.send(made, *files))
        assert_nothing_half_written()
        assert ask.get(f"/batches/{made}").json["counts"]["total"] == 1
        (small_disk / "filler").unlink()
        answer = ask.send(made, *files)
        assert answer.json["counts"] | {"accepted": 0} == {
            "accepted": 0, "rejected": 0, "skipped": 0, "duplicate": 1, "total": len(files),
        }  # fmt: skip
        assert_nothing_half_written()


@pytest.mark.faults
class TestPostgres:
    @pytest.fixture
    def postgres(self, small_disk: Path, settings_env: pytest.MonkeyPatch) -> Iterator[Breakable]:
        """A server of its own on the small disk, migrated, at the start of a segment of its log."""
        home = small_disk / "home"
        with embedded(home, valkey=False) as (servers, [child]):
            settings_env.setenv("FRACTUREAI_DATABASE_URL", servers.database_url)
            settings_env.setenv("FRACTUREAI_DATABASE_OWNER_URL", servers.database_owner_url)
            settings_env.setattr(session_module, "_engine", None)
            get_settings.cache_clear()
            command = [sys.executable, "-m", "alembic", "upgrade", "head"]
            subprocess.run(command, cwd=ROOT, env=os.environ, check=True, capture_output=True)
            with psycopg.connect(servers.database_owner_url, autocommit=True) as owner:
                owner.execute("SELECT pg_switch_wal()")
                owner.execute("CHECKPOINT")
            yield Breakable(child, servers, home)
            get_engine().dispose()

    @staticmethod
    @contextmanager
    def at_once() -> Iterator[Connection]:
        with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def test_no_room_for_rows(
        self,
        postgres: Breakable,
        small_disk: Path,
        site_id: uuid.UUID,
        ask: Asker,
        pictures: dict[str, bytes],
        calm: dict[str, float],
        tmp_path: Path,
    ) -> None:
        flat = {path.rpartition("/")[2]: data for path, data in pictures.items()}
        with light_service(tmp_path) as service:
            batch = submit(site_id, flat)
            made = ask.draft()
            fill(small_disk / "filler")
            sent, since = 0, time.monotonic()

            def refused() -> Any:
                nonlocal sent
                sent += 1
                answer = ask.send(made, *((f"{sent}/{path}", data) for path, data in flat.items()))
                return answer.status_code != 200 and answer

            assert_refused(wait_for(refused, PATIENCE, "an upload for whose rows there is no room"))
            assert_nothing_half_written()
            met = re.compile(r"(is given back|waits): DiskFull")
            wait_for(lambda: met.search(service.log(ALL)), PATIENCE, "a worker that cannot write")
            said = service.log("reconcile").count("recover: something is unavailable (DiskFull")
            assert said <= 1 + (time.monotonic() - since) / 60, "one line a minute"
            before = ask.get(f"/batches/{made}").json["counts"]["total"]
            (small_disk / "filler").unlink()
            assert ask.send(made, ("after.png", flat["000.png"])).status_code == 200
            assert ask.get(f"/batches/{made}").json["counts"]["total"] == before + 1
            assert ask.post(f"/batches/{made}/cancel").status_code == 202
            batch = wait_until_ended(batch)
        for key in list(get_blobs().keys(f"incoming/{made}/")):
            get_blobs().delete(key)  # what reconcile does with a cancelled draft
        with session_scope() as session:
            for image in session.scalars(select(Image).where(Image.batch_id == uuid.UUID(made))):
                image.incoming_key = None
        assert batch.n_done == len(flat)
        assert_sound(batch, calm)

    def test_no_room_for_its_log(
        self,
        postgres: Breakable,
        small_disk: Path,
        light: Service,
        site_id: uuid.UUID,
        ask: Asker,
        few: dict[str, bytes],
        calm: dict[str, float],
    ) -> None:
        """It stops itself, and cannot be started before there is room."""
        made = ask.draft()
        batch = submit(site_id, few)
        fill(small_disk / "filler")
        message = text("SELECT pg_logical_emit_message(false, 'fill', repeat(' ', 1000000))")
        with suppress(OperationalError), self.at_once() as connection:
            while True:
                connection.execute(message)
        wait_for(lambda: not postgres.child.running, PATIENCE, "the end of a Postgres that cannot log")
        answer = ask.send(made, *few.items())
        assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
        wait_for(lambda: "waits: OperationalError" in light.log(ALL), PATIENCE, "a worker without one")
        postgres.child.start()
        wait_for(lambda: not postgres.child.running, PATIENCE, "the end of one that finds no room still")
        (small_disk / "filler").unlink()
        postgres.start()
        assert_nothing_half_written()
        assert ask.send(made, *few.items()).json["counts"]["total"] == len(few)
        assert ask.post(f"/batches/{made}/submit").status_code == 202
        with session_scope() as session:
            second = session.get_one(Batch, uuid.UUID(made))
        for ended in (wait_until_ended(batch), wait_until_ended(second)):
            assert ended.n_done == len(few)
            assert_sound(ended, calm)
