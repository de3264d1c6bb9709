"""How soon monitoring sees a change, and how often it sees one that is none: ``python -m bench.drift``.

Streams of images are drawn, an acceptance window is frozen, and the service's own rules watch what follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from store.operations import drift_statistics as rules
from store.operations.drift_statistics import BINS, HIGHEST, LOWEST, Counts, Watch

#: A year of quiet, and as long as a change is waited for, in days.
QUIET_DAYS, PATIENCE_DAYS = 365, 60


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
    """

    prevalence: float = 0.18
    shift: float = 0.0
    flatten: float = 0.0
    not_assessable: float = 0.04
    rejected: float = 0.01
    device: str = "a"

    def day(self, rng: np.random.Generator, images: int) -> Counts:
        """Draw a day of about so many images."""
        n = int(rng.poisson(images))
        rejected = int(rng.binomial(n, self.rejected))
        unassessed = int(rng.binomial(n - rejected, self.not_assessable))
        scored = n - rejected - unassessed
        broken = rng.random(scored) < self.prevalence
        logits = rng.normal(np.where(broken, 2.0, -3.0), 1.5) * (1 - self.flatten) + self.shift
        edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
        bins = np.bincount(np.digitize(logits, edges), minlength=BINS + 2)
        positive, doubt = int((logits >= 0.5).sum()), int(((logits >= -1.5) & (logits < 0.5)).sum())
        return Counts(
            n, positive, doubt, unassessed, rejected, [int(b) for b in bins], {self.device: n} if n else {}
        )


CHANGES: dict[str, Callable[[Stream], Stream]] = {
    "prevalence doubled": lambda s: replace(s, prevalence=2 * s.prevalence),
    "inverted LUT (scores drawn half way to 0, a tenth not assessable)": lambda s: replace(
        s, flatten=0.5, not_assessable=0.1
    ),
    "changed scanner (scores up by 0.7, a device of its own)": lambda s: replace(s, shift=0.7, device="b"),
    "scores up by 0.7 on the same device": lambda s: replace(s, shift=0.7),
    "a tenth rejected": lambda s: replace(s, rejected=0.1),
}


def watched(stream: Stream, rng: np.random.Generator, images: int) -> tuple[Watch, list[Counts]]:
    """Return a watch with a window of the stream, and the last days of it."""
    days = [stream.day(rng, images)]
    while len(days) < rules.WINDOW_DAYS or sum(day.scored for day in days) < rules.WINDOW_IMAGES:
        days.append(stream.day(rng, images))
    return Watch(rules.total(days)), days[-rules.RECENT_DAYS :]


def alarms(
    stream: Stream, watch: Watch, last: list[Counts], rng: np.random.Generator, images: int
) -> Iterator[list[str]]:
    """Yield the signals of each day."""
    while True:
        last = [*last, stream.day(rng, images)][-rules.RECENT_DAYS :]
        yield [alarm.signal for alarm in watch.advance(last[-1], rules.total(last))]


def quiet(runs: int, images: int, seed: int) -> tuple[float, float]:
    """Return alarms a year without any change, and the share of months without one."""
    rng, n, months = np.random.default_rng(seed), 0, 0
    for _ in range(runs):
        stream = Stream()
        watch, last = watched(stream, rng, images)
        days = alarms(stream, watch, last, rng, images)
        found = [len(next(days)) for _ in range(QUIET_DAYS)]
        n += sum(found)
        months += sum(not sum(found[start : start + 30]) for start in range(0, 360, 30))
    return n / runs, months / (12 * runs)


def delays(change: Callable[[Stream], Stream], runs: int, images: int, seed: int) -> list[int]:
    """Return after how many days of a change the first alarm came, a month after the window."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(runs):
        stream = Stream()
        watch, last = watched(stream, rng, images)
        for _ in range(30):
            last = [*last, stream.day(rng, images)][-rules.RECENT_DAYS :]
            watch.advance(last[-1], rules.total(last))
        watch.rests.clear()
        days = alarms(change(stream), watch, last, rng, images)
        found.append(next((n for n in range(1, PATIENCE_DAYS + 1) if next(days)), PATIENCE_DAYS + 1))
    return found


def main() -> None:
    """Print a table a volume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--images", type=int, nargs="*", default=[50, 200, 1000], help="a day")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for images in args.images:
        per_year, months = quiet(args.runs, images, args.seed)
        print(
            f"\n{images} images a day; no change: {per_year:.2f} alarms a year, {months:.1%} of months quiet"
        )
        for name, change in CHANGES.items():
            found = delays(change, args.runs, images, args.seed)
            missed = sum(delay > PATIENCE_DAYS for delay in found)
            print(
                f"  {name}: after {np.median(found):.0f} days (median), {np.percentile(found, 90):.0f} (90%)"
                + (f", {missed} of {args.runs} not within {PATIENCE_DAYS}" if missed else "")
            )


if __name__ == "__main__":
    main()
