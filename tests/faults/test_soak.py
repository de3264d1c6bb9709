"""A soak: faults at random for half an hour, from a seed that is printed."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Breakable
from tests.faults.soak import FAULTS, LOCK_SECONDS, WORKERS, Soak, plan_round
from tests.running import PATIENCE, Service

MINUTES = float(os.environ.get("FRACTUREAI_SOAK_MINUTES", "30"))
SEED = int(os.environ.get("FRACTUREAI_SOAK_SEED", random.SystemRandom().randrange(10**6)))


@pytest.fixture
def two_workers(
    site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch
) -> Iterator[Service]:
    service_settings.setenv("FRACTUREAI_DATABASE_LOCK_SECONDS", str(LOCK_SECONDS))
    service_settings.setenv("FRACTUREAI_CANCELLED_KEEP_SECONDS", "3600")  # each round retries it
    service = Service(tmp_path)
    try:
        for name in ("reconcile", *WORKERS):
            service.start(name)
        yield service
    finally:
        service.stop()


@pytest.mark.faults
@pytest.mark.timeout(60 * MINUTES + 3 * PATIENCE)
def test_a_soak(
    site_id: uuid.UUID,
    pictures: dict[str, bytes],
    calm: dict[str, float],
    postgres: Breakable,
    valkey: Breakable,
    two_workers: Service,
) -> None:
    Soak(two_workers, postgres, valkey, site_id, pictures, calm).run(MINUTES, SEED)


def test_the_seed_alone_decides_what_happens() -> None:
    def drawn(seed: int) -> list[object]:
        chance = random.Random(seed)
        return [plan_round(chance) for _ in range(50)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    rounds = [[step.what for step in steps] for steps in drawn(7)]  # type: ignore[attr-defined]
    assert {what for steps in rounds for what in steps} == {"batch", *FAULTS}
    assert {steps[0] for steps in rounds} == {"batch"}
