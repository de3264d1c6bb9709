"""The rules of monitoring, against sums made by hand and streams that are drawn."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pytest

from bench.drift import CHANGES, Stream, delays, quiet
from store.operations import drift_statistics as rules
from store.operations.drift_statistics import (
    DISTANCE_BINS,
    Counts,
    Part,
    Watch,
    advance_parts,
    cusum_step,
    expected,
    far_from,
    median_distance,
    part_limit,
    psi,
    tenths,
)


def test_a_sum_grows_with_what_fits_the_change_better_and_never_falls_below_nothing() -> None:
    # p = 0.2 against odds of twice 0.25: 1/3
    hit, miss = math.log((1 / 3) / 0.2), math.log((2 / 3) / 0.8)
    assert cusum_step(1.0, 3, 10, 0.2, 2.0) == pytest.approx(1.0 + 3 * hit + 7 * miss)
    assert cusum_step(0.5, 0, 100, 0.2, 2.0) == 0.0
    assert cusum_step(0.0, 0, 0, 0.2, 2.0) == 0.0
    assert cusum_step(0.0, 0, 100, 0.2, 0.5) > 0


def test_the_rate_of_a_window_is_never_certain() -> None:
    window = Counts(n=100, positive=20, rejected=20)
    assert expected(window, "positive") == pytest.approx(20.5 / 81)
    assert expected(window, "rejected") == pytest.approx(20.5 / 101)
    assert (
        0 < expected(window, "positive", -1) < expected(window, "positive") < expected(window, "positive", 1)
    )
    assert 0 < expected(window, "doubt", -9) <= expected(window, "doubt") < 1


def test_tenths_hold_about_a_tenth_each_and_all_of_it() -> None:
    logits = [int(n) for n in np.random.default_rng(1).poisson(40, rules.BINS + 2)]
    groups = tenths(logits)
    assert len(groups) == 10
    assert [bin_ for group in groups for bin_ in group] == list(range(rules.BINS + 2))
    assert tenths([0] * 33 + [50]) == [range(34)]


def test_a_shift_is_told_from_chance() -> None:
    rng = np.random.default_rng(2)
    base, same, other = (
        Stream(shift=shift).day(rng, n).logits for shift, n in ((0, 2000), (0, 400), (1.0, 400))
    )
    assert psi(base, base) == 0
    assert psi(base, same) < 0.05
    assert psi(base, other) > rules.PSI_LIMIT


def test_an_alarm_starts_its_sum_anew_and_one_of_the_week_rests() -> None:
    window = Counts(n=1000, positive=100, logits=[0] * 16 + [1000] + [0] * 17, devices={"a": 1000})
    watch = Watch(window)
    day = Counts(n=100, positive=60, logits=[0] * 30 + [100] + [0] * 3, devices={"b": 100})
    first = {alarm.signal for alarm in watch.advance(day, day)}
    assert first == {"positive up", "score", "device"}
    assert watch.sums["positive up"] == 0.0
    for _ in range(rules.REST_DAYS - 1):
        assert {alarm.signal for alarm in watch.advance(day, day)} == {"positive up"}
    assert {alarm.signal for alarm in watch.advance(day, day)} == first


def distances(**bins: int) -> list[int]:
    found = [0] * (DISTANCE_BINS + 2)
    for name, n in bins.items():
        found[int(name[1:])] = n
    return found


def test_a_median_distance_is_told_within_its_bin() -> None:
    assert median_distance(distances()) is None
    # bin 17 begins at 2 ** (-2 + 16 / 8) = 1, and ends an eighth of a doubling later
    assert median_distance(distances(b17=8)) == pytest.approx(2 ** (1 / 16))
    assert median_distance(distances(b9=4, b17=4, b20=1)) == pytest.approx(2 ** (1 / 64))
    assert median_distance(distances(b0=9)) == 0.25
    assert median_distance([*distances()[:-1], 9]) == 1024
    lognormal = Stream().day(np.random.default_rng(3), 4000).distances
    assert median_distance(lognormal) == pytest.approx(2**3.8, rel=0.03)


def test_far_is_what_at_most_half_of_a_window_is() -> None:
    assert far_from(distances(b10=5, b11=5)) == 11
    assert far_from(distances(b10=4, b11=6)) == 12
    assert far_from(distances(b10=9)) == 11, "all alike: farther is farther than any"


def test_images_farther_from_the_training_data_raise_an_alarm() -> None:
    rng = np.random.default_rng(4)
    usual, far = Stream(), Stream(farther=0.26)
    watch = Watch(usual.day(rng, 700))
    for _ in range(20):
        assert not watch.advance(usual.day(rng, 100), Counts())
    assert [alarm.signal for alarm in watch.advance(far.day(rng, 100), Counts())] == ["distance up"]


def test_a_window_of_an_earlier_version_has_no_distances_to_hold_any_against() -> None:
    rng = np.random.default_rng(4)
    window = Stream().day(rng, 700)
    window.distances = [0] * (DISTANCE_BINS + 2)
    watch = Watch(window)
    for _ in range(10):
        watch.advance(Stream(farther=2.0).day(rng, 100), Counts())
    assert "distance up" not in watch.sums


def test_a_part_has_its_own_window_and_a_higher_limit_among_many() -> None:
    rng = np.random.default_rng(5)
    parts: dict[str, Part] = {}
    start = date(2026, 1, 1)
    days: dict[str, dict[date, Counts]] = {"device busy": {}, "device rare": {}}
    for n in range(10):
        day = start + timedelta(days=n)
        days["device busy"][day] = Stream().day(rng, 50)
        if n % 3 == 0:
            days["device rare"][day] = Stream().day(rng, 50)
        assert not advance_parts(parts, days, day)
    assert parts["device busy"].frozen_on == start + timedelta(days=6)
    assert parts["device rare"].frozen_on is None
    assert parts["device rare"].days == 4
    assert part_limit(parts) == rules.LIMIT
    assert part_limit({str(n): Part(frozen_on=start) for n in range(8)}) == rules.LIMIT + math.log(8)
    day = start + timedelta(days=10)
    days["device busy"][day] = Stream(prevalence=0.8).day(rng, 50)
    ((name, alarm),) = [each for each in advance_parts(parts, days, day) if each[1].signal == "positive up"]
    assert name == "device busy"
    assert alarm.value >= alarm.limit == rules.LIMIT


def test_strangers_open_no_windows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_PARTS", 3)
    parts: dict[str, Part] = {}
    day = date(2026, 1, 1)
    advance_parts(parts, {f"device {n}": {day: Counts(n=1)} for n in range(9)}, day)
    assert len(parts) == 3


def test_quiet_months_are_quiet_and_changes_are_seen_in_time() -> None:
    per_year, months = quiet(3, 100, seed=1)
    assert per_year < 2.5
    assert months > 0.85
    slowest = {
        "scores up by 0.7": 21,
        "scores up by 0.7 on one device (30%)": 40,
        "prevalence doubled in one region (40%)": 10,
    }
    for name, change in CHANGES.items():
        assert np.median(delays(change, 3, 100, seed=1)) <= slowest.get(name, 5), name
