"""How long 200 people wait who open one page within a second: ``python -m bench.crowd``.

Each is a person of their own with a session of their own, who has not seen the page before, on a connection
of their own. One thread of a process of its own asks for all of them, and does next to nothing with the
answers, since it runs on this machine too; what it takes is told.
"""

from __future__ import annotations

import argparse
import random
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from bench.asking import Client, ask_all
from bench.measure import Spread, machine, publish, quantile
from bench.service import (
    by_role,
    in_own_process,
    processor_seconds,
    send,
    small_pictures,
    with_server,
    write_variants,
)
from cli.supervise import Server
from store.accounts.accounts import Role, create_user, open_session
from store.base.session import session_scope
from store.base.tables import Site
from web.base.cookies import SESSION

TOGETHER = 1.0
SERVERS = ("web", "Postgres")


def sign_in(people: int) -> list[str]:
    """Make so many people of the one site; return the cookies of their sessions. In a process of its own."""
    with session_scope() as session:
        site = session.query(Site).one()
        users = [
            create_user(session, site.id, f"{uuid.uuid4().hex}@example.org", role=Role.STAFF)
            for _ in range(people)
        ]
        tokens = [open_session(session, user, hours=1, how="password") for user in users]
    return [f"{SESSION.named(over_tls=False)}={token}" for token in tokens]


def open_within(
    address: str, path: str, cookies: Sequence[str], seconds: float = TOGETHER
) -> tuple[list[float], float]:
    """Have a person for each cookie open a page at a random moment of so many seconds.

    Returns
    -------
    tuple
        The seconds that each waited, from their moment to the last byte; and this thread's processor seconds.

    Raises
    ------
    RuntimeError
        Somebody got another answer than the page.
    """
    chance = random.Random()  # noqa: S311 - no secret
    people = [Client(address, path, Cookie=cookie) for cookie in cookies]
    used = time.thread_time()
    answers = ask_all(people, [0.2 + seconds * chance.random() for _ in people])
    if refused := [answer.status for answer in answers if answer.status != HTTPStatus.OK]:
        raise RuntimeError(f"the server answered {refused[0]}")
    return [answer.seconds for answer in answers], time.thread_time() - used


def open_together(running: Server, page: str, people: int) -> dict[str, float]:
    """Have people who have not seen a page open it within a second; return the figures."""
    cookies = in_own_process(sign_in, people)
    time.sleep(1.0)
    before = by_role(processor_seconds)
    waited, used = in_own_process(open_within, running.address, page, cookies)
    after = by_role(processor_seconds)
    return {
        "p50, ms": 1000 * quantile(waited, 0.5),
        "p99, ms": 1000 * quantile(waited, 0.99),
        "the last, ms": 1000 * max(waited),
        **{
            f"{role}, CPU ms each": 1000 * (after[role] - before[role]) / people
            for role in ("web", "Postgres")
        },
        "who asks, CPU ms each": 1000 * used / people,
    }


def main() -> None:
    """Print how long people wait for a batch's page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--images", type=int, default=100, help="of the batch whose page is opened")
    parser.add_argument("--rounds", type=int, default=5)
    arguments, before = parser.parse_args(), machine()
    seen: list[dict[str, float]] = []

    def work(running: Server, folder: Path) -> None:
        images = write_variants(folder / "images", small_pictures(), arguments.images, 1)
        _, batch = send(running, images, label="opened together")
        page = f"/batches/{batch['id']}"
        in_own_process(open_within, running.address, page, in_own_process(sign_in, 20))  # warm
        for _ in range(arguments.rounds):
            seen.append(open_together(running, page, arguments.people))

    with_server(work)
    column = f"{arguments.people} people, a batch of {arguments.images}"
    rows = {name: {column: Spread.of([each[name] for each in seen])} for name in seen[0]}
    publish("crowd", f"A page opened within a second, {arguments.rounds} rounds", rows, before)


if __name__ == "__main__":
    main()
