"""Limits of a site hold for requests at once: each counts under the lock on the site's row."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy.orm import Session

from settings import get_settings
from store.base.errors import ServiceError
from store.base.session import session_scope
from store.operations import notices
from store.operations.notices import MAX_TARGETS, Channel
from store.results import exports
from store.results.downloads import ExportRequest, Format
from store.results.results import Selection

AT_ONCE = 8


def at_once(create: Callable[[Session], object]) -> Counter[str]:
    """Let many transactions create something at the same time; return what came of them."""
    barrier = Barrier(AT_ONCE)

    def run(_: int) -> str:
        barrier.wait()
        try:
            with session_scope() as session:
                create(session)
        except ServiceError as error:
            return error.code
        return "created"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(run, range(AT_ONCE)))


def test_exports(site: uuid.UUID) -> None:
    most = get_settings().max_exports
    wish = ExportRequest(Selection(site), Format.CSV)
    with session_scope() as session:
        for _ in range(most - 2):
            exports.create(session, wish, None)
    assert at_once(lambda session: exports.create(session, wish, None)) == {
        "created": 2,
        "too_many_exports": AT_ONCE - 2,
    }


def test_targets_of_notices(site: uuid.UUID) -> None:
    def add(session: Session) -> None:
        notices.add_target(
            session, site, Channel.WEBHOOK, "https://ris.hospital.example/", [notices.Event.TEST]
        )

    with session_scope() as session:
        for _ in range(MAX_TARGETS - 2):
            add(session)
    assert at_once(add) == {"created": 2, "too_many_targets": AT_ONCE - 2}
