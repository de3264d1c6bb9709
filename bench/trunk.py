"""One trunk for regions and fractures, in quality: ``python -m bench.trunk --data ../shared/data/fracatlas``.

The trunk is that of the pooled fracture network, as it stands: the mean of its last map, at its input size.
On it a head for the regions is fitted, a multinomial logistic regression, on what the present region network
was fitted on: the train part and phantoms, those of the elbow as *other*. How strongly it is held back is
chosen on the val part. Only then both are measured on the test part, and on phantoms that neither was shown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from bench.measure import columns_of, machine, publish, with_interval
from bench.reading import BUNDLE, NETWORKS, ROOT
from models import architectures
from models.bundle import Bundle, load_bundle
from models.scorer import open_scorer
from pipeline import metrics
from pipeline.preprocess import model_input
from pipeline.triage import calibrate
from pipeline.types import Float32Array, UInt8Array
from training.datasets import Example, open_dataset, phantom_examples
from training.experiment import OTHER, load_experiment, shared_data
from training.figures import unit_of
from training.fit import region_targets
from training.readings import read_all
from training.train import HELD_OUT_SEED, Data

TRUNK = "pooled"
PRESENT, SHARED = "as shipped", "one trunk"
CONFIG = ROOT / "training" / "configs" / "fracatlas_1.py"
#: Inverse strengths of the ridge that the val part chooses from.
STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
HELD_OUT_PHANTOMS = 50
#: Images at once, each on one thread.
THREADS = 4
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Trunk:
    """The trunk: one pass gives what the heads read, and the fracture logit of its own network."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        """Convert it for OpenVINO, about twice as fast here, below `folder`."""
        import openvino as ov
        import tensorflow as tf

        from models.traced import save_traced

        kept = bundle.networks[TRUNK]
        self.size = kept.input_size
        network = keras.saving.load_model(kept.path, compile=False, safe_mode=True)
        mean = keras.layers.GlobalAveragePooling2D()(network.get_layer("coarse").input)
        model = keras.Model(network.input, [network.get_layer(architectures.LOGIT).output, mean])
        signature = [tf.TensorSpec((None, self.size, self.size), tf.uint8)]
        save_traced(
            tf.function(
                lambda stack: model(tf.cast(stack, tf.float32)[..., None], training=False),
                input_signature=signature,
            ),
            folder / "trunk",
        )
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": THREADS,
        }
        self._compiled = ov.compile_model(ov.convert_model(folder / "trunk"), "CPU", options)

    def read(self, pictures: Sequence[UInt8Array]) -> tuple[Float32Array, FloatArray]:
        """Return features (n, d) and fracture logits (n,)."""
        request = self._compiled.create_infer_request()
        features, logits = [], []
        for picture in pictures:
            request.infer([model_input(picture, self.size)[None]])
            features.append(request.get_tensor("second").data[0].copy())
            logits.append(float(request.get_tensor("first").data[0, 0]))
        return np.array(features, np.float32), np.array(logits)


def shares_of_phantoms(examples: Sequence[Example], share: float) -> FloatArray:
    """Return how much each example weighs, 1 on average: phantoms have `share` of all, as in training."""
    phantom = np.array([e.traits.get("phantom") == "1" for e in examples])
    weights = np.ones(len(examples))
    for mask, part in ((phantom, share), (~phantom, 1 - share)):
        if mask.any():
            weights[mask] = part * len(examples) / mask.sum()
    return weights


def fit_head(features: Float32Array, targets: Float32Array, weights: FloatArray, strength: float) -> Pipeline:
    """Fit a multinomial logistic regression to shares of classes.

    Parameters
    ----------
    targets
        float32 (n, R), rows sum to 1; an image of two regions counts half for each.
    weights
        (n,), of the images.
    """
    rows, classes = np.nonzero(targets)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    with threadpool_limits(1, "blas"):
        head.fit(
            features[rows],
            classes,
            standardscaler__sample_weight=weights[rows] * targets[rows, classes],
            logisticregression__sample_weight=weights[rows] * targets[rows, classes],
        )
    return head


def region_shares(head: Pipeline, features: Float32Array, count: int) -> FloatArray:
    """Return probabilities (n, count); a class that the head was never shown has none."""
    shares = np.zeros((len(features), count))
    shares[:, head.classes_] = head.predict_proba(features)
    return shares


def chosen_head(
    train: tuple[Float32Array, Float32Array, FloatArray], val: tuple[Float32Array, Float32Array]
) -> tuple[Pipeline, float]:
    """Return the head of lowest cross-entropy on the val part, and its strength."""

    def loss(head: Pipeline) -> float:
        said = region_shares(head, val[0], val[1].shape[1])
        return -float((val[1] * np.log(np.maximum(said, 1e-7))).sum(axis=1).mean())

    heads = {strength: fit_head(*train, strength) for strength in STRENGTHS}
    best = min(heads, key=lambda strength: loss(heads[strength]))
    return heads[best], best


def region_rows(
    tops: Mapping[str, Sequence[str]], elbows: Mapping[str, float], examples: Sequence[Example]
) -> dict[str, dict[str, str]]:
    """Return how often the top region is one that an image is tagged with, for each way of telling it."""
    right = {
        way: np.array([top in e.regions for top, e in zip(said, examples, strict=True)], np.float64)
        for way, said in tops.items()
    }
    first, second = right.values()
    rows: dict[str, dict[str, str]] = {way: {} for way in (*right, "difference")}
    single = np.array([len(e.regions) == 1 for e in examples])
    for column, mask in {"region accuracy": single | True, "images of one region": single}.items():
        units = [unit_of(e) for e, inside in zip(examples, mask, strict=True) if inside]
        for way, of in (*right.items(), ("difference", second - first)):
            rows[way][column] = with_interval(lambda k, of=of[mask]: float(of[k].mean()), units)
    for way, share in elbows.items():
        rows[way]["elbow phantoms told as other"] = f"{share:.2f}"
    return rows


def fracture_rows(
    scores: Mapping[str, FloatArray], routed: Sequence[str], examples: Sequence[Example]
) -> dict[str, dict[str, str]]:
    """Return the AUC of each way over all images and over those that the region network routes to a region.

    Parameters
    ----------
    scores
        Way to calibrated probabilities of all examples.
    """
    labels = np.array([e.positive for e in examples])
    groups = {"AUC, all": np.ones(len(examples), bool)}
    groups |= {f"AUC, {region}": np.array(routed) == region for region in ("hand", "leg")}
    rows: dict[str, dict[str, str]] = {way: {} for way in (*scores, "difference")}
    for column, mask in groups.items():
        units = [unit_of(e) for e, inside in zip(examples, mask, strict=True) if inside]
        y = labels[mask]
        first, second = (p[mask] for p in scores.values())
        for way, p in zip(scores, (first, second), strict=True):
            rows[way][column] = with_interval(lambda k, p=p, y=y: metrics.auc(p[k], y[k]), units)
        rows["difference"][column] = with_interval(
            lambda k, y=y, a=first, b=second: metrics.auc(b[k], y[k]) - metrics.auc(a[k], y[k]), units
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=shared_data() / "fracatlas", help="FracAtlas")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="keeps decoded pictures")
    parser.add_argument("--count", type=int, help="images of each part, for a try (default: all)")
    arguments = parser.parse_args()
    before, bundle, experiment = machine(), load_bundle(BUNDLE), load_experiment(CONFIG)
    plan, regions = experiment.region, bundle.regions
    assert tuple(plan.regions) == regions
    source = experiment.dataset
    data = Data(open_dataset(arguments.data, source.format, source.label_meaning), experiment, arguments.runs)

    def some(examples: Sequence[Example]) -> list[Example]:
        order = np.random.default_rng(0).permutation(len(examples))[: arguments.count]
        return [examples[i] for i in sorted(order)]

    train, val, test = (
        some(part) for part in (data.pictures(plan).examples, data.parts["val"], data.parts["test"])
    )
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as folder:
        trunk = Trunk(bundle, Path(folder))
    shown = trunk.read(data.pixels(train))[0]
    weights = shares_of_phantoms(train, plan.phantom_share)
    held = trunk.read(data.pixels(val))[0]
    head, strength = chosen_head(
        (shown, region_targets(train, regions), weights), (held, region_targets(val, regions))
    )
    print(f"the val part chooses C = {strength:g} of {STRENGTHS}", flush=True)

    # the test part, once
    scorer = open_scorer(bundle, backend="openvino", cache=NETWORKS)
    elbows = phantom_examples(experiment.unknown, HELD_OUT_PHANTOMS, HELD_OUT_SEED)[1]
    small = np.stack([model_input(p, bundle.region_input_size) for p in elbows])
    readings = read_all(scorer, test, data.pixels(test))
    features, logits = trunk.read(data.pixels(test))
    other = regions.index(OTHER)
    told = {
        PRESENT: scorer.classify(small).probabilities.argmax(axis=1),
        SHARED: region_shares(head, trunk.read(elbows)[0], len(regions)).argmax(axis=1),
    }
    routed = [r.route.region for r in readings]
    tops = [regions[i] for i in region_shares(head, features, len(regions)).argmax(axis=1)]
    platt = next(m.calibration for m in bundle.models.values() if m.network == TRUNK)
    probabilities = {
        PRESENT: np.array([r.probability or 0.0 for r in readings]),
        SHARED: np.array([calibrate(logit, platt) for logit in logits]),
    }
    rows = region_rows(
        {PRESENT: routed, SHARED: tops},
        {way: float((said == other).mean()) for way, said in told.items()},
        test,
    )
    for way, cells in fracture_rows(probabilities, routed, test).items():
        rows[way] |= cells
    sizes = {name: entry["parameters"] for name, entry in bundle.manifest["networks"].items()}
    rows[PRESENT]["parameters"] = f"{sum(sizes.values()):,}"
    rows[SHARED]["parameters"] = f"{sizes[TRUNK] + (features.shape[1] + 1) * len(regions):,}"
    columns = columns_of(rows)
    figures = {figure: {way: cells.get(figure, "") for way, cells in rows.items()} for figure in columns}
    publish("trunk", f"Test part of {source.path.name}, {len(test)} images", figures, before)


if __name__ == "__main__":
    main()
