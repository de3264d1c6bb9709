"""The time that a batch still takes, estimated on pipelines that are known."""

from __future__ import annotations

import pytest

from store.queue.pace import MARKS, Mark, mark_number, passed_by_work, seconds_left


def estimates(samples: list[list[float]], total: int) -> list[tuple[float, float | None, float]]:
    """Return (share of the work, estimated seconds left, true ones) at each change, as the server would."""
    marks: dict[int, Mark] = {}
    found = []
    end = next(at for at, *passed in samples if min(passed) >= total)
    before: tuple[int, ...] = ()
    for at, *counts in samples:
        passed = tuple(int(n) for n in counts)
        if passed == before or not any(passed) or at >= end:
            continue
        before = passed
        now = Mark(at, passed)
        marks.setdefault(mark_number(passed, total), now)
        share = min(passed) / total  # of the images, those that are done
        found.append((share, seconds_left(list(marks.values()), now, total), end - at))
    return found


def steady(rates: list[float], total: int, step: float = 1.0) -> list[list[float]]:
    """A pipeline whose stages each have a pace of their own, and none gets ahead of the one before."""
    samples: list[list[float]] = []
    done = [0.0] * len(rates)
    at = 0.0
    while done[-1] < total:
        at += step
        above = float(total)
        for n, rate in enumerate(rates):
            above = done[n] = min(above, done[n] + rate * step)
        samples.append([at, *(int(n) for n in done)])
    return samples


@pytest.mark.parametrize("rates", [[10, 10, 3, 10, 10], [3, 10, 10, 10, 10], [10, 10, 10, 10, 3]])
def test_the_slowest_stage_decides(rates: list[float]) -> None:
    for share, left, true in estimates(steady(rates, 600), 600):
        if share >= 0.1:
            assert left == pytest.approx(true, rel=0.25, abs=2)


def test_nothing_is_said_before_there_is_a_pace() -> None:
    assert seconds_left([], Mark(1.0, (5, 0)), 10) is None
    assert seconds_left([Mark(0.0, (0, 0))], Mark(1.0, (0, 0)), 10) is None


def test_rejected_images_are_no_pace() -> None:
    """Three of thirty are rejected in the first second; the first chunk then waits for its networks."""
    assert passed_by_work((3, 3, 3), 3) == [0, 0, 0]
    at_first = Mark(1.0, (0, 0, 0))
    prepared = Mark(2.0, (16, 0, 0))
    assert seconds_left([at_first], prepared, 27) is None
    half = Mark(20.0, (27, 16, 0))
    assert seconds_left([at_first, prepared], half, 27) is None
    left = seconds_left([at_first, prepared, half], Mark(21.0, (27, 27, 16)), 27)
    assert left is not None
    assert left < 10


def test_marks_are_few() -> None:
    numbers = {mark_number((n, n, n), 100_000) for n in range(0, 100_001, 50)}
    assert len(numbers) == MARKS + 1
