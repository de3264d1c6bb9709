"""What a card does with a bundle's networks, all in ten minutes: ``python -m bench.gpu``.

The graph is the one that a GPU worker serves (`models.traced`): in float32, with TensorFloat-32, compiled by
XLA, and in float16; at batches from 16 to 512. Each row says images a second, memory, and how far its answers
lie from those that the processor gives in float32. Without a GPU it runs on the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.measure import ROOT, Spread, machine, publish
from bench.reading import MAX_PIXELS
from bench.scoring import apart
from models import outputs
from models.bundle import Bundle, load_bundle
from models.convert import self_test_images
from models.scorer import probabilities
from pipeline.decode.picture import decode
from pipeline.preprocess import model_input
from pipeline.triage import calibrate, triage
from pipeline.types import Float32Array, Rejected, UInt8Array

SHIPPED = ROOT / "models" / "bundles" / "fracatlas-4"
BATCHES = (16, 32, 64, 128, 256, 512)
#: float32 is what a worker serves; the others are what it might.
FORMS = ("float32", "float32, XLA", "TensorFloat-32", "float16", "float16, XLA")
#: Pictures on which the answers are compared, where no folder is given.
_DRAWN = 64


def compared_pictures(size: int, folder: Path | None, count: int) -> UInt8Array:
    """Return uint8 (n, size, size): radiographs of a folder, else pictures that are drawn."""
    if folder is None:
        images, noise = self_test_images(size), np.random.default_rng(0)
        drawn = [images[n % len(images)] * noise.uniform(0.3, 1.0) for n in range(_DRAWN)]
        return np.stack([np.clip(each + noise.normal(0, 8, each.shape), 0, 255) for each in drawn]).astype(
            np.uint8
        )
    found = []
    for path in sorted(folder.iterdir()):
        if len(found) == count:
            break
        try:
            pixels = decode(path.read_bytes(), max_pixels=MAX_PIXELS, pseudonymise=str).pixels
        except Rejected:
            continue
        found.append(model_input(pixels, size))
    if not found:
        raise SystemExit(f"{folder} holds no picture that can be read")
    return np.stack(found)


def in_half_precision(model: Any) -> Any:
    """Return a Keras model that computes in float16 and keeps its weights in float32 (mixed precision).

    The layers that give the outputs compute in float32: a logit of float16 has but three digits.
    """
    import keras

    config = model.get_config()
    kept = set(model.output_names) | {layer for layer, *_ in np.atleast_2d(config["input_layers"]).tolist()}
    kept |= {name for name in model.output if any(layer.name == name for layer in model.layers)}
    for layer in config["layers"]:
        if layer["class_name"] != "InputLayer" and layer["config"]["name"] not in kept:
            layer["config"]["dtype"] = "mixed_float16"
    half = keras.Model.from_config(config)
    half.set_weights(model.get_weights())
    return half


def compared(
    bundle: Bundle, network: str, said: Mapping[str, Float32Array], truth: Mapping[str, Float32Array]
) -> dict[str, Any]:
    """Compare a network's answers with those of the processor: furthest probability, same part, same triage.

    A head is asked as each part whose own network it is; of parts that read with a partner too, as if alone.
    """
    furthest, found = 0.0, {}
    if outputs.PART in said:
        ours, theirs = (probabilities(each[outputs.PART], outputs.PART) for each in (said, truth))
        furthest = float(np.abs(ours - theirs).max())
        same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        found["same part"] = f"{same.sum()} of {same.size}"
    file, equal, asked = bundle.networks[network].sha256, 0, 0
    for reader in bundle.models.values():
        head = bundle.networks[reader.network]
        if head.sha256 != file or outputs.LOGIT not in said:
            continue
        for a, b in zip(
            said[outputs.LOGIT][:, head.head or 0], truth[outputs.LOGIT][:, head.head or 0], strict=True
        ):
            one, two = (calibrate(float(logit), reader.calibration) for logit in (a, b))
            furthest = max(furthest, abs(one - two))
            equal += triage(one, reader.thresholds) is triage(two, reader.thresholds)
            asked += 1
    if asked:
        found["same triage"] = f"{equal} of {asked}"
    return {"furthest probability": furthest, **found}


def _memory() -> float:
    """Return MiB: the most that was taken of the card since the last call, or what this process has."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return float(psutil.Process().memory_info().rss) / 2**20
    peak = float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 2**20
    tf.config.experimental.reset_memory_stats("GPU:0")
    return peak


def _answers(
    run: Callable[[Any], Mapping[str, Any]], stack: UInt8Array, batch: int
) -> dict[str, Float32Array]:
    """Return what a compiled function of one batch size says of a stack of any length."""
    rows: dict[str, list[Float32Array]] = {}
    for start in range(0, len(stack), batch):
        part = stack[start : start + batch]
        padded = np.zeros((batch, *stack.shape[1:]), np.uint8)
        padded[: len(part)] = part
        for name, value in run(padded).items():
            rows.setdefault(name, []).append(np.asarray(value, np.float32)[: len(part)])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def measure_form(
    folder: Path,
    network: str,
    form: str,
    batches: Sequence[int],
    seconds: float,
    images: tuple[Path | None, int],
    until: float,
) -> dict[str, dict[str, Any]]:
    """Measure a network in one form at each batch size, in a process of its own.

    Parameters
    ----------
    form
        One of `FORMS`.
    seconds
        How long a batch size is measured, after it was compiled and run once.
    images
        Folder and number of the radiographs that answers are compared on.
    until
        Unix time from which on no further batch size is begun.

    Returns
    -------
    dict
        Row name to its cells.
    """
    import tensorflow as tf

    from models.traced import load_network, trace

    tf.config.experimental.enable_tensor_float_32_execution(form == "TensorFloat-32")
    bundle = load_bundle(folder)
    size, model = bundle.networks[network].input_size, load_network(bundle, network)
    stack = compared_pictures(size, *images)
    with tf.device("/CPU:0"):
        truth = _answers(trace(model, size), stack, 16)
    function = trace(in_half_precision(model) if form.startswith("float16") else model, size)
    rows: dict[str, dict[str, Any]] = {}
    for batch in batches:
        name = f"{network}, {form}, {batch}"
        if time.time() > until:
            rows[name] = {"images/s": "no time left"}
            continue
        run = tf.function(
            lambda images: dict(function(images)),
            input_signature=[tf.TensorSpec((batch, size, size), tf.uint8)],
            jit_compile="XLA" in form,
        )
        try:
            began = time.perf_counter()
            said = _answers(run, stack, batch)
            first = time.perf_counter() - began
            rates, data = [], np.resize(stack, (batch, size, size))
            ends = time.perf_counter() + seconds
            while not rates or time.perf_counter() < ends:
                began = time.perf_counter()
                {key: value.numpy() for key, value in run(data).items()}
                rates.append(batch / (time.perf_counter() - began))
        except (
            tf.errors.ResourceExhaustedError,
            tf.errors.InternalError,
            tf.errors.UnimplementedError,
        ) as error:
            rows[name] = {"images/s": f"fails: {type(error).__name__}"}
            continue
        rows[name] = {
            "images/s": Spread.of(rates),
            "first call, s": first,
            "MB": _memory(),
            **compared(bundle, network, said, truth),
        }
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each batch size is measured")
    parser.add_argument("--images", type=Path, help="folder of radiographs to compare the answers on")
    parser.add_argument("--count", type=int, default=256, help="how many of them")
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds after which nothing more is begun"
    )
    arguments = parser.parse_args()
    before, until = machine(), time.time() + arguments.limit
    bundle = load_bundle(arguments.bundle)
    files = {network.sha256: name for name, network in reversed(bundle.networks.items())}
    rows: dict[str, Any] = {}
    for form in arguments.forms:
        for network in sorted(files.values()):
            if time.time() > until:
                rows[f"{network}, {form}"] = {"images/s": "no time left"}
                continue
            images = (arguments.images, arguments.count)
            found = apart(
                measure_form,
                arguments.bundle,
                network,
                form,
                arguments.batches,
                arguments.seconds,
                images,
                until,
            )
            rows.update(found)
            print(f"{network}, {form}: done, {max(0, until - time.time()):.0f} s left", flush=True)
    publish("gpu", f"{bundle.name} on {_device()}; network, form, pictures at a time", rows, before)


def _device() -> str:
    """Return the card's name, or that there is none."""
    return str(apart(_card))


def _card() -> str:
    import tensorflow as tf

    cards = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(cards[0]) if cards else {}
    return str(details.get("device_name", "a GPU")) if cards else "the processor, for want of a GPU"


if __name__ == "__main__":
    main()
