"""How soon monitoring sees a change, and how often it sees one that is none: ``python -m bench.drift``.

Images of a hospital with three devices and two regions are drawn, windows are frozen, and the service's own
rules watch what follows: all images, each device and each region.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from store.operations import drift_statistics as rules
from store.operations.drift_statistics import (
    BINS,
    DISTANCE_BINS,
    FARTHEST_OCTAVE,
    HIGHEST,
    LOWEST,
    NEAREST_OCTAVE,
    Counts,
    Part,
    Watch,
)

#: A year of quiet, and as long as a change is waited for, in days.
QUIET_DAYS, PATIENCE_DAYS = 365, 60
#: The first bins of scores that are in doubt (from -1.5) and positive (from 0.5).
DOUBT, POSITIVE = (int((cut - LOWEST) * BINS / (HIGHEST - LOWEST)) + 1 for cut in (-1.5, 0.5))
#: Shares of all images.
DEVICES = {"a": 0.5, "b": 0.3, "c": 0.2}
REGIONS = {"hand": 0.6, "leg": 0.4}


@dataclass(frozen=True)
class Stream:
    """What an image is drawn from.

    Attributes
    ----------
    prevalence
        Share of fractures; their logits have mean 2, the others' -3, both with deviation 1.5.
    shift, flatten
        What is added to a logit, and how far it is drawn towards 0 (1: all the way).
    not_assessable, rejected
        Shares.
    farther
        By how many doublings images are farther from the training data; the logarithms of distances are
        normal, with a deviation of a quarter of a doubling.
    """

    prevalence: float = 0.18
    shift: float = 0.0
    flatten: float = 0.0
    not_assessable: float = 0.04
    rejected: float = 0.01
    farther: float = 0.0
    device: str = "a"

    def day(self, rng: np.random.Generator, images: float) -> Counts:
        """Draw a day of about so many images."""
        return _counts(self.draw(rng, images), {self.device})

    def draw(self, rng: np.random.Generator, images: float) -> npt.NDArray[np.int64]:
        """Draw a day as one row of numbers, as `_counts` takes it."""
        n = rng.poisson(images)
        rejected = rng.binomial(n, self.rejected)
        unassessed = rng.binomial(n - rejected, self.not_assessable)
        bins = rng.multinomial(n - rejected - unassessed, _logits(self))
        distances = rng.multinomial(n - rejected, _distances(self))
        counts = (n, bins[POSITIVE:].sum(), bins[DOUBT:POSITIVE].sum(), unassessed, rejected)
        return np.concatenate([counts, bins, distances])


def _counts(row: npt.NDArray[np.int64], devices: Iterable[str] = ()) -> Counts:
    numbers = row.tolist()
    first, second = numbers[5 : 5 + BINS + 2], numbers[5 + BINS + 2 :]
    named = dict.fromkeys(devices, numbers[0]) if numbers[0] else {}
    return Counts(*numbers[:5], first, named, second)


@cache
def _logits(stream: Stream) -> npt.NDArray[np.float64]:
    edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
    width = 1.5 * (1 - stream.flatten)
    shares = {2.0: stream.prevalence, -3.0: 1 - stream.prevalence}
    below = np.zeros(BINS + 1)
    for mean, share in shares.items():
        below += share * _below(edges, mean * (1 - stream.flatten) + stream.shift, width)
    return np.diff(np.concatenate([[0.0], below, [1.0]]))


@cache
def _distances(stream: Stream) -> npt.NDArray[np.float64]:
    edges = np.linspace(NEAREST_OCTAVE, FARTHEST_OCTAVE, DISTANCE_BINS + 1)
    return np.diff(np.concatenate([[0.0], _below(edges, 3.8 + stream.farther, 0.25), [1.0]]))


def _below(edges: npt.NDArray[np.float64], mean: float, deviation: float) -> npt.NDArray[np.float64]:
    drawn = NormalDist(mean, deviation)
    return np.array([drawn.cdf(edge) for edge in edges])


Change = Callable[[Stream], Stream]


@dataclass(frozen=True)
class Hospital:
    """What comes from each device of each region."""

    streams: dict[tuple[str, str], Stream] = field(
        default_factory=lambda: {(r, d): Stream(device=d) for r in REGIONS for d in DEVICES}
    )

    def with_change(self, change: Change, device: str | None = None, region: str | None = None) -> Hospital:
        """Change what comes, of one device or region alone where one is named."""
        return Hospital(
            {
                (r, d): change(stream) if device in {None, d} and region in {None, r} else stream
                for (r, d), stream in self.streams.items()
            }
        )

    def day(self, rng: np.random.Generator, images: int) -> dict[str, Counts]:
        """Draw a day; return it for all images (under an empty name), each region and each device.

        What is rejected has no region.
        """
        rows: dict[str, npt.NDArray[np.int64]] = {}
        devices: dict[str, int] = {}
        for (region, device), stream in self.streams.items():
            row = stream.draw(rng, images * REGIONS[region] * DEVICES[device])
            devices[stream.device] = devices.get(stream.device, 0) + int(row[0])
            of_region = row.copy()
            of_region[0] -= row[4]
            of_region[4] = 0
            for name, part in (
                ("", row),
                (f"device {stream.device}", row),
                (f"region {region}", of_region),
            ):
                rows[name] = rows[name] + part if name in rows else part
        found = {name: _counts(row) for name, row in rows.items()}
        found[""].devices = devices
        return found


def _inverted(s: Stream) -> Stream:
    return replace(s, flatten=0.5, not_assessable=0.1, farther=0.3)


CHANGES: dict[str, Callable[[Hospital], Hospital]] = {
    "prevalence doubled": lambda h: h.with_change(lambda s: replace(s, prevalence=2 * s.prevalence)),
    "inverted LUT": lambda h: h.with_change(_inverted),
    "changed scanner": lambda h: h.with_change(lambda s: replace(s, shift=0.7, device=f"new {s.device}")),
    "a tenth rejected": lambda h: h.with_change(lambda s: replace(s, rejected=0.1)),
    "scores up by 0.7": lambda h: h.with_change(lambda s: replace(s, shift=0.7)),
    "distances longer by a fifth": lambda h: h.with_change(lambda s: replace(s, farther=0.26)),
    "inverted LUT on one device (30%)": lambda h: h.with_change(_inverted, device="b"),
    "scores up by 0.7 on one device (30%)": lambda h: h.with_change(
        lambda s: replace(s, shift=0.7), device="b"
    ),
    "prevalence doubled in one region (40%)": lambda h: h.with_change(
        lambda s: replace(s, prevalence=2 * s.prevalence), region="leg"
    ),
}


class Watched:
    """The service's rules over days that are drawn."""

    def __init__(self, hospital: Hospital, rng: np.random.Generator, images: int) -> None:
        self.hospital, self._rng, self._images = hospital, rng, images
        self._day = date(2026, 1, 1)
        self._days: dict[str, dict[date, Counts]] = {}
        self._parts: dict[str, Part] = {}
        window: list[Counts] = []
        while len(window) < rules.WINDOW_DAYS or sum(each.scored for each in window) < rules.WINDOW_IMAGES:
            self._draw()
            rules.advance_parts(self._parts, self._of_parts(), self._day)
            window.append(self._days[""][self._day])
        self._watch = Watch(rules.total(window))
        self._frozen = self._day

    def _draw(self) -> None:
        self._day += timedelta(days=1)
        oldest = self._day - timedelta(days=rules.RECENT_DAYS)
        for name, counts in self.hospital.day(self._rng, self._images).items():
            self._days.setdefault(name, {})[self._day] = counts
        for days in self._days.values():
            days.pop(oldest, None)

    def _of_parts(self) -> dict[str, dict[date, Counts]]:
        return {name: days for name, days in self._days.items() if name}

    def alarms(self) -> Iterator[list[str]]:
        """Yield the signals of each day."""
        while True:
            self._draw()
            day = self._days[""]
            recent = rules.total(counts for each, counts in day.items() if each > self._frozen)
            found = self._watch.advance(day[self._day], recent)
            found += [alarm for _, alarm in rules.advance_parts(self._parts, self._of_parts(), self._day)]
            yield [alarm.signal for alarm in found]

    def rest(self) -> None:
        """Forget what was raised lately."""
        for watched in (self._watch, *self._parts.values()):
            watched.rests.clear()


def quiet(runs: int, images: int, seed: int) -> tuple[float, float]:
    """Return alarms a year without any change, and the share of months without one."""
    rng, n, months = np.random.default_rng(seed), 0, 0
    for _ in range(runs):
        days = Watched(Hospital(), rng, images).alarms()
        found = [len(next(days)) for _ in range(QUIET_DAYS)]
        n += sum(found)
        months += sum(not sum(found[start : start + 30]) for start in range(0, 360, 30))
    return n / runs, months / (12 * runs)


def delays(change: Callable[[Hospital], Hospital], runs: int, images: int, seed: int) -> list[int]:
    """Return after how many days of a change the first alarm came, a month after the window."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(runs):
        watched = Watched(Hospital(), rng, images)
        days = watched.alarms()
        for _ in range(30):
            next(days)
        watched.rest()
        watched.hospital = change(watched.hospital)
        found.append(next((n for n in range(1, PATIENCE_DAYS + 1) if next(days)), PATIENCE_DAYS + 1))
    return found


def _quiet(arguments: tuple[int, int, int]) -> str:
    runs, images, seed = arguments
    per_year, months = quiet(runs, images, seed)
    return f"{images} images a day, no change: {per_year:.2f} alarms a year, {months:.1%} of months quiet"


def _row(arguments: tuple[str, int, int, int]) -> str:
    name, runs, images, seed = arguments
    found = delays(CHANGES[name], runs, images, seed)
    missed = sum(delay > PATIENCE_DAYS for delay in found)
    days = f"{np.median(found):.0f} | {np.percentile(found, 90):.0f}"
    return f"| {images} | {name} | {days} | {missed} of {runs} |"


def main() -> None:
    """Print what a year without changes brings, and a row a change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--images", type=int, nargs="*", default=[50, 200], help="a day")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes) as pool:
        years = pool.map(_quiet, [(args.runs, images, args.seed) for images in args.images])
        changes = [(name, args.runs, images, args.seed) for images in args.images for name in CHANGES]
        rows = pool.map(_row, changes)
        for line in years:
            print(line, flush=True)
        print("\n| Images a day | Change | Days, median | nine of ten within | not within 60 |")
        print("|--:|---|--:|--:|--:|")
        for line in rows:
            print(line, flush=True)


if __name__ == "__main__":
    main()
