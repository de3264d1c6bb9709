"""A whole server in 1.5 GB on one core, held there by the kernel, from its first start on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phantoms.files import encode_phantom
from phantoms.film import make_phantom

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

LIMIT = 1500 * 2**20
GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def limited() -> Iterator[Path]:
    """Return a control group that may take 1.5 GB of memory, of cgroup version 1 or 2."""
    parent = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    group = parent / f"fractureai-small-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit = next(
            (group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()),
            None,
        )
        if limit is None:
            pytest.skip("the kernel does not limit memory by control groups here")
        limit.write_text(str(LIMIT))
        yield group
    finally:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                group.rmdir()
                break
            except OSError:  # a process of it still ends
                time.sleep(0.2)


def test_a_small_machine_reads_a_batch_from_its_first_start_on(limited: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(6):
        (images / f"{seed}.png").write_bytes(encode_phantom(make_phantom(seed, "wrist", size=(1200, 900))))
    core = min(os.sched_getaffinity(0))

    def enter() -> None:
        (limited / "cgroup.procs").write_text(str(os.getpid()))
        os.sched_setaffinity(0, {core})

    command = [sys.executable, "-m", "cli.main", "demo", "--small", "--exit", "--images", str(images)]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "home"), "--out", str(tmp_path / "results.zip")],
        env={**os.environ, "FRACTUREAI_CACHE_DIR": str(tmp_path / "cache")},
        preexec_fn=enter,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Converting the networks" in done.stdout
    assert (tmp_path / "results.zip").stat().st_size > 10_000
    most = next(
        limited / name for name in ("memory.max_usage_in_bytes", "memory.peak") if (limited / name).exists()
    )
    killed = limited / (
        "memory.oom_control" if (limited / "memory.oom_control").exists() else "memory.events"
    )
    print(
        f"most memory {int(most.read_text()) / 2**20:.0f} MiB of {LIMIT / 2**20:.0f}; {killed.read_text()!r}"
    )
    assert "oom_kill 0" in killed.read_text()
