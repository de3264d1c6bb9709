"""An image that kills, fills or never leaves its process: it alone ends failed, with the reason."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.faults.hostile import ABORT, HUNGRY, LOOP, STUCK
from tests.running import assert_sound, images_of, light_service, submit, wait_until_ended

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("poison", "reason", "error"),
    [
        pytest.param(ABORT, "worker_lost", "the lease ran out", id="aborts"),
        pytest.param(HUNGRY, "processing_error", "out of memory", id="eats memory"),
        pytest.param(LOOP, "processing_timeout", "soft time limit", id="loops"),
        pytest.param(STUCK, "worker_lost", "the lease ran out", id="hangs in C"),
    ],
)
def test_a_poison_image(
    poison: bytes,
    reason: str,
    error: str,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    tmp_path: Path,
    service_settings: pytest.MonkeyPatch,
) -> None:
    short = {"CONVERSION_SECONDS": 30, "SOFT_TIME_LIMIT": 36, "HARD_TIME_LIMIT": 40, "MAX_ATTEMPTS": 1}
    short |= {"LEASE_SECONDS": 16}
    for name, value in short.items():
        service_settings.setenv(f"FRACTUREAI_{name}", str(value))
    service_settings.setenv("FRACTUREAI_MEMORY_LIMIT_BYTES", str(2 * 1024**3))
    some = dict(list(few.items())[:3])
    victim = list(some)[1]
    with light_service(
        tmp_path, app="tests.faults.hostile_worker", queues=("cpu", "gpu,report"), OPENBLAS_NUM_THREADS="1"
    ):
        batch = wait_until_ended(submit(site_id, {**some, victim: some[victim] + poison}))
    ended = {image.path: (image.status, image.reason, image.error) for image in images_of(batch)}
    assert ended.pop(victim) == ("failed", reason, error)
    assert set(ended.values()) == {("done", None, None)}
    assert_sound(batch, calm, retryable=True)
