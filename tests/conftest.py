"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs beside the repository, never part of it; skips where they are absent."""
    folder = Path(os.environ.get("FRACTUREAI_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set FRACTUREAI_SHARED_DATA")
    return folder
