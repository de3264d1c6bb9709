"""Fixtures of the fast tests."""

from pathlib import Path

import pytest

from models.bundle import Bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle trained on phantoms within this test run; copy its folder before changing it."""
    from training.tiny import build_tiny_bundle

    folder: Path = tmp_path_factory.mktemp("bundles") / "tiny"
    return build_tiny_bundle(folder)
