"""Build a bundle around a reading network, and measure it by part.

    python -m training.reading_bundle NAME --config training/configs/fracatlas_2.py
    python -m training.reading_bundle NAME --config training/configs/fracatlas_2.py --fracture OLD --join
    python -m training.reading_bundle NAME --head runs/parts.npz --fracture models/bundles/OLD
    python -m training.reading_bundle NAME --networks models/bundles/OLD --centre 0.75

The reading network, or an older region network with a new head (`training.part_probe`), tells the part and
refuses what is none. The fracture is read by its own heads, or by the fracture networks of another bundle as
long as those read better, or by both (`--join`): a weighted mean of the two logits, each scaled to deviate
equally over validation. Or all networks of a bundle stay as they are, and it is calibrated and cut anew.

Calibration and thresholds are fitted on the validation and test parts together, which no weight was fitted
on. Every figure is cross-fitted: what is said of the test part rests on validation alone; which part may say
*negative* rests on all films of both, each judged by thresholds that were fitted without its tenth of them.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt

from models import architectures
from models.bundle import MANIFEST, Bundle, Network, load_bundle
from models.scorer import Reference, Scorer, open_scorer
from pipeline import metrics
from pipeline.boxes import suspected_places
from pipeline.earned import earned
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate
from pipeline.types import PlaceRules, Platt, RegionModel, Route, RoutingRules, Thresholds, UInt8Array
from training.calibrate import fit_platt, refused_from
from training.datasets import phantom_examples
from training.datasets.parts import FAMILY, PARTS
from training.earned import cautious_thresholds
from training.experiment import ROOT, load_config, shared_data
from training.export import BundleContent, TrainedNetwork, taken_over, write_bundle
from training.looks import looks_by_sha256
from training.places import Looked, chosen_rules, every_place
from training.places_figures import FilmPlaces, boxes_of, places_figures
from training.places_figures import earned as places_earned
from training.reading import BOXES_WIDTH, auc_within
from training.reading_card import card, limits
from training.reading_data import HEADS, OTHER, Film, Films, phantom_film, read_films
from training.reading_plan import ReadingPlan
from training.travel import equalised

#: Parts that stand alone: no family lends them its evidence.
ALONE = ("hip", "shoulder")
#: A part of so many normal films has half of the offset that they say.
_SHRINK = 20
#: How much of a fracture's logit may be the reading network's, where two read it.
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
#: Phantoms from this seed on are never trained on.
_HELD_OUT_SEED = 900_000


def _stretched(picture: UInt8Array) -> UInt8Array:
    """Return a picture a quarter wider than it is."""
    return np.asarray(cv2.resize(picture, (round(picture.shape[1] * 1.25), picture.shape[0])), np.uint8)


STYLES = {
    "equalised": equalised,
    "inverted": lambda p: np.asarray(255 - p, np.uint8),
    "stretched": _stretched,
}


@dataclass(frozen=True)
class Read:
    """What a draft bundle says of one picture; `logit` is None where nothing read it."""

    film: Film
    shape: tuple[int, int]
    probabilities: Mapping[str, float]
    route: Route
    logit: float | None
    evidence: Any
    boxes: Any = None


#: A film, the part that it is taken for, its probability, and the thresholds that judge it.
Judged = tuple[Read, str, float, Thresholds]
FloatArray = npt.NDArray[np.float64]


def told_parts(scorer: Scorer, pixels: Sequence[UInt8Array]) -> list[dict[str, float]]:
    """Return the part network's probabilities for pictures, by region."""
    said: list[dict[str, float]] = []
    for start in range(0, len(pixels), 32):
        some = pixels[start : start + 32]
        stack = np.stack([model_input(p, scorer.bundle.region_input_size) for p in some])
        for row in scorer.classify(stack).probabilities:
            said.append(dict(zip(scorer.bundle.regions, map(float, row), strict=True)))
    return said


def read(scorer: Scorer, films: Films, *, fractures: bool = True) -> list[Read]:
    """Read pictures as the service does: part, then the part's fracture network.

    A limb that is refused has a logit all the same, for the figures.
    """
    bundle, said = scorer.bundle, told_parts(scorer, films.pixels)
    logits: list[float | None] = [None] * len(said)
    maps: list[Any] = [None] * len(said)
    boxes: list[Any] = [None] * len(said)
    limbs = [i for i, f in enumerate(films.films) if f.source != "negative" and fractures]
    for network in sorted({m.network for m in bundle.models.values()}):
        mine = [i for i in limbs if bundle.models[_best(said[i])].network == network]
        side = bundle.input_size(network)
        for start in range(0, len(mine), 32):
            some = mine[start : start + 32]
            scores = scorer.detect(network, np.stack([model_input(films.pixels[i], side) for i in some]))
            for place, i in enumerate(some):
                logits[i], maps[i] = float(scores.logits[place]), scores.evidence[place]
                boxes[i] = scores.boxes[place]
    return [
        Read(f, (p.shape[0], p.shape[1]), s, _routed(s, bundle.routing), g, m, b)
        for f, p, s, g, m, b in zip(films.films, films.pixels, said, logits, maps, boxes, strict=True)
    ]


def _best(probabilities: Mapping[str, float]) -> str:
    return max(PARTS, key=lambda p: probabilities[p])


def _routed(probabilities: Mapping[str, float], rules: RoutingRules) -> Route:
    return route(probabilities, None, rules, body_part="", regions=PARTS, families=FAMILY)


def reader_of(part: str, fracture: Bundle | None) -> str:
    """Return the network that reads a part: its own head or its family's, or those of another bundle."""
    if fracture is None:
        heads = [h for h in HEADS if h in {"all", FAMILY[part], part}]
        return f"reading-{heads[-1]}"
    old = {"arm": "hand"}.get(FAMILY[part], FAMILY[part])
    return fracture.models[old].network


def routing_rules(validation: Sequence[Read]) -> RoutingRules:
    """Return the rules of a reading network; what it refuses, `refused_from` says."""
    limbs = [r.probabilities["other"] for r in validation if r.film.source == "film"]
    return RoutingRules(0.5, None, 0.35, across_families=True, max_foreign=refused_from(limbs))


def _offsets(films: Sequence[Read], centre: float) -> dict[str, float]:
    """Return by part how far its thresholds lie from its family's, on the scale of the logit.

    A share `centre` of how far the mean of its normal films lies from its family's; less where there are few.
    """
    normal = [(_best(r.probabilities), r.logit or 0.0) for r in films if not r.film.example.positive]
    found = dict.fromkeys(PARTS, 0.0)
    for part in PARTS:
        mine = [logit for told, logit in normal if told == part]
        family = [logit for told, logit in normal if FAMILY[told] == FAMILY[part]]
        if mine:
            share = len(mine) / (len(mine) + _SHRINK)
            found[part] = centre * share * float(np.mean(mine) - np.mean(family))
    return found


def _fit(
    reads: Sequence[Read], models: Mapping[str, RegionModel], centre: float = 0.0
) -> dict[str, RegionModel]:
    """Fit calibration and thresholds: a family at a time, hip and shoulder on all films.

    With `centre` the thresholds of a family's parts lie apart by `_offsets`, and what they miss and find is
    still the whole family's.
    """
    films = [r for r in reads if r.film.source == "film" and r.logit is not None]
    offsets = _offsets(films, centre)
    fitted = {}
    for part, model in models.items():
        mine = [r for r in films if part in ALONE or FAMILY[_best(r.probabilities)] == FAMILY[part]]
        y = np.array([r.film.example.positive for r in mine])
        platt = fit_platt([r.logit or 0.0 for r in mine], y)
        within = np.array([(r.logit or 0.0) - offsets[_best(r.probabilities)] for r in mine])
        cuts = cautious_thresholds(within, y)
        low, high = (calibrate(cut + offsets[part], platt) for cut in (cuts.low, cuts.high))
        fitted[part] = replace(model, calibration=platt, thresholds=Thresholds(low, high))
    return fitted


def judged(
    reads: Sequence[Read], fitted_on: Sequence[Read], models: Mapping[str, RegionModel], centre: float = 0.0
) -> list[Judged]:
    """Return films with part, probability and thresholds, those fitted on other films."""
    fitted, rows = _fit(fitted_on, models, centre), []
    for r in reads:
        if r.film.source == "film" and r.logit is not None:
            model = fitted[_best(r.probabilities)]
            rows.append((r, model.region, calibrate(r.logit, model.calibration), model.thresholds))
    return rows


def tenths(reads: Sequence[Read], folds: int = 10) -> Iterator[tuple[list[Read], list[Read]]]:
    """Divide readings by group of near-duplicates; yield each tenth and the others.

    Tenths hold equally many groups with a fracture: thresholds stand on those.
    """
    groups: dict[str, bool] = {}
    for r in reads:
        groups[r.film.example.group] = groups.get(r.film.example.group, False) or r.film.example.positive
    order = np.random.default_rng(0).permutation(sorted(groups))
    ordered = sorted(order, key=lambda name: groups[name])
    fold = {name: place % folds for place, name in enumerate(ordered)}
    for number in range(folds):
        mine = [r for r in reads if fold[r.film.example.group] == number]
        yield mine, [r for r in reads if fold[r.film.example.group] != number]


def cross_fitted(
    reads: Sequence[Read], models: Mapping[str, RegionModel], centre: float = 0.0
) -> list[Judged]:
    """Return every film judged by what was fitted without its tenth."""
    rows: list[Judged] = []
    for mine, others in tenths(reads):
        rows.extend(judged(mine, others, models, centre))
    return rows


def figures_by_part(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return figures with 95% intervals, bootstrap over groups: over all films, and by part."""
    found = {"overall": film_figures(rows)}
    for part in PARTS:
        found[part] = film_figures([row for row in rows if row[1] == part])
    return found


def film_figures(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return the figures of some films, with 95% intervals by bootstrap over groups."""
    y = np.array([r.film.example.positive for r, *_ in rows], bool)
    p = np.array([p for *_, p, _ in rows])
    low, high = (np.array([getattr(t, name) for *_, t in rows]) for name in ("low", "high"))
    main = np.array([int(r.film.main.argmax()) for r, *_ in rows])
    found: dict[str, Any] = {"images": len(rows), "fractured": int(y.sum())}
    if not y.any() or y.all():
        return found

    def measured(k: Any) -> dict[str, float]:
        up, down = y[k], ~y[k]
        return {
            "auc": metrics.auc(p[k], y[k]),
            "auc_within": auc_within(p[k], y[k], main[k]),
            "ece": metrics.expected_calibration_error(p[k], y[k]),
            "sensitivity_at_low": float((p[k] >= low[k])[up].mean()) if up.any() else float("nan"),
            "specificity_at_low": float((p[k] < low[k])[down].mean()) if down.any() else float("nan"),
            "sensitivity_at_high": float((p[k] >= high[k])[up].mean()) if up.any() else float("nan"),
            "specificity_at_high": float((p[k] < high[k])[down].mean()) if down.any() else float("nan"),
            "between_the_thresholds": float(((p[k] >= low[k]) & (p[k] < high[k])).mean()),
        }

    intervals = metrics.bootstrap(measured, [r.film.example.group for r, *_ in rows])
    for name, value in measured(np.arange(len(rows))).items():
        found[name] = {"value": None if np.isnan(value) else value, "interval": intervals.get(name)}
    return found


def doubtful(row: Judged, models: Mapping[str, RegionModel]) -> bool:
    """Tell whether a film is answered *doubt*."""
    _, part, p, cuts = row
    return p < cuts.high and (p >= cuts.low or not models[part].may_say_negative)


def doubt(rows: Sequence[Judged], models: Mapping[str, RegionModel]) -> dict[str, float]:
    """Return by part which share of films is answered *doubt*, also for want of leave to say *negative*."""
    by_part: dict[str, list[bool]] = {}
    for row in rows:
        by_part.setdefault(row[1], []).append(doubtful(row, models))
    everything = [answer for answers in by_part.values() for answer in answers]
    return {name: float(np.mean(answers)) for name, answers in {**by_part, "all": everything}.items()}


def parts_figures(reads: Sequence[Read]) -> dict[str, float]:
    """Return how well parts and families are told, and limbs and other pictures kept apart."""
    films = [r for r in reads if r.film.source == "film" and r.film.main.sum() > 0]
    agreed = [r for r in films if r.film.agreed]
    told = [_best(r.probabilities) for r in films]
    main = [PARTS[int(r.film.main[:OTHER].argmax())] for r in films]
    found = {
        "part_right": float(np.mean([_best(r.probabilities) == r.film.agreed for r in agreed])),
        "films_agreed": len(agreed),
        "family_right": float(np.mean([FAMILY[a] == FAMILY[b] for a, b in zip(told, main, strict=True)])),
        "limbs": len(films),
        "limbs_refused": float(np.mean([r.route.not_assessable is not None for r in films])),
    }
    for part in PARTS:
        mine = [r for r, m in zip(films, main, strict=True) if m == part]
        found[f"limbs_refused {part}"] = float(np.mean([r.route.not_assessable is not None for r in mine]))
    return found


def refusals(reads: Sequence[Read]) -> dict[str, dict[str, float]]:
    """Return by class how many pictures of the negatives there are and which share was refused."""
    by_class: dict[str, list[bool]] = {}
    for r in reads:
        if r.film.source == "negative":
            name = r.film.example.traits["class"]
            by_class.setdefault(name, []).append(r.route.not_assessable is not None)
    everything = [refused for answers in by_class.values() for refused in answers]
    return {
        name: {"pictures": len(answers), "refused": float(np.mean(answers))}
        for name, answers in sorted({**by_class, "all": everything}.items())
    }


def suspected(reads: Sequence[Read]) -> dict[str, Any]:
    """Return the figures of the suspected places around the evidence maps, over all films."""
    rules = PlaceRules(0.0, 1.0)
    films = [
        FilmPlaces(
            r.film.example.group,
            boxes_of(r.film.example.polygons),
            suspected_places(r.evidence, r.shape[1], r.shape[0], rules),
            r.shape,
        )
        for r in reads
        if r.film.source == "film" and r.evidence is not None and len(r.evidence)
    ]
    return places_figures(films)


def _looked(
    reads: Sequence[Read], fitted: Mapping[str, RegionModel], models: Mapping[str, RegionModel]
) -> list[Looked]:
    """Return what a bundle says of films before any rule for places.

    Parameters
    ----------
    fitted
        With the thresholds that judge them.
    models
        That say which part may be negative.
    """
    found = []
    for r in reads:
        if r.film.source == "film" and r.logit is not None:
            part = _best(r.probabilities)
            low = fitted[part].thresholds.low
            negative = models[part].may_say_negative and calibrate(r.logit, fitted[part].calibration) < low
            found.append(Looked(r.film.example, r.shape, r.logit, negative, r.boxes, r.evidence))
    return found


def phantom_figures(
    scorer: Scorer, models: Mapping[str, RegionModel], rules: RoutingRules, count: int = 8
) -> dict[str, dict[str, int]]:
    """Return how held-out phantoms of what the demo shows are triaged: what `make demo` will look like."""
    found: dict[str, dict[str, int]] = {}
    for region in ("knee", "lower_leg", "humerus", "forearm", "hip", "shoulder", "elbow", "hand"):
        examples, pictures = phantom_examples([region], count, _HELD_OUT_SEED)
        for r in read(scorer, Films([phantom_film(e) for e in examples], pictures)):
            model, way = models[_best(r.probabilities)], _routed(r.probabilities, rules)
            p = calibrate(r.logit or 0.0, model.calibration)
            state = (
                "not read" if way.not_assessable else
                "positive" if p >= model.thresholds.high else
                "negative" if p < model.thresholds.low and model.may_say_negative and not way.flags else
                "doubt"
            )  # fmt: skip
            kind = f"{region}, {'fractured' if r.film.example.positive else 'whole'}"
            found.setdefault(kind, {}).setdefault(state, 0)
            found[kind][state] += 1
    return found


def reading_networks(plan: ReadingPlan, size: int, weights: Path) -> dict[str, TrainedNetwork]:
    """Return the reading network of a run, its heads named."""
    network = architectures.reading_network(plan.architecture, size, len(PARTS), len(HEADS))
    if plan.boxes_weight:
        network = architectures.with_boxes(network, plan.architecture, width=BOXES_WIDTH)
    network.load_weights(weights)
    heads = tuple(f"reading-{head}" for head in HEADS)
    return {"reading": TrainedNetwork(network, plan.architecture, size, heads=heads)}


def probed_networks(old: Bundle, head: Path) -> dict[str, TrainedNetwork]:
    """Return another bundle's region network with the head of `training.part_probe` in place of its own."""
    kept = old.networks[old.region_network]
    trunk = keras.saving.load_model(kept.path, compile=False, safe_mode=True)
    features = trunk.get_layer(architectures.FEATURES).output
    logit = keras.layers.Dense(len(PARTS) + 1, name=architectures.LOGIT)
    network = keras.Model(
        trunk.input, {architectures.LOGIT: logit(features), architectures.FEATURES: features}, name="parts"
    )
    with np.load(head, allow_pickle=False) as fitted:
        logit.set_weights([fitted["kernel"], fitted["bias"]])
    return {"parts": TrainedNetwork(network, kept.architecture, kept.input_size)}


def fracture_networks(old: Bundle | None) -> dict[str, Network]:
    """Return the fracture networks of another bundle."""
    return {} if old is None else {reader_of(p, old): old.networks[reader_of(p, old)] for p in PARTS}


def joined(
    content: BundleContent, halves: Sequence[Sequence[Read]], scorer: Scorer, films: Mapping[str, Films]
) -> dict[str, tuple[str, tuple[float, float]]]:
    """Return for each fracture network of another bundle its partner, a head of the reading network.

    Both logits are scaled to deviate equally over the validation films that the network reads; the share of
    the partner is the one of `_SHARES` with the largest AUC, over all and within parts, on validation.
    """
    scaled: dict[str, tuple[str, float, float, list[int], FloatArray, FloatArray]] = {}
    for network in sorted({model.network for model in content.models.values()}):
        mine = [p for p, model in content.models.items() if model.network == network]
        families = {FAMILY[p] for p in mine}
        head = f"reading-{families.pop()}" if len(families) == 1 else "reading-all"
        rows = [
            i for i, r in enumerate(halves[0]) if r.film.source == "film" and _best(r.probabilities) in mine
        ]
        side = scorer.bundle.input_size(head)
        said: list[float] = []
        for start in range(0, len(rows), 32):
            stack = [model_input(films["val"].pixels[i], side) for i in rows[start : start + 32]]
            said.extend(scorer.detect(head, np.stack(stack)).logits)
        own = np.array([halves[0][i].logit or 0.0 for i in rows])
        partner = np.array(said)
        scaled[network] = (head, float(own.std()), float(partner.std()), rows, own, partner)
    seen = [i for *_, rows, _, _ in scaled.values() for i in rows]
    fractured = np.array([halves[0][i].film.example.positive for i in seen])
    main = np.array([int(halves[0][i].film.main.argmax()) for i in seen])

    def worth(share: float) -> float:
        logits = [
            (1 - share) * own / own_spread + share * partner / spread
            for _, own_spread, spread, _, own, partner in scaled.values()
        ]
        score = np.concatenate(logits)
        return metrics.auc(score, fractured) + auc_within(score, fractured, main)

    print("AUC and AUC within parts on validation, added:", {s: round(worth(s), 4) for s in _SHARES})
    share = max(_SHARES, key=worth)
    return {
        network: (head, ((1 - share) / own_spread, share / spread))
        for network, (head, own_spread, spread, *_) in scaled.items()
    }


def drafted(
    name: str, networks: Mapping[str, TrainedNetwork], fracture: Bundle | None, films: Mapping[str, Films]
) -> BundleContent:
    """Return a bundle that is not calibrated yet.

    Parameters
    ----------
    networks
        The one that tells the part.
    fracture
        Whose networks read the fracture; None: the heads of that one.
    """
    region_network = next(iter(networks))
    network = networks[region_network].model
    readers = {part: reader_of(part, fracture) for part in PARTS}
    uncalibrated = (Platt(1.0, 0.0, 0.5), Thresholds(0.0, 1.0))
    fitted = [film.example for part in films.values() for film in part.films if film.source == "film"]
    return BundleContent(
        name=name,
        label_meaning="fractured",
        regions=(*PARTS, "other"),
        region_network=region_network,
        networks=networks,
        kept=fracture_networks(fracture),
        models={
            part: RegionModel(part, reader, *uncalibrated, list(readers.values()).count(reader) > 1)
            for part, reader in readers.items()
        },
        routing=RoutingRules(0.5, None, 0.35, across_families=True, max_foreign=0.5),
        reference=Reference.blank(int(network.output[architectures.FEATURES].shape[-1])),
        limits=(),
        trained_on="FracAtlas, split by group",
        card="",
        fitted_on=[example.sha256 for example in fitted],
        looks=looks_by_sha256(fitted),
        families=FAMILY,
        views=PARTS if networks[region_network].heads else (),
    )


def read_halves(
    content: BundleContent, films: Mapping[str, Films], runs: Path
) -> tuple[Scorer, tuple[list[Read], list[Read]]]:
    """Read validation and test with a draft of a bundle."""
    folder = runs / "draft" / content.name
    (folder / MANIFEST).unlink(missing_ok=True)
    draft = write_bundle(content, folder)
    scorer = open_scorer(draft, backend="openvino", cache=runs / "openvino", conversion_seconds=3600)
    return scorer, (read(scorer, films["val"]), read(scorer, films["test"]))


def rerouted(reads: Sequence[Read], rules: RoutingRules) -> list[Read]:
    """Return readings with what other rules refuse."""
    return [replace(r, route=_routed(r.probabilities, rules)) for r in reads]


def with_evidence(models: Mapping[str, RegionModel], rows: Sequence[Judged]) -> dict[str, RegionModel]:
    """Return models with what held-out films show, and leave to say *negative* where that is enough."""
    broken = [(part, p >= cuts.low) for r, part, p, cuts in rows if r.film.example.positive]
    fractures = {part: sum(name == part for name, _ in broken) for part in PARTS}
    hits = {part: sum(name == part and hit for name, hit in broken) for part in PARTS}
    return {
        part: replace(models[part], may_say_negative=allowed, evidence=evidence)
        for part, (allowed, evidence) in earned(fractures, hits, FAMILY, ALONE).items()
    }


def build(
    content: BundleContent,
    films: Mapping[str, Films],
    runs: Path,
    out: Path,
    command: str,
    join: bool = False,
    centre: float = 0.0,
) -> Bundle:
    """Calibrate, cut and measure a bundle, and write it; see the module.

    Parameters
    ----------
    join
        Let the heads of the network that tells the part read the fracture, too.
    centre
        How far apart the thresholds of a family's parts lie, see `_offsets`.
    """
    scorer, halves = read_halves(content, films, runs)
    if join:
        content = replace(content, partners=joined(content, halves, scorer, films))
        scorer, halves = read_halves(content, films, runs)
    rules = routing_rules(halves[0])
    validation, test = (rerouted(half, rules) for half in halves)
    content = replace(content, routing=rules)
    everything = [*validation, *test]
    test_rows = judged(test, validation, content.models, centre)
    rows = cross_fitted(everything, content.models, centre)
    models = with_evidence(_fit(everything, content.models, centre), rows)
    content = replace(content, models=models)
    drawn: dict[str, Any] = {"places": suspected(test)}
    if any(r.boxes is not None and len(r.boxes) for r in everything):
        # a negative has no places: which films those are, thresholds fitted on validation alone say of both
        fitted = _fit(validation, content.models, centre)
        places = chosen_rules(_looked(validation, fitted, models))
        drawn = {
            name: places_figures([film.places(every_place(places)) for film in _looked(half, fitted, models)])
            for name, half in (("places", test), ("places, validation", validation))
        }
        content = replace(content, places=places if places_earned(drawn["places"]) else None)
    facts = {
        "command": command,
        "joined": {name: partner for name, (partner, _) in content.partners.items()},
        "split": {name: len([f for f in part.films if f.source == "film"]) for name, part in films.items()},
        "figures": {
            "test": figures_by_part(test_rows),
            "validation and test, cross-fitted": figures_by_part(rows),
            "parts": parts_figures(test),
            "doubt": doubt(rows, models),
            "refused": refusals(test),
            **drawn,
            "styles": {
                name: _style(scorer, films["val"], style, rules)
                for name, style in {"as it is": None, **STYLES}.items()
            },
            "phantoms": phantom_figures(scorer, models, rules),
        },
    }
    content = replace(
        content,
        limits=limits(models, ALONE),
        card=card(content.name, {**content.networks, **content.kept}, models, facts, command),
        facts=facts,
    )
    return write_bundle(content, out)


def _style(scorer: Scorer, films: Films, style: Any, rules: RoutingRules) -> dict[str, float]:
    """Measure parts and refusals on every second validation picture, changed."""
    some = Films(films.films[::2], [style(p) if style else p for p in films.pixels[::2]])
    reads = rerouted(read(scorer, some, fractures=False), rules)
    figures = parts_figures(reads)
    wanted = ("part_right", "family_right", "limbs_refused")
    return {name: figures[name] for name in wanted} | {"refused": refusals(reads)["all"]["refused"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.reading_bundle", description=__doc__)
    parser.add_argument("name", help="of the new bundle")
    tells = parser.add_mutually_exclusive_group(required=True)
    tells.add_argument("--config", type=Path, help="the reading network of this run tells the parts")
    tells.add_argument(
        "--head", type=Path, help="the region network of --fracture tells them, with this head"
    )
    tells.add_argument(
        "--networks", type=Path, help="a bundle: its networks as they are, calibration and thresholds anew"
    )
    parser.add_argument("--size", type=int, help="a reading network's input (default: the last stage's)")
    parser.add_argument("--fracture", type=Path, help="a bundle whose fracture networks read the fracture")
    parser.add_argument("--join", action="store_true", help="let the reading network's heads read it, too")
    parser.add_argument(
        "--centre", type=float, default=0.0, help="set thresholds by part: by this share of what parts differ"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    parser.add_argument("--out", type=Path, default=Path("models/bundles"))
    args = parser.parse_args(arguments)
    if args.join and not (args.config and args.fracture):
        parser.error("--join needs --config and --fracture")
    if args.head and not args.fracture:
        parser.error("--head needs --fracture")
    fracture = load_bundle(args.fracture) if args.fracture else None
    split, before = ROOT / "training" / "splits" / "fracatlas.csv", ""
    told = f"--fracture {args.fracture} " if args.fracture else ""
    if args.centre:
        told += f"--centre {args.centre} "
    if args.config:
        plan = load_config(args.config, ReadingPlan)
        size, split = args.size or plan.stages[-1].size, plan.split
        networks = reading_networks(plan, size, args.runs / plan.name / "average.weights.h5")
        told += f"--config {args.config} --size {size}{' --join' if args.join else ''}"
    elif args.head and fracture:
        networks = probed_networks(fracture, args.head)
        told += f"--head runs/{args.head.name}"
    else:
        old = load_bundle(args.networks)
        before, told = f"{old.manifest['command']}; ", f"{told}--networks {args.networks}"
    films = read_films(args.data or shared_data(), split, args.runs / "cache", 0, 0)
    content = taken_over(old, args.name) if args.networks else drafted(args.name, networks, fracture, films)
    command = f"{before}python -m training.reading_bundle {args.name} {told}"
    bundle = build(content, films, args.runs, args.out / args.name, command, args.join, args.centre)
    print(json.dumps(bundle.manifest["figures"], indent=1))
    print(bundle.folder, bundle.sha256)


if __name__ == "__main__":
    main()
