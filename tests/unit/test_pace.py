"""The time that a batch still takes, estimated on pipelines that are known."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.pace import Estimate, read_runs, told
from store.queue.pace import (
    LEAST,
    MARKS,
    Beside,
    Mark,
    Pace,
    mark_number,
    pace_of,
    passed_by_work,
    seconds_left,
    typical,
)
from vocabulary import times
from vocabulary.states import STAGES


def shared(costs: list[float], total: int, chunk: int = 16, slots: int = 2) -> list[Mark]:
    """Chunks on workers as a server of two cores has them: one for `cpu`, one for `gpu`, `slots` for reports.

    A worker takes what came first to its queue; `costs` are seconds an image in each stage.
    """
    free = {"cpu": [0.0], "gpu": [0.0], "report": [0.0] * slots}
    waiting = [(0.0, number, 0, min(chunk, total - number)) for number in range(0, total, chunk)]
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
    passed, worked, marks = [0] * len(costs), [0] * len(costs), list[Mark]()
    for at, stage, n in sorted(ended):
        passed[stage] += n
        worked[stage] += round(1000 * n * costs[stage])
        marks.append(Mark(at, tuple(passed), tuple(worked)))
    return marks


def estimates(marks: list[Mark], total: int, earlier: Pace | None) -> list[Estimate]:
    """Return what is said at each change."""
    whole, kept, found = sum(marks[-1].worked), dict[int, Mark](), list[Estimate]()
    for now in marks[:-1]:
        kept.setdefault(mark_number(now.passed, total), now)
        left = seconds_left([*kept.values(), now], now, total, earlier)
        found.append(Estimate(sum(now.worked) / whole, left, marks[-1].at - now.at))
    return found


CALM = [0.010, 0.004, 0.025, 0.030, 0.075]
LARGE = [0.080, 0.004, 0.010, 0.040, 0.030]


@pytest.mark.parametrize("costs", [CALM, LARGE])
def test_a_server_that_has_read_the_like_knows_after_a_tenth(costs: list[float]) -> None:
    before = shared(costs, 400)
    said = estimates(shared(costs, 800), 800, pace_of(before, before[-1].at))
    assert all(each.left is None for each in said if each.work < 0.9 * LEAST)
    after = [each for each in said if each.work >= 1.1 * LEAST]
    assert len(after) > 100
    assert after[0].left == pytest.approx(after[0].true, rel=0.25)
    assert all(each.left == pytest.approx(each.true, rel=0.5, abs=2) for each in after)
    held = [each for each in after if each.left == pytest.approx(each.true, rel=0.25, abs=2)]
    assert len(held) > 0.6 * len(after)


def test_a_fresh_server_says_nothing_of_stages_that_it_does_not_know() -> None:
    marks = shared(CALM, 800)
    said = estimates(marks, 800, None)
    for each, mark in zip(said, marks, strict=False):
        if min(mark.passed) < 32:  # two chunks
            assert each.left is None
    assert sum(each.left is not None for each in said) > 0.5 * len(said)


def test_a_stage_that_has_not_begun_is_counted() -> None:
    """Everything is decoded and nothing is reported: reports take nearly all of the time."""
    marks = [
        Mark(1.0, (30, 30, 30, 30, 0), (300,) * 4 + (0,)),
        Mark(2.0, (60, 60, 60, 60, 0), (600,) * 4 + (0,)),
    ]
    earlier = Pace((10.0, 10.0, 10.0, 10.0, 1000.0), 2.0)
    assert seconds_left(marks, marks[-1], 60, earlier) is None, "less than a tenth of the work"
    cheap = Pace((10.0, 10.0, 10.0, 10.0, 100.0), 1.2)
    assert seconds_left(marks, marks[-1], 60, cheap) == pytest.approx(5.0, rel=0.25)
    assert seconds_left(marks, marks[-1], 60) is None


def test_what_a_batch_costs_itself_counts_and_not_its_warm_up() -> None:
    """The first chunk waited 20 s for its networks; earlier batches were of small images."""
    cold = [Mark(25.0, (8, 8), (4000, 20_000)), Mark(26.0, (16, 16), (8000, 20_100))]
    hot = Mark(27.0, (24, 24), (12_000, 20_200))
    left = seconds_left([*cold, hot], hot, 48, Pace((50.0, 12.0), 2.0))
    assert left == pytest.approx(24 * 0.5125 / 3, rel=0.4), "and not 24 images by 20 s a chunk"


def test_rejected_images_are_no_pace() -> None:
    """Three of thirty are rejected in the first second; the first chunk then waits for its networks."""
    assert passed_by_work((3, 3, 3), 3) == [0, 0, 0]


def test_batches_that_were_unlike_the_others_do_not_count() -> None:
    usual, odd = Pace((10.0, 20.0), 2.0), Pace((900.0, 1.0), 0.1)
    assert typical([usual, odd, usual]) == usual
    assert typical([]) is None
    assert pace_of([Mark(9.0, (0, 0), (0, 0))], 9.0) is None, "nothing was read"


def test_a_late_chunk_is_waited_for_without_a_jump() -> None:
    """Chunks came every 10 s, and the next takes a minute: something is left, and nothing jumps."""
    marks = [Mark(10.0 * n, (16 * n,) * 5, (2000 * n,) * 5) for n in (1, 2, 3)]
    for total in (64, 80):
        last = marks[-1]
        said = [seconds_left(marks, Mark(at, last.passed, last.worked), total) for at in range(31, 90)]
        assert None not in said
        assert all(left and left > 0 for left in said)
        assert all(abs(b - a) <= 2.0 for a, b in pairwise(said)), said  # type: ignore[operator]


def even(at: float, images: int) -> Mark:
    """Return a batch that was at each of five stages at once: 100 ms of a worker an image and stage."""
    return Mark(at, (images,) * 5, (100 * images,) * 5)


def test_what_goes_before_a_batch_counts_and_what_goes_behind_it_does_not() -> None:
    marks = [even(float(n), 4 * n) for n in range(1, 6)]  # two workers at once
    alone = seconds_left(marks, marks[-1], 60)
    assert alone == pytest.approx(10.0, rel=0.05)
    behind = Beside([even(0.0, 0)], waiting=0, in_flight=0)
    assert seconds_left(marks, marks[-1], 60, None, [behind]) == pytest.approx(alone)
    before = Beside([even(0.0, 0)], waiting=40, in_flight=0)
    assert seconds_left(marks, marks[-1], 60, None, [before]) == pytest.approx(2 * alone, rel=0.05)
    silent = Beside([even(0.0, 0)], waiting=40, in_flight=0, report=False)
    assert seconds_left(marks, marks[-1], 60, None, [silent]) == pytest.approx(1.8 * alone, rel=0.05)


def test_half_of_the_workers_are_another_batchs() -> None:
    """Both are half read, in turns: each has as long as both need."""
    ours = [even(float(n), 2 * n) for n in range(1, 11)]
    theirs = Beside([even(n + 0.5, 2 * n) for n in range(10)], waiting=0, in_flight=20)
    assert seconds_left(ours, ours[-1], 40, None, [theirs]) == pytest.approx(10.0, rel=0.1)


def test_in_flight_images_pass_as_many_stages_as_ours() -> None:
    """Ours wait for reports alone; of theirs three have one stage before them, and four all five."""
    now = Mark(1.0, (10, 10, 10, 10, 7), (1000, 1000, 1000, 1000, 700))
    beside = Beside([now], waiting=0, in_flight=7)
    assert beside.ahead([100.0] * 5, 1) == pytest.approx(0.1 * (3 + 4))
    assert beside.ahead([100.0] * 5, 5) == pytest.approx(0.1 * (3 + 4 * 5))


def test_the_warm_up_of_an_earlier_batch_says_nothing_of_what_its_images_cost() -> None:
    """Its first chunk waited 20 s for its networks."""
    marks = [Mark(20.0 + n, (8 * n,) * 2, (400 * n, 20_000 + 80 * n)) for n in range(1, 9)]
    pace = pace_of(marks, marks[-1].at)
    assert pace
    assert pace.costs == pytest.approx((50.0, 10.0))


def test_how_many_workers_are_busy_counts_those_at_other_batches() -> None:
    alone, shared_ = pace_of([even(20.0, 20)], 20.0), pace_of([even(20.0, 20)], 20.0, beside=10.0)
    assert alone
    assert shared_
    assert (alone.busy, shared_.busy) == (0.5, 1.0)


#: Read on a calm machine. The constants were chosen on other runs, in ``bench/runs/chosen``.
RUNS = {
    "the first 300 of a fresh server",
    "300 with reports",
    "900 without reports",
    "400, a quarter refused",
    "150 small and large",
    "80 large DICOM files",
    "300 beside a batch of 300",
    "900 with reports",
}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_recorded_runs(name: str) -> None:
    said = next(found for run, found in told(read_runs()) if run.name == name)
    after = [each for each in said if each.left is not None]
    assert after
    assert [each for each in after if not each.holds] == []


def test_marks_are_few() -> None:
    numbers = {mark_number((n, n, n), 100_000) for n in range(0, 100_001, 50)}
    assert len(numbers) == MARKS + 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "a few seconds left"),
        (9.9, "a few seconds left"),
        (11, "about 10 s left"),
        (24, "about 25 s left"),
        (100, "about 2 min left"),
        (5500, "about 1.5 h left"),
    ],
)
def test_no_more_is_said_than_is_known(seconds: float, words: str) -> None:
    assert times.time_left(seconds) == words
