"""A running service on real servers, with an untrained bundle that reads everything."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.accounts.sites import bootstrap
from store.base.session import session_scope
from store.bundles.bundles import add_bundle
from tests.bundles import write_untrained_bundle
from tests.conftest import ROOT
from tests.running import SHORT, Service, running_service


@pytest.fixture(scope="session")
def kept_folder(pytestconfig: pytest.Config) -> Path:
    """What is dear to make and the same in every run: kept by pytest until the code that makes it changes."""
    made_by = (ROOT / "models" / "architectures.py", ROOT / "tests" / "bundles.py")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in made_by)).hexdigest()[:12]
    return pytestconfig.cache.mkdir(f"untrained-{digest}")


@pytest.fixture(scope="session")
def cache_folder(kept_folder: Path) -> Path:
    """One cache of fetched bundles and converted networks."""
    return kept_folder / "cache"


@pytest.fixture(scope="session")
def untrained_bundle(kept_folder: Path) -> Path:
    folder = kept_folder / "untrained"
    if not folder.exists():
        part = Path(tempfile.mkdtemp(dir=kept_folder))
        write_untrained_bundle(part)
        with suppress(OSError):  # another process was first
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Forty small phantoms, as PNG."""
    regions = ("hand", "leg", "hip", "shoulder")
    return {
        f"{regions[n % 4]}/{n:03d}.png": encode_phantom(make_phantom(n, regions[n % 4], size=(160, 160)))
        for n in range(40)
    }


@pytest.fixture
def service_settings(
    settings_env: pytest.MonkeyPatch, cache_folder: Path, tmp_path: Path
) -> pytest.MonkeyPatch:
    """Time-outs in seconds."""
    for name, value in SHORT.items():
        settings_env.setenv(name, value)
    settings_env.setenv("FRACTUREAI_CACHE_DIR", str(cache_folder))
    get_settings.cache_clear()
    return settings_env


@pytest.fixture
def site_id(
    database: Engine, broker: redis.Redis, service_settings: pytest.MonkeyPatch, untrained_bundle: Path
) -> uuid.UUID:
    """A site with the untrained bundle as its default."""
    add_bundle(untrained_bundle)
    with session_scope() as session:
        return bootstrap(session, "Test hospital", "admin@example.org")[0].id


@pytest.fixture
def service(site_id: uuid.UUID, tmp_path: Path) -> Iterator[Service]:
    """Reconcile and three workers."""
    with running_service(tmp_path) as running:
        yield running
