"""A fleet of ten hosts: lines with delay and loss, each cut for a while, one clock that is wrong.

    make faults ARGS="-k fleet -s"

``FRACTUREAI_TEST_CUT_SECONDS`` says for how long a line is cut, ``FRACTUREAI_TEST_CUT_HOSTS`` which (all).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import func, select

from cli.client import Client
from cli.prepare import make_bucket
from cli.submit import SubmitOptions, run_submit
from store.accounts.accounts import Permission, create_api_key
from store.accounts.sites import bootstrap
from store.base.session import session_scope
from store.base.tables import Batch, Image, Worker
from store.bundles.bundles import add_bundle
from tests.conftest import ROOT, _forget
from tests.faults.fleet import HOSTS, QUEUES, Fleet, cut, fleet_of_hosts, start_web, why_not
from tests.faults.test_clock import LIBRARY
from tests.running import PATIENCE, SHORT, assert_sound, wait_for, wait_until_ended

CUT_SECONDS = float(os.environ.get("FRACTUREAI_TEST_CUT_SECONDS", "30"))
CUT = os.environ.get("FRACTUREAI_TEST_CUT_HOSTS", ",".join(HOSTS)).split(",")
WRONG_CLOCK = "cpu-far"
SILENT = Console(quiet=True, force_terminal=True)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(int(len(HOSTS) * (CUT_SECONDS + PATIENCE)) + 3600)]


@pytest.fixture(scope="module")
def fleet(home: Path, untrained_bundle: Path, cache_folder: Path, tmp_path_factory) -> Iterator[Fleet]:
    """Every host, with its processes; this process is one more, and comes to them by a line of its own."""
    if reason := why_not():
        pytest.skip(reason)
    if LIBRARY is None:
        pytest.skip("needs libfaketime: apt-get install libfaketime")
    logs = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as settings, fleet_of_hosts(home, logs) as running:
        running.environment |= {
            **SHORT,
            "FRACTUREAI_CHUNK_SIZE": "2",
            "FRACTUREAI_CACHE_DIR": str(cache_folder),
            "FRACTUREAI_SECRET_KEY": "a secret for tests alone",
            "FRACTUREAI_HEALTH_PORT": "8001",
        }
        for name, value in running.environment.items():
            settings.setenv(name, value)
        _forget()
        migrate = [sys.executable, "-m", "alembic", "upgrade", "head"]
        subprocess.run(migrate, cwd=ROOT, check=True, capture_output=True)
        make_bucket()
        add_bundle(untrained_bundle)
        start_web(running)
        wrong = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": "+90s", "DONT_FAKE_MONOTONIC": "1"}
        for host in HOSTS:
            if host.partition("-")[0] in QUEUES:
                running.start_worker(host, **(wrong if host == WRONG_CLOCK else {}))
        wait_for(lambda: _workers() == 2 * len(QUEUES), PATIENCE, "the workers")
        yield running
    _forget()


def _workers() -> int:
    with session_scope() as session:
        return session.scalar(select(func.count()).select_from(Worker)) or 0


def _key() -> str:
    with session_scope() as session:
        _, admin, _ = bootstrap(session, "Test hospital", "admin@example.org")
        return create_api_key(session, admin, "fleet", scope=set(Permission) - {Permission.ADMINISTER})[1]


def _submit(fleet: Fleet, key: str, folder: Path, label: str) -> Batch:
    """Send a folder by way of the web's host, as a person would."""
    with Client(fleet.web, key, patience=PATIENCE) as client:
        sent = run_submit(client, [folder], SubmitOptions(label=label, wait=False), SILENT, rows=0)
    with session_scope() as session:
        return session.get_one(Batch, uuid.UUID(sent.batch["id"]))


def _begun(batch: Batch) -> bool:
    with session_scope() as session:
        began = select(func.count()).where(Image.batch_id == batch.id, Image.passed.is_not(None))
        return bool(session.scalar(began))


def _variants(folder: Path, few: dict[str, bytes], mark: int) -> Path:
    """Write the pictures as files that nobody sent before: PNG readers pass over what follows the end."""
    folder.mkdir()
    for name, data in few.items():
        (folder / name).write_bytes(data + bytes([mark]))
    return folder


def test_every_batch_ends_and_each_image_is_read_once(
    fleet: Fleet, few: dict[str, bytes], calm: dict[str, float], tmp_path: Path
) -> None:
    key = _key()
    for number, host in enumerate(["", *CUT]):
        batch = _submit(fleet, key, _variants(tmp_path / f"{number}", few, number), f"cut {host}")
        if host:
            wait_for(lambda: _begun(batch), PATIENCE, "the first stage")  # noqa: B023 - asked at once
            with cut(fleet, host):
                time.sleep(CUT_SECONDS)
        began = time.monotonic()
        ended = wait_until_ended(batch)
        assert_sound(ended, calm)
        assert ended.n_done == len(few), host
        print(
            f"{host or 'no line'} cut for {CUT_SECONDS if host else 0:g} s: "
            f"ended {time.monotonic() - began:.1f} s after"
        )
