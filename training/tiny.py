"""A tiny bundle from phantoms in seconds: for tests and for trying the service without the shipped one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from models import architectures
from models.bundle import Bundle
from models.scorer import Reference
from pipeline.lookalikes import look_of
from pipeline.preprocess import model_input
from pipeline.types import RegionModel, RoutingRules
from training.calibrate import fit_platt, fit_reference, operating_points
from training.datasets import phantom_examples
from training.export import BundleContent, TrainedNetwork, write_bundle
from training.fit import Batches, Pictures, Schedule, fit

_REGIONS = ("hand", "leg")
_SIZE = 64


def build_tiny_bundle(folder: Path, *, epochs: int = 3, per_region: int = 24) -> Bundle:
    """Train a bundle for hands and legs on phantoms and write it to `folder` (about 200 kB).

    Deterministic. It proves that the way from pictures to a served bundle is whole, not that it reads well.
    """
    keras.utils.set_random_seed(1)
    examples, pixels = phantom_examples(_REGIONS, per_region, 0)
    pictures = Pictures(examples, pixels, phantom_share=1.0)
    schedule = Schedule(epochs, len(examples), rate=2e-3, batch=16, average=0.5)
    region = architectures.region_network("custom_cnn", _SIZE, len(_REGIONS))
    fracture = architectures.fracture_network("custom_cnn", _SIZE, width=16)
    with TemporaryDirectory() as runs:
        for seed, (network, regions) in enumerate(((region, _REGIONS), (fracture, None))):
            batches = Batches(pictures, regions, _SIZE, schedule, seed)
            fit(network, batches, Path(runs) / str(seed), verbose=0)

    stack = np.stack([model_input(p, _SIZE) for p in pixels])[..., None]
    features = keras.ops.convert_to_numpy(region(stack, training=False)[architectures.FEATURES])
    classes = np.array([_REGIONS.index(e.regions[0]) for e in examples])
    reference: Reference = fit_reference(features, classes, components=8)
    logits = keras.ops.convert_to_numpy(fracture(stack, training=False)[architectures.LOGIT])[:, 0]
    labels = np.array([e.positive for e in examples])
    platt = fit_platt(logits, labels)
    thresholds = operating_points(1 / (1 + np.exp(-(platt.slope * logits + platt.intercept))), labels)
    model = RegionModel("", "fracture", platt, thresholds, True, may_say_negative=True)
    return write_bundle(
        BundleContent(
            name=folder.name,
            label_meaning="fractured",
            regions=_REGIONS,
            region_network="region",
            networks={
                "region": TrainedNetwork(region, "custom_cnn", _SIZE),
                "fracture": TrainedNetwork(fracture, "custom_cnn", _SIZE),
            },
            models={name: replace(model, region=name) for name in _REGIONS},
            routing=RoutingRules(0.0, None, 1.1),
            reference=reference,
            limits=("A tiny bundle for tests: it reads nothing well.",),
            trained_on=f"{len(examples)} phantoms",
            card="# Tiny bundle\n\nFor tests only.\n",
            fitted_on=[e.sha256 for e in examples],
            looks={e.sha256: look_of(p) for e, p in zip(examples, pixels, strict=True)},
        ),
        folder,
    )
