"""Limits of a site hold for requests at once: each counts under the lock on the site's row."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts import accounts
from store.base.errors import ServiceError
from store.base.session import session_scope
from store.outgoing import notices
from store.outgoing.notices import MAX_TARGETS, Channel
from store.reading import worklist
from store.reading.worklist import MAX_VIEWS
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


def test_views_of_the_worklist(site: uuid.UUID) -> None:
    with session_scope() as session:
        person = accounts.create_user(session, site, "ada@hospital.example", role=accounts.Role.STAFF).id
        for n in range(MAX_VIEWS - 2):
            worklist.keep_view(session, person, f"view {n}", "class=urgent")
    names = iter(range(AT_ONCE))

    def keep(session: Session) -> None:
        worklist.keep_view(session, person, f"another {next(names)}", "class=urgent")

    assert at_once(keep) == {"created": 2, "too_many_views": AT_ONCE - 2}
    with session_scope() as session:
        worklist.forget_view(session, person, worklist.views(session, person)[0].id)
    # a double click
    assert at_once(lambda session: worklist.keep_view(session, person, "mine", "class=doubt")) == {
        "created": AT_ONCE
    }
