"""Load, when a worker's process starts, what its first task would wait for."""

from __future__ import annotations

import logging

from sqlalchemy import select

from pipeline.decode import sandbox
from pipeline.report import render
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Site
from worker.base.networks import cached_bundle, scorer_of

log = logging.getLogger("fractureai.warm_up")


def warm_up(queues: set[str]) -> None:
    """Load what the first task would wait for: networks, or fonts. A failure is left to that task."""
    try:
        if "cpu" in queues:
            sandbox().warm_up()
        if "report" in queues:
            render.warm_up()
        if "gpu" not in queues:
            return
        with session_scope() as session:
            names = set(session.scalars(select(Site.default_bundle).where(Site.default_bundle.is_not(None))))
        for name in names:
            if name is not None:
                with scorer_of(cached_bundle(name), get_settings().precision) as scorer:
                    scorer.warm_up()
    except Exception as error:
        log.warning("could not warm up (%s); the first task tries again", type(error).__name__)
