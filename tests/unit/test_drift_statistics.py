"""The rules of monitoring, against sums made by hand and streams that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.drift import CHANGES, Stream, delays, quiet
from store.operations import drift_statistics as rules
from store.operations.drift_statistics import Counts, Watch, cusum_step, expected, psi, tenths


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


def test_quiet_months_are_quiet_and_changes_are_seen_in_time() -> None:
    per_year, months = quiet(8, 100, seed=1)
    assert per_year < 1.5
    assert months > 0.9
    slowest = {"scores up by 0.7 on the same device": 14}
    for name, change in CHANGES.items():
        assert np.median(delays(change, 8, 100, seed=1)) <= slowest.get(name, 4), name
