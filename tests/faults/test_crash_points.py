"""Every point at which something is made durable, by the script that finds them; see `crash_points`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

EVERY = os.environ.get("FRACTUREAI_CRASH_EVERY", "1")


@pytest.mark.faults
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("journey", ["http", "dicom"])
def test_a_death_at_any_point_is_mended(journey: str) -> None:
    """In a process of its own: it forks, and sets the environment as it needs it."""
    command = [sys.executable, "-m", "tests.faults.crash_points", "--journey", journey, "--every", EVERY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert " points on the way" in done.stdout
