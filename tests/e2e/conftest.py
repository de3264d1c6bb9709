"""A real web server, for the tests that start a client outside the checkout; converted networks for all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.web.serving import serving, site_key

__all__ = ["serving", "site_key"]


@pytest.fixture(scope="module", autouse=True)
def converted_networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the servers of a run share one conversion of their networks: it takes half a minute."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRACTUREAI_CACHE_DIR", str(shared / "cache"))
        yield


def bare_environment() -> dict[str, str]:
    """Return this environment without the product's settings, but for the shared cache."""
    kept = "FRACTUREAI_CACHE_DIR"
    return {k: v for k, v in os.environ.items() if k == kept or not k.startswith("FRACTUREAI_")}
