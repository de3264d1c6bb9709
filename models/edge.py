"""A bundle's networks as TensorFlow Lite or ONNX files for devices at the edge: one image a call, one core.

Import it lazily: converting loads TensorFlow. What each file says is compared with the network it came from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models import outputs
from models.bundle import Bundle
from models.convert import self_test_images
from models.scorer import probabilities
from pipeline.types import Float32Array, UInt8Array

#: The most that a probability may differ by from the bundle's own network.
TOLERANCE = 1e-3
MANIFEST = "edge.json"
#: What a network can be written as: the ending of the file.
FORMATS = ("tflite", "onnx")
#: Operators of ONNX 1.12 (2022): what today's runtimes all read.
_ONNX_OPERATORS = 17
_TIMED = 8


class EdgeError(RuntimeError):
    """The file that came out does not say what the network says, or cannot be made."""


@dataclass(frozen=True)
class EdgeNetwork:
    """One network's file, and how it was seen to do.

    Attributes
    ----------
    milliseconds
        Processor time of an image, on one thread of the machine that exported it.
    difference
        The largest difference of a probability, over `images` images.
    """

    network: str
    file: str
    sha256: str
    input_size: int
    bytes: int
    milliseconds: float
    difference: float
    images: int


def export_bundle(
    bundle: Bundle, folder: Path, pictures: Sequence[UInt8Array] = (), to: str = "tflite"
) -> list[EdgeNetwork]:
    """Write each network as a file that takes uint8 (1, s, s), and `edge.json` beside them.

    Parameters
    ----------
    to
        One of `FORMATS`.
    pictures
        Radiographs, uint8 (height, width), on which the files are compared with the networks, besides the
        self-test images.

    Raises
    ------
    EdgeError
        A file differs by more than `TOLERANCE`, or the format's converter is not installed.
    """
    if to == "onnx" and not all(map(importlib.util.find_spec, ("tf2onnx", "onnxruntime"))):
        raise EdgeError("its converter is not installed: pip install 'fractureai[edge]'")
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, EdgeNetwork] = {}
    found: list[EdgeNetwork] = []
    for name, network in bundle.networks.items():
        if network.sha256 in made:  # several heads in one file
            known = asdict(made[network.sha256])
            found.append(EdgeNetwork(**{**known, "network": name}))
            continue
        made[network.sha256] = _export(bundle, name, folder, pictures, to)
        found.append(made[network.sha256])
    said = {
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256,
        "input": "uint8 (1, size, size): the radiograph laid whole into a black square (pipeline.preprocess)",
        "heads": {name: network.head or 0 for name, network in bundle.networks.items()},
        "networks": [asdict(each) for each in found],
    }
    (folder / MANIFEST).write_text(json.dumps(said, indent=2) + "\n")
    return found


def _export(bundle: Bundle, name: str, folder: Path, pictures: Sequence[UInt8Array], to: str) -> EdgeNetwork:
    import tensorflow as tf

    from models.traced import traced
    from pipeline.preprocess import model_input

    size, function = bundle.networks[name].input_size, traced(bundle, name)
    one = tf.function(
        lambda stack: dict(function(stack)), input_signature=[tf.TensorSpec((1, size, size), tf.uint8)]
    )
    data = _converted(one, to)
    path = folder / f"{name}.{to}"
    path.write_bytes(data)
    images = [*self_test_images(size), *(model_input(each, size) for each in pictures)]
    stack = np.stack(images)
    expected = {key: rows.numpy() for key, rows in function(stack).items()}
    run = open_edge(path)
    answers = [run(image) for image in stack]
    furthest = 0.0
    for output in (outputs.PART, outputs.LOGIT):
        if output in expected:
            got = np.concatenate([answer[output] for answer in answers])
            apart = np.abs(probabilities(got, output) - probabilities(expected[output], output))
            furthest = max(furthest, float(apart.max()))
    if not furthest <= TOLERANCE:  # NaN too
        raise EdgeError(f"{path.name} differs from the network by {furthest:.2g}; {TOLERANCE} is allowed")
    began = time.process_time()
    for image in stack[:_TIMED]:
        run(image)
    each = 1000 * (time.process_time() - began) / min(_TIMED, len(stack))
    digest = hashlib.sha256(data).hexdigest()
    return EdgeNetwork(name, path.name, digest, size, len(data), each, furthest, len(stack))


def _converted(one: Any, to: str) -> bytes:
    """Return a traced network of one image as a file of this format."""
    if to == "onnx":
        import tf2onnx

        model, _ = tf2onnx.convert.from_function(
            one, input_signature=one.input_signature, opset=_ONNX_OPERATORS
        )
        return bytes(model.SerializeToString())
    import tensorflow as tf

    from models.traced import save_traced

    with tempfile.TemporaryDirectory() as saved:  # which names its outputs
        save_traced(one, Path(saved))
        return bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())


def open_edge(path: Path) -> Any:
    """Return a function of one image, uint8 (s, s), to a dict of arrays by the names in `models.outputs`."""
    if path.suffix == ".onnx":
        return _open_onnx(path)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a package that takes its place one day
        runner = tf.lite.Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    (argument,) = runner.get_input_details()

    def run(image: UInt8Array) -> dict[str, Float32Array]:
        return {name: np.asarray(rows) for name, rows in runner(**{argument: image[None]}).items()}

    return run


def _open_onnx(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (argument,) = (each.name for each in session.get_inputs())
    names = [each.name for each in session.get_outputs()]

    def run(image: UInt8Array) -> dict[str, Float32Array]:
        rows = session.run(names, {argument: image[None]})
        return {name: np.asarray(row) for name, row in zip(names, rows, strict=True)}

    return run
