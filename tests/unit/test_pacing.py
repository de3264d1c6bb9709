"""Turns: whoever watches alone is not held up, and many together ask no more often than the server bears."""

import heapq

import pytest

from web.base.pacing import LATEST, SOONEST, Turns


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked(watchers: int, seconds: float, quickest: float = 1.5) -> list[float]:
    """Return when watchers who obey ask, all of whom begin at once."""
    clock, times = Clock(), []
    turns = Turns(5.0, clock)
    waiting = [clock.now] * watchers
    while waiting[0] < 1000 + seconds:
        clock.now = heapq.heappop(waiting)
        times.append(clock.now)
        heapq.heappush(waiting, clock.now + max(quickest, turns.take()))
    return times


def test_a_few_ask_as_often_as_they_like() -> None:
    assert len(asked(1, 60)) == pytest.approx(60 / 1.5, abs=2)
    assert len(asked(5, 60)) == pytest.approx(5 * 60 / 1.5, abs=10)


@pytest.mark.parametrize("watchers", [20, 100])
def test_many_ask_together_as_often_as_the_server_bears(watchers: int) -> None:
    times = asked(watchers, 120)
    later = [when for when in times if when > 1000]  # the first time all came unasked
    assert len(later) <= 5 * 120 + watchers
    assert len(later) >= 0.8 * 5 * 120


def test_nobody_waits_for_longer_than_the_longest() -> None:
    clock = Clock()
    turns = Turns(5.0, clock)
    told = [turns.take() for _ in range(1000)]
    assert told[0] == SOONEST
    assert max(told) == LATEST
    clock.now += 3600
    assert turns.take() == SOONEST


def test_what_costs_more_takes_more_turns() -> None:
    clock = Clock()
    turns = Turns(5.0, clock)
    turns.take(10)
    assert turns.take() == pytest.approx(SOONEST + 2)
