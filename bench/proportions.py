"""Whether it can be told that a film was squashed whose file says nothing of its pixels.

``python -m bench.proportions FRACATLAS`` prints how many films, and how many squashed ones, are so long that
they carry the flag, and how many have a texture that differs across and down by more than that of 98% of the
films does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.quality import elongated

Grey = npt.NDArray[np.float32]
#: Every so many films are looked at for their texture.
_STEP = 6
#: Share of the inside of a film, the most even one, in which noise is looked for.
_EVEN = 40


def squashed(film: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Yield a film as it is, and squashed in either direction by either method, each with its name."""
    yield "as it is", film
    for name, times in (("two thirds", 1.5), ("half", 2.0)):
        for side, across, down in (("width", 1 / times, 1.0), ("height", 1.0, 1 / times)):
            shrunk = cv2.resize(film, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
            yield f"{name} the {side}", shrunk.astype(np.uint8, copy=False)
    yield "half the width, every second column", film[:, ::2].copy()
    yield "half the height, every second row", film[::2].copy()


def textures(film: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Return how much finer detail is across than down (logarithm): in all of a film, where it is even."""
    grey: Grey = film.astype(np.float32)
    across = np.diff(grey, 2, axis=1)[1:-1]
    down = np.diff(grey, 2, axis=0)[:, 1:-1]
    smooth = cv2.GaussianBlur(grey, (0, 0), 3)
    slope = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))[1:-1, 1:-1]
    inside = grey[1:-1, 1:-1] > 15
    even = inside & (slope <= np.percentile(slope[inside], _EVEN)) if inside.any() else inside

    def compared(a: Grey, b: Grey) -> float:
        return float(np.log((a.mean() + 1e-3) / (b.mean() + 1e-3))) if a.size else 0.0

    return compared(np.abs(across), np.abs(down)), compared(across[even] ** 2, down[even] ** 2)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of FracAtlas, with images/ in it")
    options = parser.parse_args()
    long: dict[str, int] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    paths = sorted((options.folder / "images").iterdir())
    for number, path in enumerate(paths):
        film = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
        for name, shrunk in squashed(film):
            long[name] = long.get(name, 0) + bool(elongated(shrunk))
            if number % _STEP == 0:
                found.setdefault(name, []).append(textures(shrunk))
    limits = np.percentile(found["as it is"], (1, 99), axis=0)
    print(f"| Of {len(paths):,} films | so long that flagged | told by all detail | told by even parts |")
    print("|---|--:|--:|--:|")
    for name, number in long.items():
        measured = np.array(found[name])
        told = ((measured < limits[0]) | (measured > limits[1])).mean(axis=0)
        print(
            f"| {name} | {number:,} ({number / len(paths):.1%}) |",
            " | ".join(f"{share:.0%}" for share in told),
            "|",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
