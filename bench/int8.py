"""int8 against float32, speed, memory and loss: ``python -m bench.int8 --data ../shared/data/fracatlas``.

Quantised after training with NNCF (Apache-2.0), which is no part of the product:
``.venv/bin/python -m pip install nncf``. Ranges of activations are taken from the train part; all else is
measured on the test part.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import machine, publish, with_interval
from bench.reading import BUNDLE, NETWORKS, ROOT
from bench.scoring import agreement, apart, with_scorer
from models.bundle import load_bundle
from models.convert import convert_in_process, converted_folder, self_test_images
from models.scorer import open_scorer
from pipeline.metrics import auc
from pipeline.preprocess import model_input
from pipeline.triage import triage
from training.datasets import AUTO, Example, load_pixels, open_dataset, read_split
from training.evaluate import chosen_part
from training.figures import unit_of
from training.readings import read_all

WHOLE, TRUNKS = "int8", "int8, region network and heads in float32"
MISSING = "needs NNCF: .venv/bin/python -m pip install nncf"


def quantised(way: str, data: Path, split: Path, count: int, cache: Path) -> None:
    """Quantise the shipped bundle's networks into a folder of conversions, so that our scorer serves them.

    Parameters
    ----------
    way
        `WHOLE`, or `TRUNKS`: the region network, and all after the last depthwise convolution, stay float32.
    count
        Images of the train part for each network, of the regions that it reads.
    """
    os.environ["NNCF_CI"] = "1"  # it would report its use to its makers
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.WARNING)
    bundle, core, rng = load_bundle(BUNDLE), ov.Core(), np.random.default_rng(0)
    train = read_split(split, open_dataset(data, AUTO).examples)["train"]
    for name, network in bundle.networks.items():
        model = core.read_model(convert_in_process(bundle, name, NETWORKS) / "network.xml")
        if way == WHOLE or name != bundle.region_network:
            regions = {region for region, reader in bundle.models.items() if reader.network == name}
            pool = [e for e in train if (regions or set(bundle.models)) & set(e.regions)]
            chosen = [pool[i] for i in rng.permutation(len(pool))[:count]]
            stack = [model_input(p, network.input_size)[None] for p in load_pixels(chosen, cache / "pixels")]
            kept = after_last_depthwise(model) if way == TRUNKS else []
            model = nncf.quantize(
                model,
                nncf.Dataset(stack),
                preset=nncf.QuantizationPreset.MIXED,  # the finer of its two
                subset_size=len(stack),
                ignored_scope=nncf.IgnoredScope(names=kept, validate=False) if kept else None,
            )
        folder = converted_folder(bundle, name, cache)
        folder.mkdir(parents=True)
        ov.save_model(model, folder / "network.xml", compress_to_fp16=False)
        # the scorer would refuse what is far from float32, which is what we are to measure: expect int8's own
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits = [compiled([image[None]])["first"][0] for image in self_test_images(network.input_size)]
        np.savez(folder / "expected.npz", logits=np.array(logits))


def after_last_depthwise(model: Any) -> list[str]:
    """Return the names of a converted network's operations after its last depthwise convolution."""
    operations = model.get_ordered_ops()
    last = max(i for i, op in enumerate(operations) if op.get_type_name() == "GroupConvolution")
    passive = {"Constant", "Result", "Convert"}
    return [op.get_friendly_name() for op in operations[last + 1 :] if op.get_type_name() not in passive]


def said_of(
    data: Path, split: Path, part: str, count: int | None, backend: str, cache: Path, pixels: Path
) -> list[tuple[str, float, str]]:
    """Return (region, probability, triage or reason) of images; probability -1 where nothing reads them."""
    bundle = load_bundle(BUNDLE)
    examples = measured(data, split, part, count)
    readings = read_all(
        open_scorer(bundle, backend=backend, cache=cache), examples, load_pixels(examples, pixels)
    )
    said = []
    for reading in readings:
        region, reason, p = reading.route.region, reading.route.not_assessable, reading.probability
        word = reason.value if reason or p is None else triage(p, bundle.models[region].thresholds).value
        said.append((region, -1.0 if p is None else p, word))
    return said


def measured(data: Path, split: Path, part: str, count: int | None) -> Sequence[Example]:
    """Return the images to measure on."""
    return chosen_part(open_dataset(data, AUTO), split, part)[:count]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled radiographs, such as FracAtlas")
    parser.add_argument("--split", type=Path, default=ROOT / "training" / "splits" / "fracatlas.csv")
    parser.add_argument("--part", default="test", help="to measure on; val, to try other ways of quantising")
    parser.add_argument(
        "--calibrate", type=int, default=300, help="images of the train part for each network"
    )
    parser.add_argument("--count", type=int, help="images to measure on, for a try (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    before, data, split = machine(), arguments.data, arguments.split
    examples = measured(data, split, arguments.part, arguments.count)
    labels, units = np.array([e.positive for e in examples]), [unit_of(e) for e in examples]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        folder = Path(name)
        part = (data, split, arguments.part, arguments.count)
        truth = apart(said_of, *part, "tensorflow", NETWORKS, folder)

        def compared(cache: Path) -> dict[str, Any]:
            said = apart(said_of, *part, "openvino", cache, folder)
            p = np.array([probability for _, probability, _ in said])
            same = sum(a[0] == b[0] for a, b in zip(said, truth, strict=True))
            return {
                **apart(with_scorer, "openvino", "float32", 1, arguments.rounds, cache),
                "same region": f"{same} of {len(said)}",
                **agreement(said, truth),
                "AUC": with_interval(lambda k: auc(p[k], labels[k]), units),
            }

        rows["float32"] = compared(NETWORKS)
        for way in (WHOLE, TRUNKS):
            if importlib.util.find_spec("nncf") is None:
                rows[way] = {"images/s": MISSING}
                continue
            cache = folder / str(len(rows))
            apart(quantised, way, data, split, arguments.calibrate, cache)
            rows[way] = compared(cache)
    title = f"OpenVINO on one thread; TensorFlow float32 on {len(examples)} images of {arguments.part}"
    publish("int8", title, rows, before)


if __name__ == "__main__":
    main()
