"""Who asks for the same at the same time shares one answer, and gets none from before they asked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from web.base.together import LONGEST, Gathered, Together


def test_those_who_wait_share_the_next_answer_and_not_the_one_being_worked_out():
    together: Together[int] = Together()
    begun, go_on, said = threading.Event(), threading.Event(), []

    def work() -> int:
        said.append(len(said) + 1)
        if len(said) == 1:
            begun.set()
            assert go_on.wait(10)
        return len(said)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together.answer, "page", work)
        assert begun.wait(10)
        later = [pool.submit(together.answer, "page", work) for _ in range(6)]
        while not together._next:
            pass
        other = pool.submit(together.answer, "another", lambda: 99)
        assert other.result(10) == 99
        go_on.set()
        assert first.result(10) == 1
        # whoever came while the first was at work got one of their own, together
        assert {each.result(10) for each in later} <= {2, 3}
    assert len(said) < 7
    assert together.answer("page", work) == len(said)
    assert not together._now
    assert not together._next


def test_an_error_is_everybody_s_and_the_next_asks_anew():
    together: Together[int] = Together()

    def fail() -> int:
        raise LookupError("gone")

    for _ in range(2):
        with pytest.raises(LookupError):
            together.answer("page", fail)
    assert together.answer("page", lambda: 1) == 1


def test_an_answer_is_begun_again_only_when_others_could_gather():
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    together: Together[float] = Together(sleep=sleep, clock=lambda: now[0])

    def work() -> float:
        now[0] += 0.02
        return now[0]

    together.answer("page", work)
    together.answer("another page", work)
    assert not slept
    now[0] += 0.01
    together.answer("page", work)
    assert slept == [pytest.approx(2 * 0.02 - 0.02 - 0.01)]
    now[0] += 1
    together.answer("page", work)
    assert len(slept) == 1
    assert list(together._again) == ["page"], "nothing is kept of a page that nobody asks for"

    def slow() -> float:
        now[0] += 5
        return now[0]

    now[0] += 1
    together.answer("page", slow)
    together.answer("page", work)
    assert slept[1:] == [pytest.approx(LONGEST)]


def test_what_comes_during_a_write_goes_with_the_next():
    begun, go_on = threading.Event(), threading.Event()
    written: list[list[int]] = []

    def write(items: Sequence[int]) -> None:
        written.append(sorted(items))
        if len(written) == 1:
            begun.set()
            assert go_on.wait(10)

    gathered: Gathered[int] = Gathered(write)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered.write, [1])
        assert begun.wait(10)
        later = [pool.submit(gathered.write, [number]) for number in range(2, 8)]
        while len(gathered._items) < 6:
            pass
        assert not any(each.done() for each in later)
        go_on.set()
        for each in (first, *later):
            each.result(10)
    assert written == [[1], [2, 3, 4, 5, 6, 7]]


def test_a_failed_write_is_everybody_s_and_the_next_is_tried():
    def fail(_items: Sequence[int]) -> None:
        if len(tried) < 2:
            tried.append(1)
            raise LookupError("gone")

    tried: list[int] = []
    gathered: Gathered[int] = Gathered(fail)
    for _ in range(2):
        with pytest.raises(LookupError):
            gathered.write([1])
    gathered.write([1])
