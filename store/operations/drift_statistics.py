"""When a stream of findings is no longer what it was: cumulative sums of rates, and shifts of the score.

Pure functions over the counts of a day. A CUSUM (Page, 1954; for proportions: Steiner et al., 2000) adds up
how much better a day fits odds that have doubled, or halved, than those of the acceptance window. PSI
(population stability index) compares how the last days' scores fall into the tenths of that window. Each
region and each device is held against a window of its own, too: a change in one of many would drown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

#: Logits from -8 to 8 in steps of a half; the first and last bin take what lies beyond.
LOWEST, HIGHEST, BINS = -8.0, 8.0, 32
#: Distances to the training data from 1/4 to 1,024 in eighths of a doubling; beside them as with logits.
NEAREST_OCTAVE, FARTHEST_OCTAVE, DISTANCE_BINS = -2, 10, 96
#: Images with a score, and days, of an acceptance window; images of a region's or a device's.
WINDOW_IMAGES, WINDOW_DAYS, PART_IMAGES = 500, 7, 200
#: The change of odds that a CUSUM looks for, and the sum at which it says so: see docs/monitoring.md.
ODDS, LIMIT = 2.0, 9.0
#: Deviations of a window's rate that are not held against what follows: the window is a sample, too, and that
#: of a region or device a small one.
DOUBT, PART_DOUBT = 1.0, 2.0
#: Days, and images with a score, that PSI looks at (of a region or device: images); what it may reach
#: beyond the mean of chance.
RECENT_DAYS, PSI_IMAGES, PART_PSI_IMAGES, PSI_LIMIT = 7, 100, 200, 0.2
#: Share of the last days' images that devices may have which the window did not know.
NEW_DEVICE_SHARE = 0.2
#: Days that an alarm of the last days' images is not repeated.
REST_DAYS = 7
#: Regions and devices that are watched by themselves: those that came first.
MAX_PARTS = 500

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
    distances
        How many distances to the training data fall into each of `DISTANCE_BINS` and beside them.
    """

    n: int = 0
    positive: int = 0
    doubt: int = 0
    not_assessable: int = 0
    rejected: int = 0
    logits: list[int] = field(default_factory=lambda: [0] * (BINS + 2))
    devices: dict[str, int] = field(default_factory=dict)
    distances: list[int] = field(default_factory=lambda: [0] * (DISTANCE_BINS + 2))

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
        self.distances = [a + b for a, b in zip(self.distances, other.distances, strict=True)]
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
    return _estimate(*baseline.of(rate), deviations)


def _estimate(k: int, n: int, deviations: float) -> float:
    p = (k + 0.5) / (n + 1)
    beside = p + deviations * math.sqrt(p * (1 - p) / (n + 1))
    return min(max(beside, 0.5 / (n + 1)), 1 - 0.5 / (n + 1))


def cusum_step(score: float, k: int, n: int, p: float, odds: float) -> float:
    """Return the sum after a day with `k` of `n`, for odds of `p` that are multiplied by `odds`."""
    other = odds * p / (1 - p + odds * p)
    gain = k * math.log(other / p) + (n - k) * math.log((1 - other) / (1 - p))
    return max(0.0, score + gain)


def median_distance(distances: Sequence[int]) -> float | None:
    """Return the median of distances, as exactly as their bins tell it; None where there are none."""
    half = sum(distances) / 2
    if not half:
        return None
    held = 0.0
    for bin_, n in enumerate(distances):
        if n and held + n >= half:
            inside = bin_ - 1 + (half - held) / n if 0 < bin_ <= DISTANCE_BINS else min(bin_, DISTANCE_BINS)
            octaves = FARTHEST_OCTAVE - NEAREST_OCTAVE
            return float(2.0 ** (NEAREST_OCTAVE + inside * octaves / DISTANCE_BINS))
        held += n
    raise AssertionError


def far_from(distances: Sequence[int]) -> int:
    """Return the first bin from which on at most half of a window's distances lie."""
    beyond = sum(distances)
    half = beyond / 2
    for bin_, n in enumerate(distances):
        if beyond <= half:
            return bin_
        beyond -= n
    return len(distances)


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
        A rate with ``up`` or ``down`` (``positive up``), ``distance up``, ``score`` or ``device``.
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
    limit
        What a sum may reach.
    psi_images
        Images with a score without which PSI says nothing.
    doubt
        Deviations of the window's rates that are not held against what follows.
    """

    baseline: Counts
    sums: dict[str, float] = field(default_factory=dict)
    rests: dict[str, int] = field(default_factory=dict)
    limit: float = LIMIT
    psi_images: int = PSI_IMAGES
    doubt: float = DOUBT

    def advance(self, day: Counts, recent: Counts) -> list[Alarm]:
        """Take a day in, with the sum of the last `RECENT_DAYS`; return what it shows.

        A sum that reached its limit starts anew.
        """
        found = []
        for rate in RATES:
            for word, odds in (("up", ODDS), ("down", 1 / ODDS)):
                if word == "down" and rate in FEWER_IS_FINE:
                    continue
                p = expected(self.baseline, rate, self.doubt if odds > 1 else -self.doubt)
                found += self._sum(f"{rate} {word}", *day.of(rate), p, odds)
        if window := sum(self.baseline.distances):  # frozen by an earlier version, it has none
            far = far_from(self.baseline.distances)
            p = _estimate(sum(self.baseline.distances[far:]), window, self.doubt)
            found += self._sum("distance up", sum(day.distances[far:]), sum(day.distances), p, ODDS)
        self.rests = {signal: left - 1 for signal, left in self.rests.items() if left > 1}
        for alarm in self._of_recent(recent):
            if alarm.signal not in self.rests:
                found.append(alarm)
                self.rests[alarm.signal] = REST_DAYS
        return found

    def _sum(self, signal: str, k: int, n: int, p: float, odds: float) -> list[Alarm]:
        value = cusum_step(self.sums.get(signal, 0.0), k, n, p, odds)
        reached = value >= self.limit
        self.sums[signal] = 0.0 if reached else value
        return [Alarm(signal, value, self.limit)] if reached else []

    def _of_recent(self, recent: Counts) -> list[Alarm]:
        if recent.scored < self.psi_images:
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


@dataclass
class Part:
    """A region or a device by itself: its acceptance window, and the sums that gather once it is full.

    Attributes
    ----------
    counts, days
        What the window has, of how many days with images.
    frozen_on
        Its last day; None while it is open.
    """

    counts: Counts = field(default_factory=Counts)
    days: int = 0
    frozen_on: date | None = None
    sums: dict[str, float] = field(default_factory=dict)
    rests: dict[str, int] = field(default_factory=dict)

    def take(self, day: date, counts: Counts) -> None:
        """Take a day into the open window; close it once it has enough."""
        self.counts.add(counts)
        self.days += 1
        if self.days >= WINDOW_DAYS and self.counts.scored >= PART_IMAGES:
            self.frozen_on = day


def part_limit(parts: Mapping[str, Part]) -> float:
    """Return what a part's sum may reach: more, the more there are, so that all together alarm as seldom.

    A sum reaches a limit by chance about ``exp(-limit)`` times as often.
    """
    return LIMIT + math.log(max(1, sum(part.frozen_on is not None for part in parts.values())))


def advance_parts(
    parts: dict[str, Part], days: Mapping[str, Mapping[date, Counts]], day: date
) -> list[tuple[str, Alarm]]:
    """Take a day of every region and device in; return what it shows, and of which.

    Parameters
    ----------
    parts
        By name; those that are new are added.
    days
        Name -> day -> what came of it, at least of the last `RECENT_DAYS`.
    """
    limit, found = part_limit(parts), []
    for name in sorted(days):
        counts = days[name].get(day, Counts())
        if name not in parts and counts.n and len(parts) < MAX_PARTS:
            parts[name] = Part()
        part = parts.get(name)
        if part is None:
            continue
        if part.frozen_on is None:
            if counts.n:
                part.take(day, counts)
            continue
        near = (day - timedelta(days=n) for n in range(RECENT_DAYS))
        recent = total(days[name][each] for each in near if each in days[name] and each > part.frozen_on)
        recent.devices = {}  # whether a device is new is a question to all images
        watch = Watch(part.counts, part.sums, part.rests, limit, PART_PSI_IMAGES, PART_DOUBT)
        found += [(name, alarm) for alarm in watch.advance(counts, recent)]
        part.sums, part.rests = watch.sums, watch.rests
    return found
