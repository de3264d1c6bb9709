"""The time that a batch still takes, estimated on pipelines that are known."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.pace import read_runs
from store.queue.pace import MARKS, Mark, mark_number, passed_by_work, seconds_left
from vocabulary.states import STAGES


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
    one = Mark(21.0, (27, 27, 16))
    assert seconds_left([at_first, prepared, half], one, 27) is None  # one chunk is no pace yet


def shared(costs: list[float], total: int, chunk: int = 16, slots: int = 2) -> list[list[float]]:
    """Chunks on workers as a server of two cores has them: one for `cpu`, one for `gpu`, `slots` for reports.

    A worker takes what came first to its queue; `costs` are seconds an image in each stage.
    """
    free = {"cpu": [0.0], "gpu": [0.0], "report": [0.0] * slots}
    waiting = [(0.0, number, 0, min(chunk, total - number)) for number in range(0, total, chunk)]
    passed, samples = [0] * len(costs), list[list[float]]()
    ended: list[tuple[float, int, int]] = []
    while waiting:
        starts = [(max(came, min(free[STAGES[stage].queue])), came, first, stage, n)
                  for came, first, stage, n in waiting]  # fmt: skip
        start, came, first, stage, n = min(starts)
        waiting.remove((came, first, stage, n))
        workers = free[STAGES[stage].queue]
        end = start + costs[stage] * n
        workers[workers.index(min(workers))] = end
        ended.append((end, stage, n))
        if stage + 1 < len(costs):
            waiting.append((end, first, stage + 1, n))
    for at, stage, n in sorted(ended):
        passed[stage] += n
        samples.append([at, *passed])
    return samples


@pytest.mark.parametrize(
    "costs",
    [
        [0.004, 0.004, 0.025, 0.007, 0.075],  # as measured: reports decide
        [0.040, 0.004, 0.010, 0.040, 0.010],  # large films: the worker that decodes also draws
    ],
)
def test_stages_that_share_a_worker_are_estimated_together(costs: list[float]) -> None:
    """Each pass of a worker's two stages counts alike, whatever it costs: that is what the 40% are for."""
    told = [(left, true) for share, left, true in estimates(shared(costs, 800), 800) if share >= 0.1]
    assert len(told) > 30
    for left, true in told:
        assert left is not None
        assert left == pytest.approx(true, rel=0.4, abs=2)


def test_a_stage_that_waited_for_its_worker_is_not_slow_for_that() -> None:
    """40 films a second time on the worker that decodes: the first is drawn when all are decoded."""
    samples = shared([0.040, 0.004, 0.010, 0.040, 0.010], 200)
    told = [(left, true) for share, left, true in estimates(samples, 200) if share >= 0.1]
    assert all(left == pytest.approx(true, rel=0.25, abs=2) for left, true in told)


def test_a_late_chunk_is_waited_for_without_a_jump() -> None:
    """Chunks came every 10 s, and the next takes a minute: something is left, and nothing jumps."""
    marks = [Mark(10.0, (16, 16, 16, 16, 16)), Mark(20.0, (32, 32, 32, 32, 32))]
    for total, slowest in ((48, 2.5), (64, 36.0)):
        told = [seconds_left(marks, Mark(at, marks[-1].passed), total) for at in range(21, 80)]
        assert None not in told
        assert all(left and left > 0 for left in told)
        assert all(abs(b - a) <= 2.0 for a, b in pairwise(told)), told  # type: ignore[operator]
        assert max(told[10:]) <= slowest  # type: ignore[type-var,operator]


@pytest.mark.parametrize(
    ("name", "off"), [("the first 60 of a fresh server", 0.25), ("120 without reports", 0.5)]
)
def test_real_runs(name: str, off: float) -> None:
    """Two of the recorded runs, by their first estimate; `bench.pace` prints all: others are further off."""
    run = next(run for run in read_runs() if run.name == name)
    told = next((left, true) for share, left, true in run.estimates() if share >= 0.1 and left is not None)
    assert told[0] == pytest.approx(told[1], rel=off)


def test_marks_are_few() -> None:
    numbers = {mark_number((n, n, n), 100_000) for n in range(0, 100_001, 50)}
    assert len(numbers) == MARKS + 1
