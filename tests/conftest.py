"""Fixtures that all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded import Servers, embedded

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs beside the repository, never part of it; skips where they are absent."""
    folder = Path(os.environ.get("FRACTUREAI_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set FRACTUREAI_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A folder below which an unprivileged Postgres can work (`tmp_path` lies in one closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="fractureai-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def servers(home: Path) -> Iterator[Servers]:
    """A real Postgres and a real Valkey for the whole run of one test process."""
    with embedded(home) as (addresses, _):
        yield addresses
