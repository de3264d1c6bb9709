"""When a stream of findings is no longer what it was: cumulative sums of rates, and shifts of the score.

Pure functions over the counts of a day. A CUSUM (Page, 1954; for proportions: Steiner et al., 2000) adds up
how much better a day fits odds that have doubled, or halved, than those of the acceptance window. PSI
(population stability index) compares how the last days' scores fall into the tenths of that window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Logits from -8 to 8 in steps of a half; the first and last bin take what lies beyond.
LOWEST, HIGHEST, BINS = -8.0, 8.0, 32
#: Images with a score, and days, of an acceptance window.
WINDOW_IMAGES, WINDOW_DAYS = 500, 7
#: The change of odds that a CUSUM looks for, and the sum at which it says so: see docs/monitoring.md.
ODDS, LIMIT = 2.0, 9.0
#: Deviations of a window's rate that are not held against what follows: the window is a sample, too.
DOUBT = 1.0
#: Days, and images with a score, that PSI looks at; what it may reach beyond the mean of chance.
RECENT_DAYS, PSI_IMAGES, PSI_LIMIT = 7, 100, 0.2
#: Share of the last days' images that devices may have which the window did not know.
NEW_DEVICE_SHARE = 0.2
#: Days that an alarm of the last days' images is not repeated.
REST_DAYS = 7

#: What is counted of an image's triage, each among the images that were read; `rejected` among all.
RATES = ("positive", "doubt", "not_assessable", "rejected")


#: That these become fewer is no news.
FEWER_IS_FINE = frozenset({"not_assessable", "rejected"})


@dataclass
class Counts:
    """What came of some images.

    Attributes
    ----------
    n, rejected
        Images that ended, and those of them that could not be read.
    logits
        How many scores fall into each of `BINS` and beside them: below, then each, then above.
    devices
        Images by device.
    """

    n: int = 0
    positive: int = 0
    doubt: int = 0
    not_assessable: int = 0
    rejected: int = 0
    logits: list[int] = field(default_factory=lambda: [0] * (BINS + 2))
    devices: dict[str, int] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        """Images with a score."""
        return sum(self.logits)

    def of(self, rate: str) -> tuple[int, int]:
        """Return how many images a rate counts, and among how many."""
        return int(getattr(self, rate)), self.n if rate == "rejected" else self.n - self.rejected

    def add(self, other: Counts) -> None:
        """Add what came of other images."""
        self.n += other.n
        for rate in RATES:
            setattr(self, rate, getattr(self, rate) + getattr(other, rate))
        self.logits = [a + b for a, b in zip(self.logits, other.logits, strict=True)]
        for device, n in other.devices.items():
            self.devices[device] = self.devices.get(device, 0) + n


def total(days: Iterable[Counts]) -> Counts:
    """Return the sum of some days."""
    found = Counts()
    for day in days:
        found.add(day)
    return found


def expected(baseline: Counts, rate: str, deviations: float = 0.0) -> float:
    """Return a rate of the acceptance window, or what lies some deviations of its estimate beside it.

    It is never quite 0 or 1.
    """
    k, n = baseline.of(rate)
    p = (k + 0.5) / (n + 1)
    beside = p + deviations * math.sqrt(p * (1 - p) / (n + 1))
    return min(max(beside, 0.5 / (n + 1)), 1 - 0.5 / (n + 1))


def cusum_step(score: float, k: int, n: int, p: float, odds: float) -> float:
    """Return the sum after a day with `k` of `n`, for odds of `p` that are multiplied by `odds`."""
    other = odds * p / (1 - p + odds * p)
    gain = k * math.log(other / p) + (n - k) * math.log((1 - other) / (1 - p))
    return max(0.0, score + gain)


def tenths(logits: Sequence[int]) -> list[range]:
    """Return the bins that together hold about a tenth of the window each."""
    groups: list[range] = []
    start, held, whole = 0, 0, sum(logits)
    for bin_, n in enumerate(logits):
        held += n
        if held * 10 >= whole * (len(groups) + 1) and start <= bin_ and len(groups) < 9:
            groups.append(range(start, bin_ + 1))
            start = bin_ + 1
    return [*groups, range(start, len(logits))] if start < len(logits) else groups


def psi(baseline: Sequence[int], recent: Sequence[int]) -> float:
    """Return the population stability index, less what chance alone gives on average; never below 0.

    That mean is (groups - 1) (1/n + 1/m) for samples of n and m (Yurdakul and Naranjo, 2020).
    """
    groups = tenths(baseline)
    n, m = sum(baseline), sum(recent)
    found = 0.0
    for group in groups:
        before = (sum(baseline[b] for b in group) + 0.5) / (n + 0.5 * len(groups))
        now = (sum(recent[b] for b in group) + 0.5) / (m + 0.5 * len(groups))
        found += (now - before) * math.log(now / before)
    return max(0.0, found - (len(groups) - 1) * (1 / n + 1 / m))


@dataclass(frozen=True)
class Alarm:
    """Something that is no longer as it was.

    Attributes
    ----------
    signal
        A rate with ``up`` or ``down`` (``positive up``), ``score`` or ``device``.
    value, limit
        What was reached, and what may be.
    """

    signal: str
    value: float
    limit: float


@dataclass
class Watch:
    """A frozen acceptance window, and the sums that have gathered since.

    Attributes
    ----------
    sums
        Signal -> sum.
    rests
        Signal -> days for which it is not repeated.
    """

    baseline: Counts
    sums: dict[str, float] = field(default_factory=dict)
    rests: dict[str, int] = field(default_factory=dict)

    def advance(self, day: Counts, recent: Counts) -> list[Alarm]:
        """Take a day in, with the sum of the last `RECENT_DAYS`; return what it shows.

        A sum that reached its limit starts anew.
        """
        found = []
        for rate in RATES:
            for word, odds in (("up", ODDS), ("down", 1 / ODDS)):
                if word == "down" and rate in FEWER_IS_FINE:
                    continue
                p = expected(self.baseline, rate, DOUBT if odds > 1 else -DOUBT)
                signal = f"{rate} {word}"
                value = cusum_step(self.sums.get(signal, 0.0), *day.of(rate), p, odds)
                if value >= LIMIT:
                    found.append(Alarm(signal, value, LIMIT))
                    value = 0.0
                self.sums[signal] = value
        self.rests = {signal: left - 1 for signal, left in self.rests.items() if left > 1}
        for alarm in self._of_recent(recent):
            if alarm.signal not in self.rests:
                found.append(alarm)
                self.rests[alarm.signal] = REST_DAYS
        return found

    def _of_recent(self, recent: Counts) -> list[Alarm]:
        if recent.scored < PSI_IMAGES:
            return []
        found = []
        shift = psi(self.baseline.logits, recent.logits)
        if shift >= PSI_LIMIT:
            found.append(Alarm("score", shift, PSI_LIMIT))
        share = self.new_share(recent.devices)
        if share >= NEW_DEVICE_SHARE:
            found.append(Alarm("device", share, NEW_DEVICE_SHARE))
        return found

    def new_share(self, devices: Mapping[str, int]) -> float:
        """Return which share of images came from devices that the window does not know."""
        new = sum(n for device, n in devices.items() if device not in self.baseline.devices)
        return new / max(1, sum(devices.values()))
