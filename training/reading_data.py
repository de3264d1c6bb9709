"""What a reading network learns from: films with parts and fractures, pictures to refuse, and phantoms."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from phantoms.film import REGIONS, VERSION
from pipeline.preprocess import model_input
from pipeline.types import Float32Array, UInt8Array
from training.box_targets import box_targets
from training.datasets import (
    Example,
    load_pixels,
    phantom_examples,
    read_fracatlas,
    read_split,
    split_by_group,
)
from training.datasets.negatives import kind_of, made_up, mosaic, read_negatives
from training.datasets.parts import FAMILY, PARTS, PartsInView, read_parts
from training.travel import travelled

#: Index of the part network's answer for anything else.
OTHER = len(PARTS)
#: Fracture heads: all films together, the two families, and the parts with at least 60 fractures.
HEADS = ("all", "arm", "leg", "wrist", "forearm", "lower_leg")
#: What the phantoms show, as parts.
_PHANTOM_PARTS = {"finger": "hand", "leg": "lower_leg"}
#: A fractured film is drawn at most this often for each time a normal one is.
_MAX_OFTEN = 4.0
#: A part is drawn as often as its films to the power of this: rare parts more often than they come.
_PART_POWER = 0.7
_FOLDS_SEED = 14


def heads_of(part: str) -> tuple[str, ...]:
    """Return the heads that read a part, the most special last."""
    return tuple(h for h in HEADS if h in {"all", FAMILY.get(part), part})


@dataclass(frozen=True)
class Film:
    """One picture and all that is known of it.

    Attributes
    ----------
    main
        float32 (13,), sums to 1; the last is for anything else. All 0: not known, not learned from.
    view
        float32 (12,).
    heads
        float32 (len(HEADS),): 1 for heads that learn from it.
    source
        ``film``, ``negative`` or ``phantom``.
    """

    example: Example
    main: Float32Array
    view: Float32Array
    heads: Float32Array
    agreed: str
    source: str


def _film(example: Example, seen: PartsInView | None) -> Film:
    main, heads = np.zeros(OTHER + 1, np.float32), np.zeros(len(HEADS), np.float32)
    if seen is None:
        return Film(example, main, np.zeros(OTHER, np.float32), heads, "", "film")
    main[:OTHER] = seen.main
    heads[0] = 1
    for part, share in zip(PARTS, seen.main, strict=True):
        for head in heads_of(part):
            heads[HEADS.index(head)] = max(heads[HEADS.index(head)], share)
    return Film(example, main, seen.view, heads, seen.agreed, "film")


def _negative(example: Example) -> Film:
    main = np.zeros(OTHER + 1, np.float32)
    main[OTHER] = 1
    nothing = np.zeros(OTHER, np.float32)
    return Film(example, main, nothing, np.zeros(len(HEADS), np.float32), "", "negative")


def phantom_film(example: Example) -> Film:
    """Return a phantom as a film: its part, the parts in view half known."""
    part = _PHANTOM_PARTS.get(example.regions[0], example.regions[0])
    main, view = np.zeros(OTHER + 1, np.float32), np.full(OTHER, 0.5, np.float32)
    main[PARTS.index(part)], view[PARTS.index(part)] = 1, 1
    heads = np.array([h in heads_of(part) for h in HEADS], np.float32)
    return Film(example, main, view, heads, part, "phantom")


@dataclass(frozen=True)
class Films:
    """Films and their pixels, side by side."""

    films: Sequence[Film]
    pixels: Sequence[UInt8Array]


@dataclass(frozen=True)
class Fold:
    """One of `of` folds of all films, held out as the test part, and a kind of pictures that is never shown.

    Attributes
    ----------
    number
        From 1 on.
    without
        One of `training.datasets.negatives.KINDS`: all pictures of it are held out.
    """

    number: int
    of: int
    without: str = ""


_Parts = Mapping[str, Sequence[Example]]


def divided(
    films: _Parts, negatives: _Parts, seen: Mapping[str, PartsInView], fold: Fold
) -> tuple[_Parts, _Parts]:
    """Divide films and pictures to refuse anew, whole groups, for one fold.

    The fold is the test part, an eighth of the rest validates. Folds have like shares of each part's
    fractured and normal films, and of each kind of picture.
    """

    def parts(
        examples: Sequence[Example], regions: Callable[[Example], tuple[str, ...]]
    ) -> dict[str, list[Example]]:
        told = [replace(e, regions=regions(e)) for e in examples]
        folds = split_by_group(told, {str(n): 1.0 for n in range(1, fold.of + 1)}, _FOLDS_SEED)
        rest = [e for e in told if folds[e.name] != str(fold.number)]
        sides = split_by_group(rest, {"train": 7.0, "val": 1.0}, _FOLDS_SEED)
        found: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
        for e in examples:
            found[sides.get(e.name, "test")].append(e)
        return found

    def main(e: Example) -> tuple[str, ...]:
        shares = seen[e.name].main if e.name in seen else np.zeros(OTHER)
        return (PARTS[int(shares.argmax())],) if shares.any() else e.regions

    kept = parts([e for part in films.values() for e in part], main)
    foreign = parts([e for part in negatives.values() for e in part], lambda e: (kind_of(e),))
    for side in ("train", "val"):
        foreign["test"] += [e for e in foreign[side] if kind_of(e) == fold.without]
        foreign[side] = [e for e in foreign[side] if kind_of(e) != fold.without]
    return kept, foreign


def read_films(
    data: Path, split: Path, cache: Path, phantoms: int, first_seed: int, fold: Fold | None = None
) -> dict[str, Films]:
    """Read FracAtlas with its parts, the negatives, and make phantoms (for training alone).

    Parameters
    ----------
    data
        Folder with `fracatlas` and `negatives`.
    phantoms
        How many of each region.
    fold
        Divide what the split has in it anew, see `divided`.

    Returns
    -------
    dict
        ``train``, ``val`` and ``test``.
    """
    dataset = read_fracatlas(data / "fracatlas")
    seen = read_parts(data / "fracatlas" / "parts.csv")
    parts: _Parts = read_split(split, dataset.examples)
    negatives: _Parts = read_negatives(data / "negatives")
    if fold is not None:
        parts, negatives = divided(parts, negatives, seen, fold)
    found = {}
    for name in ("train", "val", "test"):
        films = [_film(e, seen.get(e.name)) for e in parts[name]]
        films += [_negative(e) for e in negatives[name]]
        pixels = load_pixels([f.example for f in films], cache)
        found[name] = Films(films, pixels)
    examples, pictures = _phantoms(phantoms, first_seed, cache)
    train = found["train"]
    found["train"] = Films([*train.films, *(phantom_film(e) for e in examples)], [*train.pixels, *pictures])
    return found


def _phantoms(count: int, first_seed: int, cache: Path) -> tuple[list[Example], list[UInt8Array]]:
    """Make phantoms, or read those of an earlier run: half a second each, and every process wants them."""
    if not count:
        return [], []
    path = cache / f"phantoms{VERSION}-{count}-{first_seed}.npz"
    if not path.exists():
        made, pictures = phantom_examples(REGIONS, count, first_seed)
        outlines = [e.polygons[0] if e.polygons else np.zeros((0, 2), np.float32) for e in made]
        arrays = {f"pixels{i}": p for i, p in enumerate(pictures)}
        arrays |= {f"outline{i}": p for i, p in enumerate(outlines)}
        names = np.array([[e.name, e.regions[0]] for e in made])
        part = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, names=names, **arrays)
        part.rename(path)
    with np.load(path) as kept:
        examples, pixels = [], []
        for i, (name, region) in enumerate(kept["names"]):
            outline = kept[f"outline{i}"]
            polygons, traits = ((outline,) if len(outline) else ()), {"phantom": "1"}
            examples.append(
                Example(
                    str(name), Path(name), (str(region),), bool(polygons), str(name), "", polygons, traits
                )
            )
            pixels.append(kept[f"pixels{i}"])
    return examples, pixels


@dataclass(frozen=True)
class Shares:
    """Of the draws: pictures to refuse, phantoms, and made-up pictures and mosaics."""

    negatives: float = 0.13
    phantoms: float = 0.05
    made_up: float = 0.03


@dataclass(frozen=True)
class Batch:
    """What a training step sees; `prior` is added to the fracture logits in the loss alone.

    `sure` and `sides` are what the cells are to say of the boxes around fractures (`box_targets`), and
    `drawn` is 0 for a picture whose fractures have no outline.
    """

    image: UInt8Array
    main: Float32Array
    view: Float32Array
    view_known: Float32Array
    heads: Float32Array
    fractured: Float32Array
    prior: Float32Array
    cells: Float32Array
    sure: Float32Array
    sides: Float32Array
    drawn: Float32Array

    def pieces(self, most: int) -> list[Batch]:
        """Divide it into batches of so many pictures at most, in order."""
        columns = [getattr(self, f.name) for f in fields(self)]
        starts = range(0, len(self.image), most)
        return [Batch(*(column[start : start + most] for column in columns)) for start in starts]


class Draws:
    """Random views, drawn by (seed, number) alone, so that a resumed run sees what an unbroken one would.

    How often a part is fractured among the draws is given to the loss as a prior (logit adjustment, Menon et
    al. 2021): the fracture logit learns what a picture of that part adds to it, and not that forearms are
    fractured more often than knees.
    """

    def __init__(self, train: Films, shares: Shares, seed: int) -> None:
        self.train, self.shares, self.seed = train, shares, seed
        films = train.films
        self.sources = np.array([f.source for f in films])
        fractured = np.array([f.example.positive for f in films])
        main = np.array([f.main for f in films])
        real = self.sources == "film"
        weights = np.zeros(len(films))
        odds = np.zeros(OTHER)
        part_weight = np.zeros(OTHER)
        oversampling = np.ones(OTHER)
        for part in range(OTHER):
            share = main[:, part] * real
            normal, broken = share[~fractured].sum(), share[fractured].sum()
            oversampling[part] = np.clip(2 / 3 * normal / max(broken, 1), 1, _MAX_OFTEN)
            # half a film each: a part without fractures is not certain to have none
            odds[part] = np.log((oversampling[part] * broken + 0.5) / (normal + 0.5))
            part_weight[part] = (normal + broken) ** (_PART_POWER - 1)
        known = main[:, :OTHER].sum(axis=1)
        usual = part_weight.mean()
        weights[real] = np.where(known[real] > 0, main[real, :OTHER] @ part_weight, usual)
        boost = main[:, :OTHER] @ oversampling + (1 - known) * 1.0
        weights[real & fractured] *= boost[real & fractured]
        self.prior = (main[:, :OTHER] @ odds).astype(np.float32)
        phantom = self.sources == "phantom"
        self.prior[phantom] = 0.0
        weights[real] *= (1 - shares.negatives - shares.phantoms - shares.made_up) / weights[real].sum()
        # each class of negatives equally often: 290 chest films teach little more than 100
        negative = self.sources == "negative"
        classes = [f.example.traits.get("class", "") for f in films]
        for name in {c for c, n in zip(classes, negative, strict=True) if n}:
            of = np.array([c == name for c in classes]) & negative
            weights[of] = of.sum() ** -0.5
        weights[negative] *= shares.negatives / weights[negative].sum()
        weights[phantom] = shares.phantoms / phantom.sum() if phantom.any() else 0
        self._edges = np.cumsum(weights / weights.sum())
        self._negatives = [p for p, n in zip(train.pixels, negative | real, strict=True) if n]

    def batch(self, number: int, count: int, size: int, grid: int) -> Batch:
        """Draw batch `number` of `count` views of `size` pixels and `grid` cells a side."""
        rng = np.random.default_rng([self.seed, number])
        picks = np.searchsorted(self._edges, (np.arange(count) + rng.random(count)) / count)
        rows = [self._view(int(min(p, len(self._edges) - 1)), size, grid, rng) for p in picks]
        columns: list[list[Float32Array]] = [list(c) for c in zip(*rows, strict=True)]
        image, *rest = (np.stack(c) for c in columns)
        return Batch(image.astype(np.uint8)[..., None], *rest)

    def _view(self, pick: int, size: int, grid: int, rng: np.random.Generator) -> tuple[object, ...]:
        film, empty = self.train.films[pick], np.zeros((grid, grid, 1), np.float32)
        nothing = box_targets(np.zeros((0, 4), np.float32), grid)
        if film.source != "phantom" and rng.random() < self.shares.made_up:
            picture = made_up(rng) if rng.random() < 0.5 else mosaic(self._negatives, rng)
            if rng.random() < 0.5:
                picture = travelled(picture, (), size, grid, rng)[0]
            film = _negative(film.example)
            return (model_input(picture, size), film.main, film.view, np.ones(OTHER, np.float32),
                    film.heads, np.float32(0), np.float32(0), empty, *nothing, np.float32(1))  # fmt: skip
        view, cells, boxes = travelled(self.train.pixels[pick], film.example.polygons, size, grid, rng)
        known = np.full(OTHER, film.main.sum() > 0, np.float32)
        if film.source == "phantom":
            known = film.main[:OTHER]
        positive, drawn = film.example.positive, not film.example.positive or len(boxes) > 0
        return (view, film.main, film.view, known, film.heads, np.float32(positive), self.prior[pick],
                cells[..., None], *box_targets(boxes * (grid / size), grid), np.float32(drawn))  # fmt: skip


def model_inputs(
    films: Films, size: int, style: Callable[[UInt8Array], UInt8Array] | None = None
) -> UInt8Array:
    """Return uint8 (n, size, size, 1), each picture changed by `style` first."""
    pictures = films.pixels if style is None else [style(p) for p in films.pixels]
    return np.stack([model_input(p, size)[..., None] for p in pictures])
