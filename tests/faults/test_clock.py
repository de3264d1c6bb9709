"""Clocks that jump by an hour: the workers' make no difference, the database's is mended."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError

from store.base.session import session_scope
from store.base.tables import Batch, Work
from tests.faults.test_processes import leased
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

pytestmark = pytest.mark.faults

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install libfaketime")
@pytest.mark.parametrize("jump", ["+1h", "-1h"])
@pytest.mark.usefixtures("patient")
def test_a_workers_clock_jumps_in_mid_batch(
    jump: str, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], tmp_path: Path
) -> None:
    said = tmp_path / "clock"
    said.write_text("+0")
    clock = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(said),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with light_service(tmp_path, **clock):
        first = submit(site_id, few)
        wait_for(leased, PATIENCE, "a lease")
        said.write_text(jump)
        assert_sound(wait_until_ended(first), calm)
        again = submit(site_id, {name: data + b"\0" for name, data in few.items()})
        assert_sound(wait_until_ended(again), calm)
    with session_scope() as session:
        assert set(session.scalars(select(Work.attempt))) == {0}


def test_the_databases_clock_is_set_back_while_a_worker_dies(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    """Set back by an hour is the same as: every time it wrote lies an hour ahead."""
    batch = submit(site_id, few)
    wait_for(leased, PATIENCE, "a lease")
    light.kill(ALL)
    with session_scope() as session:
        hour = timedelta(hours=1)
        session.execute(
            update(Work).values(
                lease_until=Work.lease_until + hour,
                published_at=Work.published_at + hour,
                due_at=Work.due_at + hour,
                created_at=Work.created_at + hour,
            )
        )
        session.execute(update(Batch).values(created_at=Batch.created_at + hour))
        session.execute(text("UPDATE workers SET seen_at = seen_at + interval '1 hour'"))
    light.start(ALL)
    assert_sound(wait_until_ended(batch), calm)


def test_the_databases_clock_is_set_forward(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    """Every lease has run out at once, of workers that live: they write nothing, others do the work again."""
    batch = submit(site_id, few)
    worker = light.child(ALL)
    hour = timedelta(hours=1)

    def set_forward() -> bool:
        """Stop the worker within a stage, which may last no longer than a blink, and move every time back."""
        worker.suspend()
        with suppress(OperationalError), session_scope() as session:  # it may hold the row just now
            if leased():
                session.execute(text("SET LOCAL lock_timeout = '1s'"))
                session.execute(
                    update(Work).values(
                        lease_until=Work.lease_until - hour,
                        published_at=Work.published_at - hour,
                        due_at=Work.due_at - hour,
                    )
                )
                return True
        worker.resume()
        return False

    def counted() -> int | None:
        with session_scope() as session:
            return session.scalar(select(func.max(Work.attempt)))

    wait_for(set_forward, PATIENCE, "a worker within a stage")
    wait_for(counted, PATIENCE, "a lease that ran out")
    worker.resume()
    assert_sound(wait_until_ended(batch), calm)
    assert "nothing written" in light.log(ALL), "its worker lived, and had lost its lease"
