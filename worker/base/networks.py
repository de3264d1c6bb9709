"""The bundles and scorers that a worker's process keeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from models.bundle import Bundle, UnknownFormat, load_bundle
from models.scorer import Scorer, ScorerError, open_scorer
from settings import get_settings
from store.bundles.bundles import fetch_bundle
from worker.flow import NotReady


@lru_cache(maxsize=4)
def cached_bundle(name: str) -> Bundle:
    """Return a bundle, fetched and checked once a process.

    Raises
    ------
    NotReady
        Its format is newer than this worker, as it may be during an upgrade: another worker can read it.
    """
    try:
        return load_bundle(fetch_bundle(name, get_settings().cache_folder / "bundles"))
    except UnknownFormat as error:
        raise NotReady(str(error)) from error


#: The warm-up's thread and the task's share one scorer.
_scoring = threading.Lock()


@lru_cache(maxsize=4)
def _scorer(name: str, precision: str) -> Scorer:
    settings = get_settings()
    return open_scorer(
        cached_bundle(name),
        backend=settings.scorer_backend,
        precision=precision,
        threads=settings.scorer_threads,
        cache=settings.cache_folder / "networks",
        conversion_seconds=settings.conversion_seconds,
        converted=Path(settings.networks_dir) if settings.networks_dir else None,
    )


@contextmanager
def scorer_of(bundle: Bundle, precision: str) -> Iterator[Scorer]:
    """Hold the bundle's scorer; a worker that cannot score has failed no image.

    Raises
    ------
    NotReady
    """
    with _scoring:
        try:
            yield _scorer(bundle.name, precision)
        except ScorerError as error:
            raise NotReady(str(error)) from error
