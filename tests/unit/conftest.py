"""Fixtures of the fast tests."""

import fcntl
import os
from pathlib import Path

import pytest

from models.bundle import Bundle, load_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle trained on phantoms in this run, once for all its processes; copy it before changing it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder: Path = shared / "bundles" / "tiny"
    folder.parent.mkdir(exist_ok=True)
    with (shared / "bundles" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the first, who makes it
        if folder.exists():
            return load_bundle(folder)
        from training.tiny import build_tiny_bundle

        return build_tiny_bundle(folder)
