"""Teach a bundle's reading network to draw boxes around fractures, on its trunk as it is.

    python -m training.places models/bundles/fracatlas-3 --runs runs

The trunk keeps its weights: what the network says of part and fracture stays the same, bit by bit. Its maps
of random views are looked at cell by cell: those around a fracture, and others, mostly such as its evidence
map takes for one. A perceptron learns from them what a cell says; its weights are those of the convolutions
of `models.architectures.with_boxes`. It is fitted on the training part; the rules of the score are chosen on
validation, and the command prints the figures there.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models import architectures  # first: it chooses the backend of keras

import keras  # isort: skip
from keras import ops

from models.bundle import MANIFEST, Bundle, load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.boxes import SuspectedPlace, drawn_places
from pipeline.preprocess import letterbox, model_input
from pipeline.triage import calibrate
from pipeline.types import Float32Array, PlaceRules, UInt8Array
from training.box_loss import entropy, sides_loss
from training.box_targets import IN_BOX, box_targets
from training.datasets import Example, Polygon, load_pixels, read_fracatlas, read_split
from training.experiment import ROOT, shared_data
from training.export import BundleContent, TrainedNetwork, taken_over, write_bundle
from training.places_figures import FilmPlaces, boxes_of, earned, false_scores, places_figures
from training.reading_card import card
from training.travel import moved_boxes, placed, styled

#: Cells drawn of a view: in its boxes, on their edges, and elsewhere: likely ones and any.
_INSIDE, _EDGE, _LIKELY, _ANY = 14, 8, 6, 2
#: How much the picture's logit and the evidence map may count in a place's score.
_FILM_WEIGHTS, _EVIDENCE_WEIGHTS = (0.0, 0.3, 0.6), (0.0, 0.25, 0.5)
#: False places a film from which on a place is shown, and is strong.
_FALSE_SHOWN, _FALSE_STRONG = 0.5, 0.1


@dataclass(frozen=True)
class View:
    """A picture as a network sees it, and the boxes (n, 4) of its fractures, in its pixels."""

    picture: UInt8Array
    boxes: Float32Array


def drawn_view(pixels: UInt8Array, polygons: Sequence[Polygon], size: int, rng: np.random.Generator) -> View:
    """Draw a random view: turned, scaled, stretched, mirrored, changed in style; fractures stay in it."""
    height, width = pixels.shape
    for _ in range(6):
        matrix = _placement(width, height, size, rng)
        boxes = moved_boxes(polygons, matrix, width, height)
        inside = np.clip(boxes, 0, size)
        if np.all(_areas(inside) >= 0.6 * _areas(boxes)):
            break
    view = np.asarray(cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_AREA), np.uint8)
    return View(styled(view, rng) if rng.random() < 0.7 else view, boxes)


def plain_view(pixels: UInt8Array, polygons: Sequence[Polygon], size: int) -> View:
    """Return the picture as the service sees it."""
    height, width = pixels.shape
    box = letterbox(width, height, size)
    matrix = np.array([[box.inner_width / width, 0, box.left], [0, box.inner_height / height, box.top]])
    return View(model_input(pixels, size), moved_boxes(polygons, matrix, width, height))


def _placement(width: int, height: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    scale = letterbox(width, height, size).scale * float(np.exp(rng.uniform(np.log(0.75), np.log(1.4))))
    turned = rng.choice([90, 180, 270]) if rng.random() < 0.06 else 0
    angle = np.deg2rad(rng.uniform(-12, 12) + turned)
    aspect = float(np.exp(rng.uniform(-0.15, 0.15))) if rng.random() < 0.4 else 1.0
    return placed(width, height, size, scale, float(angle), aspect, rng)


def _areas(boxes: Float32Array) -> Float32Array:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.float32)


def drawn_cells(sure: Float32Array, evidence: Float32Array, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw cells to learn from: numbers into the flat map.

    Elsewhere than in a box most are drawn by the trunk's own evidence (logits): those it may take for a
    fracture.
    """
    flat, elsewhere = sure.ravel(), sure.ravel() < IN_BOX
    inside = np.flatnonzero(~elsewhere)
    if len(inside) > _INSIDE:
        inside = rng.choice(inside, _INSIDE, replace=False, p=flat[inside] / flat[inside].sum())
    edge = np.flatnonzero(elsewhere & (flat > 0.01))
    edge = rng.choice(edge, min(len(edge), _EDGE), replace=False)
    likely = np.exp(np.clip(evidence.ravel(), -9, 9) / 2) * elsewhere
    hard = rng.choice(len(flat), _LIKELY, replace=False, p=likely / likely.sum())
    free = rng.choice(np.flatnonzero(elsewhere), _ANY, replace=False)
    return np.concatenate([inside, edge, hard, free])


def look(map_: npt.NDArray[Any], grid: int, cells: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return what a convolution of `models.architectures.with_boxes` sees of a map at some cells.

    Parameters
    ----------
    map_
        (h, w, channels), one source of the boxes.
    cells
        Numbers into the flat (grid, grid) map.
    """
    kernel, stride, coarser = architectures.box_kernel(map_.shape[0], grid)
    around = (kernel - stride + 1) // 2
    padded = np.pad(map_, ((around, around), (around, around), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(0, 1))
    y, x = cells // grid // coarser * stride, cells % grid // coarser * stride
    return np.ascontiguousarray(windows[y, x].transpose(0, 2, 3, 1)).reshape(len(cells), -1)


def cell_network(inputs: int, width: int, seed: int) -> Any:
    """Return the perceptron that learns what a cell says: `inputs` values to logit and four log-distances."""
    keras.utils.set_random_seed(seed)
    values = keras.Input((inputs,))
    x = keras.layers.Dense(width, name="seen")(values)
    x = keras.layers.Dropout(0.2)(keras.layers.ReLU()(x))
    x = keras.layers.Dense(width, activation="relu", name="hidden")(x)
    sure = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(-2.0), name="sure")(x)
    sides = keras.layers.Dense(
        4, name="sides", kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(0.5),
    )(x)  # fmt: skip
    return keras.Model(values, keras.layers.Concatenate()([sure, sides]))


def cell_loss(truth: Any, said: Any) -> Any:
    """Return the loss of cells: of how sure they are, and of the sides of their boxes.

    The first is weighed by how wrong they are (quality focal loss, Li et al. 2020). Sides count in cells of a
    box alone, by the overlap of the boxes and by the logarithms of their distances, in cells.
    """
    target, logit = truth[:, 0], said[:, 0]
    wrong = ops.stop_gradient(ops.abs(ops.sigmoid(logit) - target))
    in_box = ops.where(target > IN_BOX, target, 0.0)
    sides = sides_loss(truth[:, 1:5], said[:, 1:]) * in_box
    return 4 * ops.mean(wrong * entropy(target, logit)) + 0.5 * ops.sum(sides) / (ops.sum(in_box) + 1e-3)


class Trunk:
    """The maps of a reading network that boxes are drawn from."""

    def __init__(self, network: Any, architecture: str) -> None:
        self.network, self.architecture = network, architecture
        self.sources = architectures.BOX_SOURCES[architecture]
        layers = [network.get_layer(name).output for name in (*self.sources, architectures.LOCAL)]
        self.size, self.grid = int(network.input.shape[1]), int(layers[-1].shape[1])
        self._maps = keras.Model(network.input, layers)

    def maps(self, pictures: Sequence[UInt8Array]) -> list[npt.NDArray[Any]]:
        """Return the maps of pictures, the evidence map (logits) last."""
        stack = np.stack(pictures)[..., None].astype(np.float32)
        return [np.asarray(ops.convert_to_numpy(rows)) for rows in self._maps.predict_on_batch(stack)]

    def cells(self, views: Sequence[View], rng: np.random.Generator) -> tuple[Any, Float32Array]:
        """Draw cells of views: what they see, float16 (n, inputs), and what they are to say, (n, 5)."""
        *maps, local = self.maps([view.picture for view in views])
        seen, wanted = [], []
        for number, view in enumerate(views):
            sure, sides = box_targets(view.boxes * (self.grid / self.size), self.grid)
            cells = drawn_cells(sure, local[number, ..., 0], rng)
            rows = [look(map_[number].astype(np.float16), self.grid, cells) for map_ in maps]
            seen.append(np.concatenate(rows, axis=1))
            wanted.append(np.column_stack([sure.ravel()[cells], sides.reshape(-1, 4)[cells]]))
        return np.concatenate(seen), np.concatenate(wanted).astype(np.float32)

    def with_boxes(self, cells: Any, mean: Float32Array, spread: Float32Array) -> Any:
        """Return the network with boxes, drawn by what `cell_network` has learned of scaled values."""
        kernel, bias = cells.get_layer("seen").get_weights()
        kernel, bias = kernel / spread[:, None], bias - (mean / spread) @ kernel
        network = architectures.with_boxes(self.network, self.architecture, width=kernel.shape[1])
        start = 0
        for number, name in enumerate(self.sources):
            layer = network.get_layer(f"{architectures.BOXES}_{name}")
            shape = layer.get_weights()[0].shape
            length = int(np.prod(shape[:3]))
            part = kernel[start : start + length].reshape(shape)
            layer.set_weights([part, bias if number == 0 else np.zeros_like(bias)])
            start += length
        hidden, bias = cells.get_layer("hidden").get_weights()
        network.get_layer(f"{architectures.BOXES}_hidden").set_weights([hidden[None, None], bias])
        last = [cells.get_layer(name).get_weights() for name in ("sure", "sides")]
        kernel, bias = (np.concatenate([of[i] for of in last], axis=-1) for i in (0, 1))
        network.get_layer(architectures.BOXES).set_weights([kernel[None, None], bias])
        return network


def views_of(
    examples: Sequence[Example],
    pixels: Sequence[UInt8Array],
    size: int,
    fractured: int,
    normal: int,
    seed: int,
) -> Iterator[View]:
    """Yield random views: so many of each picture with a fracture, and of each without."""
    for number, (example, picture) in enumerate(zip(examples, pixels, strict=True)):
        for again in range(fractured if example.positive else normal):
            rng = np.random.default_rng([seed, number, again])
            yield drawn_view(picture, example.polygons, size, rng)


def fitted(
    seen: npt.NDArray[Any],
    wanted: Float32Array,
    *,
    width: int,
    epochs: int,
    seed: int,
    batch: int = 512,
    rate: float = 2e-3,
) -> tuple[Any, Float32Array, Float32Array]:
    """Fit `cell_network`; return it and the mean and spread that values are scaled by."""
    some = seen[::5].astype(np.float32)
    mean, spread = some.mean(axis=0), some.std(axis=0) + np.float32(0.05)
    network = cell_network(seen.shape[1], width, seed)
    steps = max(1, len(seen) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps * epochs, warmup_target=rate, warmup_steps=steps // 2
    )
    network.compile(optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.02), loss=cell_loss)
    for epoch in range(epochs):
        order, losses = np.random.default_rng([seed, epoch]).permutation(len(seen)), []
        for rows in np.array_split(order, steps):
            values = (seen[rows].astype(np.float32) - mean) / spread
            losses.append(float(network.train_on_batch(values, wanted[rows])))
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", flush=True)
    return network, mean, spread


@dataclass(frozen=True)
class Looked:
    """What a bundle says of one film, before any rule for places."""

    example: Example
    shape: tuple[int, int]
    logit: float
    negative: bool
    boxes: npt.NDArray[np.float32]
    evidence: npt.NDArray[np.float16]

    def places(self, rules: PlaceRules) -> FilmPlaces:
        """Return its places as the service would have them: none on a negative."""
        height, width = self.shape
        found: tuple[SuspectedPlace, ...] = ()
        if not self.negative:
            found = drawn_places(self.boxes, self.evidence, self.logit, width, height, rules)
        return FilmPlaces(self.example.group, boxes_of(self.example.polygons), found, self.shape)


def looked(scorer: Scorer, examples: Sequence[Example], pixels: Sequence[UInt8Array]) -> list[Looked]:
    """Read films as the service does; all films, also those that it would refuse."""
    bundle, found = scorer.bundle, []
    for example, picture in zip(examples, pixels, strict=True):
        said = scorer.classify(model_input(picture, bundle.region_input_size)[None]).probabilities[0]
        best = max(bundle.models, key=lambda region: said[bundle.regions.index(region)])
        model = bundle.models[best]
        scores = scorer.detect(model.network, model_input(picture, bundle.input_size(model.network))[None])
        probability = calibrate(float(scores.logits[0]), model.calibration)
        negative = model.may_say_negative and probability < model.thresholds.low
        shape = (picture.shape[0], picture.shape[1])
        found.append(
            Looked(example, shape, float(scores.logits[0]), negative, scores.boxes[0], scores.evidence[0])
        )
    return found


def chosen_rules(films: Sequence[Looked]) -> PlaceRules:
    """Choose on validation what else counts in a score, and from which score on a place is shown.

    The weights are those with the largest AP50. A place is shown from where there is half a false one a film,
    and strong from where there is a tenth of one.
    """
    some = [PlaceRules(0.0, 1.0, film=f, evidence=e) for f in _FILM_WEIGHTS for e in _EVIDENCE_WEIGHTS]
    rules = max(some, key=lambda rules: _precision(films, rules))
    false = np.sort(false_scores([film.places(rules) for film in films]))[::-1]
    shown, strong = (
        float(false[min(len(false) - 1, int(rate * len(films)))]) for rate in (_FALSE_SHOWN, _FALSE_STRONG)
    )
    return replace(rules, shown=round(shown, 4), strong=round(strong, 4))


def _precision(films: Sequence[Looked], rules: PlaceRules) -> float:
    return float(places_figures([film.places(rules) for film in films], rounds=0)["AP50"]["value"])


def rebuilt(
    old: Bundle,
    name: str,
    network: Any,
    figures: Mapping[str, Any],
    places: PlaceRules | None,
    command: str,
) -> BundleContent:
    """Return what a bundle holds when its reading network draws boxes and all else is as it was.

    Parameters
    ----------
    figures
        What was measured anew; the others are the old bundle's.
    """
    kept = old.networks[old.region_network]
    files = {n.sha256: n for n in old.networks.values() if n.sha256 != kept.sha256}
    heads = sorted(
        (n for n in old.networks.values() if n.sha256 == kept.sha256 and n.head is not None),
        key=lambda n: n.head or 0,
    )
    trained = TrainedNetwork(network, kept.architecture, kept.input_size, heads=tuple(n.name for n in heads))
    others = {n.name: n for n in files.values()}
    content = taken_over(old, name)
    said = {**content.facts, "command": command, "figures": {**old.manifest["figures"], **figures}}
    return replace(
        content,
        networks={old.region_network: trained},
        kept=others,
        card=card(name, {old.region_network: trained, **others}, old.models, said, command),
        facts=said,
        places=places,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.places", description=__doc__)
    parser.add_argument("bundle", type=Path, help="whose reading network is to draw boxes")
    parser.add_argument("--write", help="name of the new bundle, measured on the test part, too")
    parser.add_argument("--out", type=Path, default=Path("models/bundles"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    parser.add_argument("--views", type=int, default=5, help="of a film with a fracture; of others one")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    old, parts = load_bundle(args.bundle), _films(args.data or shared_data(), args.runs)
    kept = old.networks[old.region_network]
    trunk = Trunk(keras.saving.load_model(kept.path, compile=False, safe_mode=True), kept.architecture)
    seen, wanted = _cells(trunk, *parts["train"], args.views, args.seed, args.runs / "places")
    network = trunk.with_boxes(*fitted(seen, wanted, width=args.width, epochs=args.epochs, seed=args.seed))
    scorer = _opened(old, network, args.runs)
    validation = looked(scorer, *parts["val"])
    rules = chosen_rules(validation)
    figures = places_figures([film.places(every_place(rules)) for film in validation])
    print(rules, json.dumps(figures, indent=1))
    if args.write:
        test = places_figures([film.places(every_place(rules)) for film in looked(scorer, *parts["test"])])
        print(json.dumps(test, indent=1), "earned" if earned(test) else "not earned")
        found = {"places": test, "places, validation": figures}
        command = f"{old.manifest['command']}; python -m training.places {args.bundle} --write {args.write}"
        content = rebuilt(old, args.write, network, found, rules if earned(test) else None, command)
        bundle = write_bundle(content, args.out / args.write)
        print(bundle.folder, bundle.sha256)


def every_place(rules: PlaceRules) -> PlaceRules:
    """Return the rules with every place shown, as figures over all scores need it."""
    return replace(rules, shown=0.0)


def _films(data: Path, runs: Path) -> dict[str, tuple[Sequence[Example], Sequence[UInt8Array]]]:
    dataset = read_fracatlas(data / "fracatlas")
    parts = read_split(ROOT / "training" / "splits" / "fracatlas.csv", dataset.examples)
    return {name: (examples, load_pixels(examples, runs / "cache")) for name, examples in parts.items()}


def _opened(old: Bundle, network: Any, runs: Path) -> Scorer:
    """Open a draft of the bundle with this network."""
    folder = runs / "draft" / "places"
    (folder / MANIFEST).unlink(missing_ok=True)
    draft = write_bundle(rebuilt(old, "places", network, {}, None, ""), folder)
    return open_scorer(draft, backend="openvino", cache=runs / "openvino", conversion_seconds=3600)


def _cells(
    trunk: Trunk,
    examples: Sequence[Example],
    pixels: Sequence[UInt8Array],
    views: int,
    seed: int,
    folder: Path,
) -> tuple[npt.NDArray[Any], Float32Array]:
    """Draw the cells of random views, sixteen views at a time, or take those of an earlier run."""
    kept = folder / f"cells-{views}-{seed}.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as file:
            return file["seen"], file["wanted"]
    rng, found = np.random.default_rng([seed, 1]), []
    drawn = views_of(examples, pixels, trunk.size, views, 1, seed)
    while some := list(islice(drawn, 16)):
        found.append(trunk.cells(some, rng))
        if len(found) % 20 == 0:
            print(f"{len(found) * 16} views", flush=True)
    seen, wanted = (np.concatenate(rows) for rows in zip(*found, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(kept, seen=seen, wanted=wanted)
    return seen, wanted


if __name__ == "__main__":
    main()
