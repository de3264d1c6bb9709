"""The grey levels of real films, and what becomes of films made darker where nothing looks at them.

``python -m bench.levels FRACATLAS`` prints the measures that docs/picture.md shows beside their thresholds.
With ``--darker 250`` so many films that the bundle reads positive are made darker instead, without any gate:
how many are negative then, and the greatest contrast of these. That scores several thousand pictures, in four
minutes of processor time; how far it is stands on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from bench.doses import judge
from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.quality import (
    Judged,
    clipped_share,
    contrast,
    entropy,
    histogram,
    require_radiograph,
    sampled,
    white_share,
)
from pipeline.types import Radiograph, Rejected, StudyFacts, UInt8Array
from vocabulary.states import Triage

_STANDARD_ERROR = Console(stderr=True)
ROOT = Path(__file__).resolve().parent.parent
_CHUNK = 32
_TIMES = (1.5, 2, 2.5, 3, 4, 8, 16)
MEASURES = {
    "Contrast": 0,
    "Entropy, bits a pixel": 1,
    "Share of pixels within two levels of black or white": 3,
    "Share of white pixels, but for lines that are white from end to end": 3,
}


def measured(pixels: UInt8Array, judged: Judged) -> tuple[float, ...]:
    """Return the measures of a film, in the order of `MEASURES`."""
    sample = sampled(pixels, judged)
    counts = histogram(sample)
    return contrast(judged.levels), entropy(counts), clipped_share(counts), white_share(sample)


def films(folder: Path) -> list[Path]:
    """Return the pictures of FracAtlas, in the order of their names."""
    return sorted((folder / "images").iterdir())


def read(path: Path) -> UInt8Array:
    """Return a film in 8-bit grey, as its file has it."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)


def print_measures(folder: Path) -> None:
    """Print least, 1%, median, 99% and most of each measure."""
    found = []
    for path in track(films(folder), "measuring", console=_STANDARD_ERROR):
        pixels = read(path)
        try:
            found.append(measured(pixels, require_radiograph(pixels)))
        except Rejected:
            continue
    print(f"| {len(found):,} films | least | 1% | median | 99% | most |")
    print("|---|--:|--:|--:|--:|--:|")
    for (name, digits), values in zip(MEASURES.items(), np.array(found).T, strict=True):
        cells = np.percentile(values, (0, 1, 50, 99, 100))
        print(f"| {name} |", " | ".join(f"{value:.{digits}f}" for value in cells), "|")


def judged_as_they_are(scorer: Scorer, pictures: Sequence[UInt8Array]) -> list[str]:
    """Return how pictures are read that no gate has looked at."""
    said = [""] * len(pictures)
    for start in range(0, len(pictures), _CHUNK):
        chunk = [
            (number, Radiograph(p, p.shape[1], p.shape[0], StudyFacts(), "image/png", b""))
            for number, p in enumerate(pictures[start : start + _CHUNK], start)
        ]
        judge(scorer, chunk, said)
    return said


def print_darker(folder: Path, number: int, scorer: Scorer) -> None:
    """Print how many positive films are negative once they are darker, and the greatest contrast of these."""
    positive: list[UInt8Array] = []
    paths = films(folder)
    for start in track(range(0, len(paths), _CHUNK), "positive films", console=_STANDARD_ERROR):
        chunk = [read(path) for path in paths[start : start + _CHUNK]]
        said = judged_as_they_are(scorer, chunk)
        positive += [p for p, how in zip(chunk, said, strict=True) if how == Triage.POSITIVE]
        if len(positive) >= number:
            break
    positive = positive[:number]
    print(f"| {len(positive)} films positive by `{scorer.bundle.name}` | negative | greatest contrast |")
    print("|---|--:|--:|")
    for times in track(_TIMES, "made darker", console=_STANDARD_ERROR):
        darker = [np.asarray(p / times, np.uint8) for p in positive]
        said = judged_as_they_are(scorer, darker)
        lost = [p for p, how in zip(darker, said, strict=True) if how == Triage.NEGATIVE]
        most = max((contrast(histogram(p)) for p in lost), default=None)
        print(f"| {times} times darker | {len(lost)} | {'' if most is None else round(most)} |", flush=True)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of FracAtlas, with images/ in it")
    parser.add_argument("--darker", type=int, default=0, metavar="FILMS")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "bundles" / "fracatlas-3")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.darker:
        print_darker(options.folder, options.darker, open_scorer(load_bundle(options.bundle)))
    else:
        print_measures(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
