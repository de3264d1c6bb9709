"""Build a bundle from a config: fit its networks, calibrate on validation, measure on test, write it.

    python -m training.train training/configs/NAME.py

A killed run takes up where its last epoch ended; what is fitted already is kept under `runs/NAME`.
"""  # fmt: skip

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import architectures
from models.bundle import MANIFEST, Bundle
from models.scorer import Reference, Scorer, open_scorer
from pipeline.earned import earned_by_figures
from pipeline.metrics import auc
from pipeline.preprocess import model_input
from pipeline.triage import calibrate, triage
from pipeline.types import Platt, RegionModel, RoutingRules, Thresholds, UInt8Array
from training.calibrate import fit_platt, fit_reference, operating_points
from training.card import card, limits
from training.datasets import (
    Dataset,
    DatasetError,
    Example,
    hashed,
    load_pixels,
    make_split,
    open_dataset,
    phantom_examples,
    read_split,
    scan,
    write_split,
)
from training.experiment import OTHER, Experiment, NetworkPlan, load_experiment, shared_data
from training.export import BundleContent, TrainedNetwork, save_compact, write_bundle
from training.figures import figures_of, summary
from training.fit import Batches, Pictures, Validation, curves, fit, region_targets
from training.looks import looks_by_sha256
from training.readings import Reading, read_all

#: A region with fewer fractures in validation is cut where all regions together are.
MIN_FRACTURES = 50
#: Phantoms from this seed on are never trained on.
HELD_OUT_SEED = 900_000
_UNCALIBRATED = (Platt(1.0, 0.0, 0.5), Thresholds(0.0, 1.0))


class Data:
    """The dataset of an experiment with its pixels, split, and phantoms."""

    def __init__(self, dataset: Dataset, experiment: Experiment, runs: Path) -> None:
        self.dataset = dataset
        parts = read_split(_split_file(dataset, experiment, runs), dataset.examples)
        if missing := {"train", "val", "test"} - parts.keys():
            raise DatasetError(f"the split has no part {', '.join(sorted(missing))}")
        chosen = hashed([e for part in parts.values() for e in part])
        by_name = {e.name: e for e in chosen}
        self.parts = {name: tuple(by_name[e.name] for e in part) for name, part in parts.items()}
        examples = [by_name[e.name] for e in dataset.examples if e.name in by_name]
        self._pixels = {
            e.name: p for e, p in zip(examples, load_pixels(examples, runs / "cache"), strict=True)
        }
        regions = (*experiment.readers, *experiment.unknown)
        examples, pictures = phantom_examples(regions, experiment.phantoms, experiment.first_seed)
        self._pixels |= {e.name: p for e, p in zip(examples, pictures, strict=True)}
        self.phantoms = tuple(
            replace(e, regions=(OTHER,)) if e.regions[0] in experiment.unknown else e for e in examples
        )

    def pixels(self, examples: Sequence[Example]) -> list[UInt8Array]:
        """Return the pictures of examples."""
        return [self._pixels[e.name] for e in examples]

    def pictures(self, plan: NetworkPlan) -> Pictures:
        """Return the training pictures of a network: radiographs and phantoms of its regions."""
        wanted = set(plan.regions)
        chosen = [e for e in (*self.parts["train"], *self.phantoms) if wanted & set(e.regions)]
        return Pictures(chosen, self.pixels(chosen), plan.phantom_share)

    def validation(self, plan: NetworkPlan, *, region: bool) -> Validation:
        """Return the validation radiographs of a network's regions, to measure it on while it is fitted."""
        chosen = [e for e in self.parts["val"] if set(plan.regions) & set(e.regions)]
        if not chosen:
            raise DatasetError(f"{plan.name}: the split's val part has no image of {', '.join(plan.regions)}")
        stack = np.stack([model_input(p, plan.size)[..., None] for p in self.pixels(chosen)])
        labels = np.array([[e.positive] for e in chosen], np.float32)
        return Validation(stack, region_targets(chosen, plan.regions) if region else labels)


def _split_file(dataset: Dataset, experiment: Experiment, runs: Path) -> Path:
    """Return the experiment's split file; one that is made from a plan is made once."""
    if isinstance(experiment.split, Path):
        return experiment.split
    path = runs / experiment.name / "split.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        split = make_split(scan(dataset, cache=runs / "cache"), experiment.split)
        write_split(path, split, command=f"fractureai train, {experiment.name}")
    return path


def make_network(plan: NetworkPlan, weights: Path, *, region: bool, precision: str = "float32") -> Any:
    """Build the network of a plan, its new layers drawn by the plan's seed."""
    start = plan.weights if plan.weights in {None, "imagenet"} else str(weights / str(plan.weights))
    keras.utils.set_random_seed(plan.seed)
    usual = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        if region:
            return architectures.region_network(plan.architecture, plan.size, len(plan.regions), start)
        return architectures.fracture_network(plan.architecture, plan.size, start)
    finally:
        keras.mixed_precision.set_dtype_policy(usual)


def fit_networks(experiment: Experiment, data: Data, weights: Path, runs: Path) -> dict[str, TrainedNetwork]:
    """Fit every network of an experiment, or read back those that are fitted."""
    fitted: dict[str, TrainedNetwork] = {}
    for plan in (experiment.region, *experiment.fracture):
        region = plan is experiment.region
        network = make_network(plan, weights, region=region, precision=plan.schedule.precision)
        if plan.start_from:
            architectures.copy_weights(fitted[plan.start_from].model, network)
        regions = plan.regions if region else None
        batches = Batches(data.pictures(plan), regions, plan.size, plan.schedule, plan.seed)
        print(f"{plan.name}: {len(batches.pictures.examples)} pictures", flush=True)
        validation = data.validation(plan, region=region)
        # bars for people, a line an epoch for a file
        verbose = 1 if sys.stdout.isatty() else 2
        fit(network, batches, runs / plan.name, verbose=verbose, tensorboard=True, validation=validation)
        if plan.schedule.precision != "float32":
            full = make_network(plan, weights, region=region)
            architectures.copy_weights(network, full)
            network = full
        if not region:
            found = auc(validation.logits(network)[:, 0], validation.targets[:, 0] > 0)
            print(f"{plan.name}: AUC on validation {found:.4f}", flush=True)
        fitted[plan.name] = TrainedNetwork(network, plan.architecture, plan.size, plan.mirrored)
    return fitted


def _reference(scorer: Scorer, data: Data, regions: Sequence[str]) -> Reference:
    """Summarise the features of training radiographs of one region, and apart from them of phantoms."""
    chosen = [e for e in data.parts["train"] if len(e.regions) == 1]
    synthetic = [e for e in data.phantoms if e.regions[0] != OTHER]
    size = scorer.bundle.region_input_size
    stack = np.stack([model_input(p, size) for p in data.pixels([*chosen, *synthetic])])
    classes = [regions.index(e.regions[0]) for e in chosen]
    classes += [len(regions) + regions.index(e.regions[0]) for e in synthetic]
    return fit_reference(scorer.features(stack), np.array(classes))


def calibrated(
    experiment: Experiment, readings: Sequence[Reading], shared_logits: Mapping[str, Sequence[float]]
) -> tuple[dict[str, RegionModel], dict[str, int]]:
    """Fit calibration and thresholds on validation readings; return them with the fractures of each region.

    Parameters
    ----------
    shared_logits
        Of every network that several regions share, on all validation images: it is calibrated on all.
    """
    by_network: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.route.region in experiment.readers:
            by_network.setdefault(experiment.readers[reading.route.region], []).append(reading)
    if missing := set(experiment.readers.values()) - by_network.keys():
        raise DatasetError(
            f"no validation image is routed to {sorted(missing)}: train the region network longer"
        )
    platts, probabilities, labels, regions = {}, [], [], []
    for network, part in by_network.items():
        truth = [r.example.positive for r in part]
        if network in shared_logits:
            everyone = np.array([r.example.positive for r in readings])
            platts[network] = fit_platt(shared_logits[network], everyone)
        else:
            platts[network] = fit_platt([r.logit or 0.0 for r in part], np.array(truth))
        probabilities += [calibrate(r.logit or 0.0, platts[network]) for r in part]
        labels += truth
        regions += [r.route.region for r in part]
    p, y, of = np.array(probabilities), np.array(labels), np.array(regions)
    pooled = operating_points(p, y)
    models, fractures = {}, {}
    for region, network in experiment.readers.items():
        here = of == region
        fractures[region] = int(y[here].sum())
        enough = fractures[region] >= MIN_FRACTURES
        models[region] = RegionModel(
            region,
            network,
            platts[network],
            operating_points(p[here], y[here]) if enough else pooled,
            list(experiment.readers.values()).count(network) > 1,
        )
    return models, fractures


def _logits(scorer: Scorer, network: str, pixels: Sequence[UInt8Array]) -> list[float]:
    size, found = scorer.bundle.input_size(network), []
    for start in range(0, len(pixels), 32):
        stack = np.stack([model_input(p, size) for p in pixels[start : start + 32]])
        found += scorer.detect(network, stack).logits.tolist()
    return found


def phantom_figures(scorer: Scorer, experiment: Experiment, count: int = 50) -> dict[str, Any]:
    """Return how held-out phantoms fare: not a figure of merit, but what the demo shows."""
    figures: dict[str, Any] = {}
    for region in (*experiment.readers, *experiment.unknown):
        examples, pictures = phantom_examples([region], count, HELD_OUT_SEED)
        readings = read_all(scorer, examples, pictures)
        said = Counter(
            triage(r.probability, scorer.bundle.models[r.route.region].thresholds).value
            for r in readings
            if r.route.not_assessable is None and r.probability is not None
        )
        figures[region] = {
            "phantoms": len(readings),
            "triage": dict(said),
            "not_assessable": float(np.mean([r.route.not_assessable is not None for r in readings])),
            "region_right": float(np.mean([r.route.region == region for r in readings])),
        }
    return figures


def build(experiment: Experiment, data: Data, weights: Path, runs: Path, out: Path, command: str) -> Bundle:
    """Build a bundle.

    Parameters
    ----------
    weights
        Folder that the plans' weight files are in.
    runs
        Where checkpoints and the draft are kept.
    out
        Folder of the finished bundle; must not hold one.
    """
    networks = fit_networks(experiment, data, weights, runs)
    regions = tuple(experiment.region.regions)
    for name, network in networks.items():  # what is saved is rounded: measure that
        save_compact(network.model, runs / f"{name}.keras")
    dimension = int(networks[experiment.region.name].model.get_layer(architectures.FEATURES).output.shape[-1])
    rules = RoutingRules(experiment.min_probability, None, experiment.second_region)
    content = BundleContent(
        name=experiment.name,
        label_meaning=data.dataset.label_meaning,
        regions=regions,
        region_network=experiment.region.name,
        networks=networks,
        models={
            region: RegionModel(region, network, *_UNCALIBRATED, False)
            for region, network in experiment.readers.items()
        },
        routing=rules,
        reference=Reference.blank(dimension),
        limits=(),
        trained_on=f"{data.dataset.name}, split by group",
        card="",
        fitted_on=[e.sha256 for part in ("train", "val") for e in data.parts[part]],
        looks=looks_by_sha256([e for part in ("train", "val") for e in data.parts[part]]),
    )
    draft = _draft(content, runs)
    content = replace(content, reference=_reference(open_scorer(draft), data, regions))
    validation = data.parts["val"]
    scorer = open_scorer(_draft(content, runs))
    size = scorer.bundle.region_input_size
    stack = np.stack([model_input(p, size) for p in data.pixels(validation)])
    distances = scorer.classify(stack).distances
    usual = float(np.quantile(distances, 1 - experiment.not_assessable))
    rules = replace(rules, max_distance=usual * experiment.distance_slack)
    pixels = data.pixels(validation)
    readers = list(experiment.readers.values())
    shared = {n: _logits(scorer, n, pixels) for n in sorted(set(readers)) if readers.count(n) > 1}
    models, fractures = calibrated(experiment, read_all(scorer, validation, pixels), shared)
    content = replace(content, routing=rules, models=models)
    scorer = open_scorer(_draft(content, runs))
    test = data.parts["test"]
    test_pixels = data.pixels(test)
    figures = figures_of(scorer.bundle, read_all(scorer, test, test_pixels), test_pixels)
    figures["phantoms"] = phantom_figures(scorer, experiment)
    print(summary(figures), flush=True)
    models = {}
    for region, model in content.models.items():
        allowed, evidence = earned_by_figures(figures, region)
        models[region] = replace(model, may_say_negative=allowed, evidence=evidence)
    content = replace(content, models=models)
    content = replace(
        content,
        limits=limits(experiment, data.dataset, fractures, len(data.parts["train"])),
        card=card(
            experiment,
            data.dataset,
            data.parts,
            replace(scorer.bundle, models=models),
            fractures,
            figures,
            command,
        ),
        facts={
            "command": command,
            "dataset": {"name": data.dataset.name, "skipped": dict(data.dataset.skipped)},
            "split": {name: len(part) for name, part in data.parts.items()},
            "validation_fractures": fractures,
            "curves": {name: curves(runs / name) for name in networks},
            "metrics": figures,
        },
    )
    return write_bundle(content, out)


def _draft(content: BundleContent, runs: Path) -> Bundle:
    folder = runs / "draft"
    (folder / "manifest.json").unlink(missing_ok=True)
    return write_bundle(content, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="fractureai train", description="Build a bundle from a config.")
    parser.add_argument("config", type=Path, help="a file of training/configs")
    parser.add_argument("--data", type=Path, help="the data set (default: the config's)")
    parser.add_argument("--weights", type=Path, help="ImageNet weights (default: beside the data)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("models/bundles"), help="default: models/bundles")
    args = parser.parse_args(arguments)
    experiment = load_experiment(args.config)
    if (args.out / experiment.name / MANIFEST).exists():  # said now, not after an hour of training
        raise FileExistsError(
            f"{args.out / experiment.name} is there already; give the new bundle a new name"
        )
    plan = experiment.dataset
    dataset = open_dataset(args.data or shared_data() / plan.path, plan.format, plan.label_meaning)
    data = Data(dataset, experiment, args.runs)
    bundle = build(
        experiment,
        data,
        args.weights or shared_data() / "imagenet-weights",
        args.runs / experiment.name,
        args.out / experiment.name,
        f"python -m training.train {args.config}",
    )
    print(f"{bundle.folder}: {bundle.sha256}")


if __name__ == "__main__":
    main()
