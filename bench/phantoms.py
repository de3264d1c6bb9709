"""How a bundle answers phantoms, those of the demo and others: ``python -m bench.phantoms``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from models.reading import Reader, open_reader
from phantoms.files import demo_phantoms, encode_phantom
from phantoms.film import Phantom, make_phantom

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


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="fracatlas-3", help="a shipped one, or a folder")
    parser.add_argument("--count", type=int, default=0, help="of each region with and without a fracture")
    arguments = parser.parse_args()
    reader = open_reader(arguments.bundle)
    print("Of the demo:\n")
    print(table(answers(reader, demo_phantoms())))
    if arguments.count:
        print(f"\nHeld out, {arguments.count} of each kind:\n")
        print(table(answers(reader, held_out(arguments.count))))


if __name__ == "__main__":
    main()
