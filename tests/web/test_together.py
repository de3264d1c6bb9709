"""Who asks for the same at the same time shares one answer, and gets none from before they asked."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from web.base.together import Together


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
