"""How good suspected places are: FROC, average precision with normal films included, and the surest place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.boxes import SuspectedPlace, overlaps
from training.datasets import Polygon

#: False places a film at which FROC is told.
FALSE_A_FILM = (0.25, 0.5, 1.0)
#: A place finds a fracture whose box it overlaps by so much, or whose box its middle lies in ...
_FOUND = 0.3
#: ... and for average precision, by so much.
_PRECISE = 0.5
#: What a bundle needs before its places are shown, on films that nothing was fitted on.
NEEDED = {"peak in box": 0.75, "AP50": 0.42, "sensitivity at 0.5 false places a film": 0.70}


@dataclass(frozen=True)
class FilmPlaces:
    """The suspected places of one film, as shares of its sides, and the fractures that it has.

    `truth` has a row a fracture: left, top, right, bottom, as shares too; none on a normal film.
    """

    group: str
    truth: npt.NDArray[np.float64]
    places: tuple[SuspectedPlace, ...]
    shape: tuple[int, int]


def boxes_of(polygons: Sequence[Polygon]) -> npt.NDArray[np.float64]:
    """Return the boxes (n, 4) around outlines: left, top, right, bottom."""
    corners = [[*p.min(axis=0), *p.max(axis=0)] for p in polygons]
    return np.array(corners, np.float64).reshape(-1, 4)


def false_scores(films: Sequence[FilmPlaces]) -> npt.NDArray[np.float64]:
    """Return the scores of the places that find no fracture."""
    rows = np.concatenate([_played(film) for film in films])
    return np.asarray(rows[rows[:, 1] == 0, 0])


def places_figures(films: Sequence[FilmPlaces], rounds: int = 1000) -> dict[str, Any]:
    """Measure suspected places over films, normal ones too; intervals by bootstrap over groups.

    Each fracture is found once: a second place in it is a false one.

    Parameters
    ----------
    rounds
        Of the bootstrap; 0 for no intervals.

    Returns
    -------
    dict
        `films`, `fractured` and `fractures`; and as value and interval the sensitivity at each of
        `FALSE_A_FILM`, `AP50` (area under the envelope of precision over recall), and `peak in box`, the
        share of films with a fracture whose surest place has its middle in the box of one.
    """
    played = [_played(film) for film in films]
    total = np.array([len(film.truth) for film in films])
    first = np.array([float(hits[0, 3]) if len(hits) else 0.0 for hits in played])
    fractured = total > 0
    found: dict[str, Any] = {
        "films": len(films), "fractured": int(fractured.sum()), "fractures": int(total.sum()),
    }  # fmt: skip
    if not fractured.any():
        return found

    def measured(numbers: Any) -> dict[str, float]:
        rows = np.concatenate([played[i] for i in numbers])
        rows = rows[np.argsort(-rows[:, 0], kind="stable")]
        said = _froc(rows[:, 1] > 0, int(total[numbers].sum()), len(numbers))
        said["AP50"] = average_precision(rows[:, 2] > 0, int(total[numbers].sum()))
        here = fractured[numbers]
        said["peak in box"] = float(first[numbers][here].mean()) if here.any() else float("nan")
        return said

    groups = [film.group for film in films]
    intervals = metrics.bootstrap(measured, groups, rounds=rounds) if rounds else {}
    for name, value in measured(np.arange(len(films))).items():
        found[name] = {"value": value, "interval": intervals.get(name)}
    return found


def earned(figures: dict[str, Any]) -> bool:
    """Tell whether places with these figures may be shown: all of `NEEDED`."""
    return all(name in figures and figures[name]["value"] >= least for name, least in NEEDED.items())


def _played(film: FilmPlaces) -> npt.NDArray[np.float64]:
    """Return a row a place, the surest first: score, finds a fracture, finds it precisely, middle inside."""
    places = sorted(film.places, key=lambda place: -place.score)
    rows = np.zeros((len(places), 4))
    height, width = film.shape
    scale = np.array([width, height] * 2, np.float64)
    for row, place in zip(rows, places, strict=True):
        row[0] = place.score
    if not places or not len(film.truth):
        return rows
    boxes = np.array([[p.left, p.top, p.left + p.width, p.top + p.height] for p in places])
    overlap = overlaps(boxes * scale, film.truth * scale)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (
        (middles[:, None] >= film.truth[None, :, :2]) & (middles[:, None] <= film.truth[None, :, 2:])
    ).all(axis=-1)
    rows[:, 3] = inside.any(axis=1)
    for column, least, reach in ((1, _FOUND, np.where(inside, 1.0, overlap)), (2, _PRECISE, overlap)):
        used: set[int] = set()
        for number in range(len(places)):
            best = int(reach[number].argmax())
            if reach[number, best] >= least and best not in used:
                used.add(best)
                rows[number, column] = 1
    return rows


def _froc(hit: npt.NDArray[np.bool_], fractures: int, films: int) -> dict[str, float]:
    hits, misses = np.cumsum(hit), np.cumsum(~hit)
    said = {}
    for rate in FALSE_A_FILM:
        allowed = int((misses <= rate * films).sum())
        share = float(hits[allowed - 1]) / fractures if allowed and fractures else 0.0
        said[f"sensitivity at {rate:g} false places a film"] = share
    return said


def average_precision(hit: npt.NDArray[np.bool_], fractures: int) -> float:
    """Return the area under the envelope of precision over recall, for places from the surest down."""
    if not len(hit) or not fractures:
        return 0.0
    hits = np.cumsum(hit)
    recall, precision = hits / fractures, hits / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
