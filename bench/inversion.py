"""How often a film is taken for one shown black on white: limbs, the same inverted, chests and spines.

``python -m bench.inversion FRACATLAS NEGATIVES`` prints the table that docs/picture.md shows. The first
folder holds images/ of limbs, the second chest/ and spine/. Those perhaps inverted are given to the
bundle's network too: on what it sees depends whether that flag is shown (`vocabulary.words.shown_flags`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bench.doses import ways
from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.decode.picture import decode
from pipeline.quality import grade, require_radiograph
from pipeline.types import Radiograph, Rejected
from vocabulary.reasons import Reason
from vocabulary.words import shown_flags

ROOT = Path(__file__).resolve().parent.parent
_CHUNK = 32


def films(folder: Path) -> Iterator[Radiograph]:
    """Decode every picture of a folder that is not refused."""
    for path in sorted(folder.rglob("*.*")):
        try:
            yield decode(path.read_bytes(), max_pixels=10**8, pseudonymise=str)
        except Rejected:
            continue


def inverted(film: Radiograph) -> Radiograph:
    """Return a film as it is read when its file shows it black on white."""
    turned = np.invert(np.invert(film.pixels) if Reason.INVERTED_PICTURE in film.flags else film.pixels)
    graded = grade(turned, require_radiograph(turned))
    return replace(film, pixels=graded.pixels, flags=graded.flags)


def counted(found: Iterable[Radiograph], scorer: Scorer) -> tuple[int, int, int, int, int]:
    """Return how many films are turned round, flagged only, not told; of those flagged, shown so; and all."""
    turned, perhaps, untold = 0, list[Radiograph](), 0
    for film in found:
        if Reason.INVERTED_PICTURE in film.flags:
            turned += 1
        elif Reason.PERHAPS_INVERTED in film.flags:
            perhaps.append(film)
        else:
            untold += 1
    shown = 0
    for start in range(0, len(perhaps), _CHUNK):
        for way in ways(scorer, perhaps[start : start + _CHUNK]):
            flags = shown_flags(
                [flag.value for flag in way.flags],
                reason=way.not_assessable and way.not_assessable.value,
                region=way.region,
                age_years=None,
                study_shared=False,
            )
            shown += Reason.PERHAPS_INVERTED in flags
    return turned, len(perhaps), untold, shown, turned + len(perhaps) + untold


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("limbs", type=Path, help="images/ of FracAtlas")
    parser.add_argument("negatives", type=Path, help="chest/ and spine/")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "bundles" / "fracatlas-3")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    scorer = open_scorer(load_bundle(options.bundle))
    limbs = options.limbs / "images"
    rows = {
        "limbs": counted(films(limbs), scorer),
        "limbs, inverted": counted(map(inverted, films(limbs)), scorer),
        "chests": counted(films(options.negatives / "chest"), scorer),
        "spines": counted(films(options.negatives / "spine"), scorer),
    }
    print("| | films | turned round | flagged only | not told | flag shown, read by", end=" ")
    print(f"`{scorer.bundle.name}` |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, (turned, perhaps, untold, shown, total) in rows.items():
        print(f"| {name} |", " | ".join(f"{n:,}" for n in (total, turned, perhaps, untold, shown)), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
