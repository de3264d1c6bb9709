"""Many people at once, and people who change their minds: cancel, pause, resume, retry, in any order."""

from __future__ import annotations

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy.exc import OperationalError

from store.base.errors import ServiceError, WrongState
from store.base.session import is_unavailable, session_scope
from store.base.tables import Priority
from store.intake import batches
from store.queue import dispatch
from tests.running import Service, assert_sound, draft, images_of, read_batch, submit, wait_until_ended


@pytest.mark.usefixtures("kept_for_a_retry")
def test_a_storm_of_second_thoughts(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    batch = submit(site_id, few)
    ended = threading.Event()

    def change_minds(number: int) -> None:
        chance = random.Random(seed + number)
        while not ended.wait(chance.uniform(0, 0.3)):
            change = chance.choice(
                [batches.cancel, batches.pause, batches.resume, batches.retry, _more_urgent]
            )
            try:
                with session_scope() as session:
                    change(session, batch.id, site_id)
            except ServiceError:
                continue
            except OperationalError as error:  # the row is locked for too long: they are told to try again
                if not is_unavailable(error):
                    raise
                continue
            dispatch.dispatch()

    with ThreadPoolExecutor() as people:
        waiting = [people.submit(change_minds, number) for number in range(4)]
        ended.wait(15)
        ended.set()
        for one in waiting:
            one.result()
    if read_batch(batch).paused_at is not None:
        with suppress(WrongState), session_scope() as session:  # it may end just now
            batches.resume(session, batch.id, site_id)
    batch = wait_until_ended(batch)
    assert_sound(batch, calm, retryable=True)
    if batch.n_done < len(few):
        with session_scope() as session:
            batches.retry(session, batch.id, site_id)
        batch = wait_until_ended(batch)
    assert_sound(batch, calm)
    assert batch.n_done == len(few)


def _more_urgent(session, batch_id: uuid.UUID, site_id: uuid.UUID) -> None:
    batches.set_priority(session, batch_id, site_id, random.choice(list(Priority)))


@pytest.mark.faults
def test_the_same_submission_twenty_times_at_once(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    made = draft(site_id, few)
    start = threading.Barrier(20)

    def press() -> bool:
        start.wait()
        try:
            with session_scope() as session:
                batches.submit(session, made.id, site_id)
        except ServiceError:
            return False
        dispatch.dispatch()
        return True

    with ThreadPoolExecutor(20) as people:
        answers = list(people.map(lambda _: press(), range(20)))
    assert any(answers)
    assert_sound(wait_until_ended(made), calm)
    assert len(images_of(made)) == len(few)
