"""A look at every file of a data set before any training: what is broken, double, contradictory or small."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.decode import decode
from pipeline.types import Rejected, Skipped
from training.datasets.example import Dataset, Example
from training.datasets.near_duplicates import NEAR, difference_hash, joined, near_pairs
from training.processes import in_processes

MAX_PIXELS = 100_000_000
#: Results are kept after this many files, so that a stopped scan need not begin anew.
_KEEP_EVERY = 2000


@dataclass(frozen=True)
class FileFacts:
    """What one file is.

    Attributes
    ----------
    hash
        Perceptual, hexadecimal; empty where the file cannot be read.
    problem
        The code with which the service would refuse the file (`pipeline.types.Reason`), or empty.
    flags
        What the service would note of it, such as ``partial_picture``.
    """

    sha256: str
    hash: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    flags: tuple[str, ...] = ()


def examine(path: Path) -> FileFacts:
    """Read a file as the service would."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        found = decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "")
    except (Rejected, Skipped) as refused:
        return FileFacts(sha256, problem=refused.reason.value)
    return FileFacts(
        sha256,
        difference_hash(found.pixels).hex(),
        found.width,
        found.height,
        flags=tuple(flag.value for flag in found.flags),
    )


@dataclass(frozen=True)
class Scan:
    """The facts of a data set's files, and what follows from them; all sequences are sorted."""

    dataset: Dataset
    facts: Mapping[str, FileFacts]

    @cached_property
    def broken(self) -> dict[str, str]:
        """Names of files that the service would refuse, and its codes."""
        return {name: facts.problem for name, facts in sorted(self.facts.items()) if facts.problem}

    @cached_property
    def duplicates(self) -> list[tuple[str, ...]]:
        """Names of files with the same bytes."""
        return _sharing(self.facts[e.name].sha256 + "\t" + e.name for e in self.dataset.examples)

    @cached_property
    def conflicts(self) -> list[tuple[str, ...]]:
        """Those duplicates whose labels differ."""
        return [names for names in self.duplicates if len({self._by_name[n].positive for n in names}) > 1]

    @cached_property
    def near(self) -> list[tuple[str, ...]]:
        """Names of pictures that look alike, groups of two and more; duplicates are among them."""
        names = [e.name for e in self.dataset.examples if self.facts[e.name].hash]
        pairs = near_pairs([bytes.fromhex(self.facts[name].hash) for name in names], NEAR)
        group_of = joined(names, [(names[i], names[j]) for i, j in pairs])
        return _sharing(f"{group}\t{name}" for name, group in group_of.items())

    @cached_property
    def near_conflicts(self) -> list[tuple[str, ...]]:
        """Groups of pictures that look alike, of both labels."""
        return [names for names in self.near if len({self._by_name[n].positive for n in names}) > 1]

    @cached_property
    def crossing(self) -> list[tuple[str, ...]]:
        """Groups of pictures that look alike, in several of the parts that the publisher made."""
        return [names for names in self.near if len({self._by_name[n].part for n in names}) > 1]

    @cached_property
    def crossing_patients(self) -> list[str]:
        """Patients in several of the parts that the publisher made."""
        parts = defaultdict(set)
        for example in self.dataset.examples:
            if example.patient:
                parts[example.patient].add(example.part)
        return sorted(patient for patient, of in parts.items() if len(of) > 1)

    @cached_property
    def _by_name(self) -> dict[str, Example]:
        return {example.name: example for example in self.dataset.examples}

    def report(self) -> dict[str, Any]:
        """Return everything found, for JSON."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for example in self.dataset.examples:
            for region in example.regions or ("",):
                counts[region]["positive" if example.positive else "negative"] += 1
        flags = Counter(flag for facts in self.facts.values() for flag in facts.flags)
        shorter = sorted(min(f.width, f.height) for f in self.facts.values() if f.width)
        return {
            "dataset": self.dataset.name,
            "label_meaning": self.dataset.label_meaning,
            "images": len(self.dataset.examples),
            "patients": len({e.patient for e in self.dataset.examples} - {""}),
            "studies": len({e.study for e in self.dataset.examples} - {""}),
            "left_out_while_reading": dict(self.dataset.skipped),
            "regions": {region: dict(of) for region, of in sorted(counts.items())},
            "parts": dict(Counter(e.part or "none" for e in self.dataset.examples)),
            "empty_classes": [
                f"{region or 'all'}: no {word}"
                for region, of in sorted(counts.items())
                for word in ("positive", "negative")
                if not of[word]
            ],
            "shorter_side": {"least": shorter[0], "median": shorter[len(shorter) // 2]} if shorter else {},
            "broken": self.broken,
            "flags": dict(flags),
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "near_duplicates": self.near,
            "near_conflicts": self.near_conflicts,
            "near_duplicates_across_parts": self.crossing,
            "patients_across_parts": self.crossing_patients,
            "published_groups": self._agreement(),
        }

    def _agreement(self) -> dict[str, float]:
        """Return how our near-duplicates agree with the groups that the data set names, pair by pair."""
        named = _sharing(f"{e.group}\t{e.name}" for e in self.dataset.examples if e.group and not e.patient)
        ours, theirs = set(_pairs(self.near)), set(_pairs(named))
        if not theirs:
            return {}
        return {"pairs": len(theirs), "ours": len(ours), "in_both": len(ours & theirs)}


def _pairs(groups: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    return ((a, b) for group in groups for i, a in enumerate(group) for b in group[i + 1 :])


def _sharing(keyed: Iterable[str]) -> list[tuple[str, ...]]:
    """Group names by the key before the tab; keep groups of two and more."""
    groups: dict[str, list[str]] = defaultdict(list)
    for line in keyed:
        key, _, name = line.partition("\t")
        groups[key].append(name)
    return sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1)


def scan(
    dataset: Dataset,
    *,
    jobs: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Scan:
    """Look at every file of a data set.

    Parameters
    ----------
    jobs
        Processes; None for one a processor.
    cache
        Folder that keeps the facts of files that have not changed since; None keeps none.
    on_progress
        Called with the number of files looked at.
    """
    kept = _Kept(dataset, cache)
    missing = [e for e in dataset.examples if e.name not in kept.facts]
    done = len(dataset.examples) - len(missing)
    paths = [e.path for e in missing]
    try:
        for number, (example, facts) in enumerate(
            zip(missing, in_processes(examine, paths, jobs), strict=True), done + 1
        ):
            kept.facts[example.name] = facts
            if number % _KEEP_EVERY == 0:
                kept.save()
            if on_progress:
                on_progress(number)
    finally:
        kept.save()
    return Scan(dataset, kept.facts)


class _Kept:
    """Facts of earlier scans, of files with the same path, size and time."""

    def __init__(self, dataset: Dataset, cache: Path | None) -> None:
        self.facts: dict[str, FileFacts] = {}
        self.marks: dict[str, list[int]] = {}
        for example in dataset.examples:
            stat = example.path.stat()
            self.marks[example.name] = [stat.st_size, stat.st_mtime_ns]
        where = os.path.commonpath([e.path.parent.resolve() for e in dataset.examples])
        key = hashlib.sha256(where.encode()).hexdigest()[:16]
        self.path = cache / f"scan-{key}.json" if cache else None
        if self.path and self.path.exists():
            for name, (mark, facts) in json.loads(self.path.read_text()).items():
                if self.marks.get(name) == mark:
                    self.facts[name] = FileFacts(**{**facts, "flags": tuple(facts["flags"])})

    def save(self) -> None:
        """Keep what is known."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps({n: [self.marks[n], asdict(f)] for n, f in self.facts.items()}))
            part.rename(self.path)
