"""How a bundle answers phantoms, those of the demo and others: ``python -m bench.phantoms``.

With ``--greys`` it prints instead how grey the body is in them and in the normal films of FracAtlas.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from models.reading import Reader, open_reader
from phantoms.files import demo_phantoms, encode_phantom
from phantoms.film import Phantom, make_phantom
from pipeline.explain import body_mask
from pipeline.types import UInt8Array
from training.datasets import CACHE_SIDE, read_fracatlas
from training.datasets.parts import read_parts
from training.experiment import shared_data

#: No bundle was trained with phantoms from this seed on.
HELD_OUT_SEED = 900_000
SHOWN = ("knee", "lower_leg", "humerus", "forearm", "wrist", "hand", "elbow", "hip", "shoulder")


def held_out(count: int) -> Iterable[Phantom]:
    """Make so many phantoms of each region with a fracture, and as many without."""
    for region in SHOWN:
        for number in range(count):
            for fracture in (True, False):
                yield make_phantom(HELD_OUT_SEED + number, region, fracture=fracture)


def answers(reader: Reader, phantoms: Iterable[Phantom]) -> dict[str, Counter[str]]:
    """Read phantoms as files; return by region and fracture how often each answer was given."""
    found: dict[str, Counter[str]] = {}
    for phantom in phantoms:
        said = reader.read(encode_phantom(phantom)).finding.triage.value
        for kind in (phantom.region, "all"):
            name = f"{kind}, {'fractured' if phantom.fractured else 'whole'}"
            found.setdefault(name, Counter())[said] += 1
    return found


def table(found: dict[str, Counter[str]]) -> str:
    """Return the answers as Markdown."""
    columns = ("positive", "doubt", "negative", "not_assessable")
    lines = ["| phantoms | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    lines += [
        f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + " |"
        for name, counts in sorted(found.items())
    ]
    return "\n".join(lines)


def middle_grey(picture: UInt8Array) -> float:
    """Return the median grey of the body in a picture whose bone is bright."""
    scale = min(1.0, CACHE_SIDE / max(picture.shape))
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    body = body_mask(picture)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(body, size, interpolation=cv2.INTER_NEAREST) > 0
    return float(np.median(small[inside] if inside.any() else small))


def film_greys(data: Path) -> dict[str, list[float]]:
    """Return the middle greys of the normal films of FracAtlas on whose part both readers agree, by part."""
    seen = read_parts(data / "fracatlas" / "parts.csv")
    found: dict[str, list[float]] = {}
    for example in read_fracatlas(data / "fracatlas").examples:
        if example.name in seen and seen[example.name].agreed and not example.positive:
            picture = cv2.imread(str(example.path), cv2.IMREAD_GRAYSCALE)
            if picture is not None:
                grey = middle_grey(np.asarray(picture, np.uint8))
                found.setdefault(seen[example.name].agreed, []).append(grey)
    return found


def phantom_greys(count: int) -> dict[str, list[float]]:
    """Return the middle greys of phantoms without a fracture, by part."""
    return {
        region: [
            middle_grey(make_phantom(HELD_OUT_SEED + number, region, fracture=False).pixels)
            for number in range(count)
        ]
        for region in SHOWN
    }


def greys_table(films: dict[str, list[float]], phantoms: dict[str, list[float]]) -> str:
    """Return greys side by side as Markdown: the middle film, and where the middle half of them lies."""

    def told(greys: list[float]) -> str:
        low, middle, high = np.percentile(greys, (25, 50, 75))
        return f"{len(greys)} | {middle:.0f} ({low:.0f}-{high:.0f})"

    lines = ["| part | films | grey | phantoms | grey |", "|---|--:|---|--:|---|"]
    lines += [
        f"| {part} | {told(films[part])} | {told(phantoms[part])} |" for part in phantoms if part in films
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the answers, or the greys."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="fracatlas-4", help="a shipped one, or a folder")
    parser.add_argument("--count", type=int, default=0, help="of each region with and without a fracture")
    parser.add_argument(
        "--greys", action="store_true", help="print middle greys of the body, beside FracAtlas"
    )
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    arguments = parser.parse_args()
    if arguments.greys:
        print(greys_table(film_greys(arguments.data or shared_data()), phantom_greys(arguments.count or 12)))
        return
    reader = open_reader(arguments.bundle)
    print("Of the demo:\n")
    print(table(answers(reader, demo_phantoms())))
    if arguments.count:
        print(f"\nHeld out, {arguments.count} of each kind:\n")
        print(table(answers(reader, held_out(arguments.count))))


if __name__ == "__main__":
    main()
