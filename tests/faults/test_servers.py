"""Valkey and Postgres that die, forget, hang, one by one and together; nobody restarts a worker by hand."""

from __future__ import annotations

import re
import threading
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import select

from store.base.session import session_scope
from store.base.tables import Work
from tests.faults.conftest import Breakable
from tests.faults.hostile import ASLEEP, PAUSE
from tests.faults.test_processes import leased
from tests.running import (
    ALL,
    PATIENCE,
    Service,
    assert_sound,
    draft,
    light_service,
    submit,
    wait_for,
    wait_until_ended,
)

pytestmark = pytest.mark.faults


def tokens() -> set[uuid.UUID]:
    """Return whose turns they are: a fresh one each time that a worker takes a unit."""
    with session_scope() as session:
        held = select(Work.lease_token).where(Work.lease_token.is_not(None))
        return {token for token in session.scalars(held) if token}


def test_valkey_killed_and_restarted_empty(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], valkey: Breakable
) -> None:
    batch = submit(site_id, few)
    wait_for(leased, PATIENCE, "a lease")
    valkey.kill()
    time.sleep(3)
    valkey.forget()
    valkey.start()
    assert_sound(wait_until_ended(batch), calm)


def test_valkey_dies_while_a_stage_runs_and_is_away_when_it_is_acknowledged(
    site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], valkey: Breakable, tmp_path: Path
) -> None:
    name, data = next(iter(few.items()))
    with light_service(tmp_path, app="tests.faults.hostile_worker") as service:
        batch = submit(site_id, {name: data + PAUSE})
        wait_for(lambda: ASLEEP in service.log(ALL), PATIENCE, "the slow stage")
        valkey.kill()
        met = re.compile(r"Couldn't ack|Connection to broker lost")
        wait_for(lambda: met.search(service.log(ALL)), PATIENCE, "the acknowledgement that fails")
        valkey.forget()
        valkey.start()
        assert_sound(wait_until_ended(batch), calm)


def test_valkey_hangs_for_longer_than_the_visibility_timeout(
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    valkey: Breakable,
    tmp_path: Path,
    service_settings: pytest.MonkeyPatch,
) -> None:
    limits = {
        "CONVERSION_SECONDS": 16,
        "SOFT_TIME_LIMIT": 18,
        "HARD_TIME_LIMIT": 20,
        "VISIBILITY_TIMEOUT": 21,
    }
    for name, seconds in limits.items():
        service_settings.setenv(f"FRACTUREAI_{name}", str(seconds))
    with light_service(tmp_path):
        batch = submit(site_id, few)
        wait_for(leased, PATIENCE, "a lease")
        valkey.hang()
        time.sleep(25)
        valkey.wake()
        assert_sound(wait_until_ended(batch), calm)


def test_postgres_killed_while_everybody_commits(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], postgres: Breakable
) -> None:
    batch = submit(site_id, few)
    met = re.compile(r"(is given back|waits): (OperationalError|AdminShutdown)")
    seen: set[uuid.UUID] = set()
    for _ in range(2):
        fresh = wait_for(lambda old=seen: tokens() - old, PATIENCE, "a lease that no kill has met")
        seen = seen | fresh
        before = len(met.findall(light.log(ALL)))
        postgres.kill()
        wait_for(
            lambda n=before: len(met.findall(light.log(ALL))) > n, PATIENCE, "a stage without a database"
        )
        postgres.start()
    assert_sound(wait_until_ended(batch), calm)
    failed = re.search(r"of [0-9a-f-]{36} failed", light.log(ALL))
    assert not failed, "an absent database is nobody's failed attempt"


def test_postgres_hangs_for_longer_than_a_lease(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], postgres: Breakable
) -> None:
    batch = submit(site_id, few)
    wait_for(leased, PATIENCE, "a lease")
    postgres.hang()
    time.sleep(12)
    postgres.wake()
    assert_sound(wait_until_ended(batch), calm)


def test_both_at_once(
    light: Service,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    postgres: Breakable,
    valkey: Breakable,
) -> None:
    batch = submit(site_id, few)
    wait_for(leased, PATIENCE, "a lease")
    postgres.kill()
    valkey.kill()
    valkey.forget()
    time.sleep(2)
    valkey.start()
    postgres.start()
    assert_sound(wait_until_ended(batch), calm)


def test_a_commit_that_a_killed_postgres_promised_is_there(
    site_id: uuid.UUID, few: dict[str, bytes], postgres: Breakable
) -> None:
    """Killed again and again while commits run: whatever was promised is there, nothing is there by half."""
    promised: list[uuid.UUID] = []
    ended = threading.Event()

    def keep_submitting() -> None:
        while not ended.is_set():
            try:
                promised.append(draft(site_id, dict(list(few.items())[:2])).id)
            except Exception:
                continue  # the database is away: nothing was promised

    thread = threading.Thread(target=keep_submitting)
    thread.start()
    try:
        for _ in range(3):
            time.sleep(1)
            postgres.kill()
            postgres.start()
    finally:
        ended.set()
        thread.join()
    from store.base.tables import Batch, Image

    with session_scope() as session:
        kept = {batch.id: batch.n_total for batch in session.scalars(select(Batch))}
        images = session.scalars(select(Image.batch_id)).all()
    assert promised
    assert all(kept[batch_id] == 2 for batch_id in promised)
    assert all(images.count(batch_id) == n for batch_id, n in kept.items())


def test_workers_start_before_the_servers_answer(
    site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], valkey: Breakable, tmp_path: Path
) -> None:
    batch = submit(site_id, few)
    valkey.kill()
    with light_service(tmp_path) as service:
        wait_for(lambda: "Cannot connect to" in service.log(ALL), PATIENCE, "a worker that finds no broker")
        valkey.start()
        assert_sound(wait_until_ended(batch), calm)
