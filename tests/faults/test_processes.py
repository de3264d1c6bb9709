"""Processes that die: workers, reconcile, whoever submits, the web in mid-upload; and SIGTERM."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest
from sqlalchemy import select, text

from store.accounts.accounts import create_api_key
from store.accounts.sites import bootstrap
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Work, WorkKind
from store.intake import batches
from tests.faults.hostile import ASLEEP, SLOW, SLOW_SCORING
from tests.faults.web import running_web
from tests.running import (
    ALL,
    PATIENCE,
    Service,
    assert_sound,
    draft,
    images_of,
    light_service,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)
from web.intake.uploads import CHUNK as UPLOAD_CHUNK

pytestmark = pytest.mark.faults


def leased(stage: str | None = None) -> bool:
    """Whether a worker holds a lease, of any stage or of this one."""
    held = select(Work.id).where(Work.lease_token.is_not(None))
    if stage is not None:
        held = held.where(Work.stage == stage)
    with session_scope() as session:
        return session.scalar(held.limit(1)) is not None


def test_every_process_killed_at_once(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    batch = submit(site_id, few)
    wait_for(leased, PATIENCE, "a lease")
    light.kill("reconcile", ALL)
    light.start(ALL)
    light.start("reconcile")
    batch = wait_until_ended(batch)
    assert_sound(batch, calm)
    assert batch.n_done == len(few)


def test_whoever_submits_dies_before_dispatching(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    batch = draft(site_id, few)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    # the commit is the last thing that happened: no dispatch
    assert_sound(wait_until_ended(batch), calm)


def test_a_second_reconcile_takes_over(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    wait_for(lambda: holders() == 1, PATIENCE, "the first to be active")
    light.processes["first"] = light.processes.pop("reconcile")
    light.start("reconcile")
    wait_for(waiting, PATIENCE, "the second to ask for the lock")
    light.kill("first")
    batch = draft(site_id, few)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)  # only a reconcile that is active sends it
    assert_sound(wait_until_ended(batch), calm)
    assert holders() == 1


def waiting() -> bool:
    """Whether somebody was refused the lock: the active one asks other things."""
    with session_scope() as session:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'")
        return bool(session.scalar(query))


def holders() -> int:
    from store.base.advisory_locks import AdvisoryLock

    with session_scope() as session:
        query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted")
        return int(session.scalar(query, {"key": AdvisoryLock.RECONCILE.value}) or 0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("ending", "environment", "stage"),
    [
        pytest.param(SLOW, {}, "prepare", id="decoding"),
        pytest.param(b"", {SLOW_SCORING: "1"}, "detect", id="scoring"),
    ],
)
def test_sigterm_gives_work_back_without_counting_an_attempt(
    ending: bytes,
    environment: dict[str, str],
    stage: str,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    tmp_path: Path,
) -> None:
    """The stage would last an hour: the worker ends without it."""
    name, data = next(iter(few.items()))
    with light_service(tmp_path, app="tests.faults.hostile_worker", **environment) as service:
        service.child(ALL)
        batch = submit(site_id, {name: data + ending})
        wait_for(lambda: ASLEEP in service.log(ALL), PATIENCE, "the slow stage")
        assert leased(stage)
        process = service.processes[ALL]
        process.terminate()
        process.wait(timeout=PATIENCE)
        with session_scope() as session:
            unit = session.scalars(select(Work).where(Work.batch_id == batch.id)).one()
        assert (unit.attempt, unit.lease_token) == (0, None)
        service.start(ALL)
        assert_sound(wait_until_ended(batch), calm)
    with session_scope() as session:
        unit = session.scalars(select(Work).where(Work.kind == WorkKind.CHUNK)).one()
    assert unit.attempt == 0


def test_the_web_killed_in_mid_upload(site_id: uuid.UUID, few: dict[str, bytes], tmp_path: Path) -> None:
    import httpx

    with session_scope() as session:
        _, admin, _ = bootstrap(session, "Test hospital", "admin@example.org")
        key = create_api_key(session, admin, "test")[1]
    header = {"Authorization": f"Bearer {key}"}
    with running_web(tmp_path) as web:
        base = f"http://{web.address}/api/v1"
        with httpx.Client(base_url=base, headers=header, timeout=PATIENCE) as client:
            made = client.post("/batches", json={"label": "killed"}).json()["id"]
            name, data = next(iter(few.items()))
            half = half_a_request(web.address, key, made, data)
            wait_for(lambda: any(get_blobs().root.rglob(".new-*")), PATIENCE, "half a file")  # type: ignore[attr-defined]
            web.kill()
            half.close()
            web.start()
            assert client.get(f"/batches/{made}").json()["counts"]["total"] == 0
            client.post(f"/batches/{made}/files", files={"files": (name, data)}).raise_for_status()
            client.post(f"/batches/{made}/submit").raise_for_status()
        with light_service(tmp_path):
            batch = wait_until_ended(read_batch_by_id(made))
        get_blobs().delete_unfinished(0)  # what reconcile does a day later
        assert_sound(batch)
        assert batch.n_done == 1
        assert [image.path for image in images_of(batch)] == [name]


def read_batch_by_id(batch_id: str):
    from store.base.tables import Batch

    with session_scope() as session:
        return read_batch(session.get_one(Batch, uuid.UUID(batch_id)))


#: The web server hands an application no less than it asks for: of a shorter half nothing would be written.
HALF = 8 * UPLOAD_CHUNK


def half_a_request(address: str, key: str, batch_id: str, data: bytes) -> socket.socket:
    """Send a multipart request's first half and leave the connection open."""
    host, port = address.split(":")
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'
    head = (
        f"POST /api/v1/batches/{batch_id}/files HTTP/1.1\r\nHost: {address}\r\n"
        f"Authorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {2 * HALF}\r\n\r\n"
    ).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head + start + data.ljust(HALF, b"\0"))
    return connection
