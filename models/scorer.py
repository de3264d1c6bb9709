"""A bundle's compiled networks: one pass gives logit and attention map, on TensorFlow or OpenVINO."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from models import outputs
from models.bundle import Bundle
from models.convert import (
    CONVERSION_SECONDS,
    ConversionError,
    convert_in_process,
    read_expected,
    self_test_images,
)
from pipeline.boxes import SuspectedPlace, drawn_places, suspected_places
from pipeline.preprocess import shrunk
from pipeline.types import Float16Array, Float32Array, PlaceRules, UInt8Array

#: TensorFlow's batches are padded to one of these, so that few shapes are ever compiled.
BATCH_SIZES = (1, 4, 16, 32)
#: How far a probability may lie from the bundle's own network on the self-test images.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
#: Each stream keeps buffers of its own for each network.
MAX_STREAMS = 16


class ScorerError(RuntimeError):
    """The wanted backend is not installed, cannot do what was asked, or disagrees with the bundle."""


@dataclass(frozen=True)
class RegionScores:
    """What the region network says of n images.

    Attributes
    ----------
    probabilities
        float32 (n, R), rows sum to 1.
    distances
        float32 (n,), to `Reference`.
    views
        float32 (n, V): of each of `Bundle.views`, that it is in view; V is 0 where the bundle has none.
    """

    probabilities: Float32Array
    distances: Float32Array
    views: Float32Array


@dataclass(frozen=True)
class FractureScores:
    """What a fracture network says of n images.

    Attributes
    ----------
    logits
        float32 (n,), not yet calibrated.
    cams
        float16 (n, gh, gw), at least 0.
    spread
        float32 (n,): how far the logits of the picture and of its mirror image, or of a network and its
        partner, lie apart, a sign of uncertainty; 0 where there is one reading.
    evidence
        float16 (n, eh, ew), 0-1: how surely a cell belongs to a fracture, see `pipeline.boxes`; (n, 0, 0)
        where the network does not say.
    boxes
        float32 (n, bh, bw, 5): the boxes that cells draw, see `pipeline.boxes.drawn_places`; (n, 0, 0, 5)
        where the network draws none.
    """

    logits: Float32Array
    cams: Float16Array
    spread: Float32Array
    evidence: Float16Array
    boxes: Float32Array

    def places(
        self, number: int, width: int, height: int, rules: PlaceRules | None
    ) -> tuple[SuspectedPlace, ...] | None:
        """Return the suspected places of one image of this size; None where the bundle shows none.

        The network's own boxes where it draws some, else those around its evidence map.
        """
        if rules is None:
            return None
        if self.boxes.shape[1]:
            boxes, evidence, logit = self.boxes[number], self.evidence[number], float(self.logits[number])
            return drawn_places(boxes, evidence, logit, width, height, rules)
        if self.evidence.shape[1]:
            return suspected_places(self.evidence[number], width, height, rules)
        return None


class Reference:
    """What features are compared with: how far an image lies from the training data.

    The features are centred, projected (whitened), and the distance to the `neighbour`-th nearest of the
    `centres` is taken: with class means and neighbour 1 that is the Mahalanobis distance of Lee et al.
    (NeurIPS 2018), with training images it is the deep nearest-neighbour distance of Sun et al. (ICML 2022).
    """

    def __init__(
        self, mean: Float32Array, projection: Float32Array, centres: Float32Array, neighbour: int
    ) -> None:
        """Take mean (d,), projection (d, k), centres (m, k)."""
        self.mean, self.projection, self.centres, self.neighbour = mean, projection, centres, neighbour

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Read from a bundle's `.npz`; pickles are refused."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["mean"], kept["projection"], kept["centres"], int(kept["neighbour"]))

    @classmethod
    def blank(cls, dimension: int) -> Reference:
        """Return one that finds every image at distance 0."""
        return cls(
            np.zeros(dimension, np.float32),
            np.zeros((dimension, 1), np.float32),
            np.zeros((1, 1), np.float32),
            1,
        )

    def write(self, path: Path) -> None:
        """Write a `.npz`."""
        np.savez_compressed(
            path,
            mean=self.mean,
            projection=self.projection,
            centres=self.centres,
            neighbour=np.int32(self.neighbour),
        )

    def distances(self, features: Float32Array) -> Float32Array:
        """Return float32 (n,) for features (n, d)."""
        points = (features - self.mean) @ self.projection
        squares = (
            (points**2).sum(axis=1)[:, None] - 2 * points @ self.centres.T + (self.centres**2).sum(axis=1)
        )
        nearest = np.partition(squares, self.neighbour - 1, axis=1)[:, self.neighbour - 1]
        return np.sqrt(np.maximum(nearest, 0)).astype(np.float32)


#: uint8 (n, s, s), n at least 1, to the float32 outputs that `models.traced` names, n rows each.
Forward = Callable[[UInt8Array], Mapping[str, Float32Array]]


class _Memo:
    """What a network lately said of images, by their pixels: *classify* and *detect* ask the same of it."""

    #: Some ten chunks; an image's answers take about 80 KB.
    IMAGES = 512

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, dict[str, Float32Array]] = OrderedDict()

    def run(self, forward: Forward, stack: UInt8Array) -> Mapping[str, Float32Array]:
        """Return the network's answers, computing those that are not kept."""
        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in stack]
        new = [n for n, key in enumerate(keys) if key not in self._kept]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        if new:
            out = forward(stack[new])
            for row, n in enumerate(new):
                known[keys[n]] = {name: rows[row].copy() for name, rows in out.items()}
        for key in keys:
            self._kept[key] = known[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.IMAGES:
            self._kept.popitem(last=False)
        return {name: np.stack([known[key][name] for key in keys]) for name in known[keys[0]]}


class _Backend(Protocol):
    def forward(self, network: str) -> Forward:
        """Return the compiled function of a network's file."""


class Scorer:
    """Scores stacks of any length; networks are compiled when first needed.

    Use `open_scorer`.
    """

    def __init__(self, bundle: Bundle, backend: _Backend, backend_name: str, precision: str) -> None:
        self.bundle, self.backend_name, self.precision = bundle, backend_name, precision
        self._backend = backend
        self._forwards: dict[str, Forward] = {}
        files = [network.sha256 for network in bundle.networks.values()]
        #: Files that several networks share: what they say of an image is kept, as the next stage asks again.
        self._memos = {file: _Memo() for file in set(files) if files.count(file) > 1}
        self._reference = Reference.read(bundle.reference)

    def classify(self, stack: UInt8Array) -> RegionScores:
        """Tell body regions.

        Parameters
        ----------
        stack
            uint8 (n, s, s), s the bundle's `region_input_size`.
        """
        out = self._run(self.bundle.region_network, stack)
        logits = out[outputs.PART]
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        seen = out.get(outputs.VIEW, np.zeros((len(stack), 0), np.float32))
        return RegionScores(
            probabilities.astype(np.float32),
            self._reference.distances(out[outputs.FEATURES]),
            (1 / (1 + np.exp(-seen))).astype(np.float32),
        )

    def detect(self, network: str, stack: UInt8Array) -> FractureScores:
        """Look for fractures: logits and attention maps from one forward pass.

        Parameters
        ----------
        stack
            uint8 (n, s, s), s the bundle's `input_size` of the network.
        """
        read = self.bundle.networks[network]
        own = self._look(network, stack)
        return _joined(own, self._look(read.partner, stack), read.weights) if read.partner else own

    def _look(self, network: str, stack: UInt8Array) -> FractureScores:
        """Return what a network says alone, of pictures of its size or larger; mirrored: both ways."""
        stack = shrunk(stack, self.bundle.networks[network].input_size)
        logits, cams, evidence, boxes = self._head(network, stack)
        spread: Float32Array = np.zeros(len(stack), np.float32)
        if self.bundle.networks[network].mirrored:
            others, maps, found, _ = self._head(network, np.ascontiguousarray(stack[:, :, ::-1]))
            spread = np.abs(logits - others)
            logits = (logits + others) / np.float32(2)
            cams = (cams + maps[:, :, ::-1]) / np.float32(2)
            evidence = (evidence + found[:, :, ::-1]) / np.float32(2)
        return FractureScores(logits, cams.astype(np.float16), spread, evidence.astype(np.float16), boxes)

    def _head(
        self, network: str, stack: UInt8Array
    ) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
        """Return logits (n,), attention and evidence maps (n, h, w) and boxes of a network's head."""
        out, head = self._run(network, stack), self.bundle.networks[network].head or 0
        local = out.get(outputs.LOCAL, np.zeros((len(stack), 0, 0), np.float32))
        evidence = (1 / (1 + np.exp(-local))).astype(np.float32)
        boxes = out.get(outputs.BOXES, np.zeros((len(stack), 0, 0, 5), np.float32))
        return out[outputs.LOGIT][:, head], out[outputs.ATTENTION][..., head], evidence, boxes

    def features(self, stack: UInt8Array) -> Float32Array:
        """Return the region network's features, float32 (n, d)."""
        return self._run(self.bundle.region_network, stack)[outputs.FEATURES]

    def warm_up(self) -> None:
        """Compile every network now rather than at the first image."""
        for name, network in self.bundle.networks.items():
            self._run(name, np.zeros((1, network.input_size, network.input_size), np.uint8))

    def _run(self, network: str, stack: UInt8Array) -> Mapping[str, Float32Array]:
        size = self.bundle.networks[network].input_size
        if stack.dtype != np.uint8 or stack.ndim != 3 or stack.shape[1:] != (size, size):
            raise ValueError(
                f"{network} takes uint8 (n, {size}, {size}), got {stack.dtype} {tuple(stack.shape)}"
            )
        file = self.bundle.networks[network].sha256
        if file not in self._forwards:
            self._forwards[file] = self._backend.forward(network)
        if not len(stack):  # one blank image tells the shapes
            blank = self._forwards[file](np.zeros((1, size, size), np.uint8))
            return {name: rows[:0] for name, rows in blank.items()}
        if file in self._memos:
            return self._memos[file].run(self._forwards[file], stack)
        return self._forwards[file](stack)


def open_scorer(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "float32",
    threads: int = 0,
    cache: Path | None = None,
    conversion_seconds: float = CONVERSION_SECONDS,
    converted: Path | None = None,
) -> Scorer:
    """Open a bundle for scoring.

    Parameters
    ----------
    backend
        ``"tensorflow"``, ``"openvino"``, or ``"auto"``: TensorFlow where there is an NVIDIA GPU, else
        OpenVINO if it is installed (about twice as fast on a CPU).
    precision
        ``"float32"``, or ``"bfloat16"`` with OpenVINO (faster; differs from float32 by about 2e-3).
    threads
        CPU threads; 0 means one a core.
    cache
        Where converted networks are kept; by default `FRACTUREAI_CACHE_DIR`, else the user's cache folder.
    conversion_seconds
        How long a conversion may take.
    converted
        Where networks lie that were converted beforehand; looked at before the cache.

    Raises
    ------
    ScorerError
        The backend is not installed, or does not do this precision. A network that cannot be converted, or
        whose answers to the self-test images are wrong, raises it when it is first needed.
    """
    if backend not in {"auto", "tensorflow", "openvino"} or precision not in {"float32", "bfloat16"}:
        raise ScorerError(f"unknown backend {backend!r} or precision {precision!r}")
    if backend == "auto":
        gpu = Path("/dev/nvidia0").exists()
        backend = "openvino" if not gpu and importlib.util.find_spec("openvino") else "tensorflow"
    if importlib.util.find_spec(backend) is None:
        raise ScorerError(f"the backend {backend} is not installed")
    if backend == "openvino":
        made: _Backend = _OpenVino(
            bundle, precision, threads, cache or _default_cache(), conversion_seconds, converted
        )
    elif precision != "float32":
        raise ScorerError("TensorFlow scores in float32 only; use the backend openvino for bfloat16")
    else:
        made = _TensorFlow(bundle, threads)
    return Scorer(bundle, made, backend, precision)


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FRACTUREAI_CACHE_DIR") or Path(home) / "fractureai")


class _TensorFlow:
    """Runs the traced function as it is, on a GPU where there is one."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import tensorflow as tf

        self.bundle = bundle
        # a GPU would round what goes into convolutions to 10 bits and still call it float32
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if threads:
            try:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
            except RuntimeError as error:
                raise ScorerError(f"TensorFlow runs already; its threads are fixed: {error}") from error

    def forward(self, network: str) -> Forward:
        import tensorflow as tf

        from models.traced import traced

        function = traced(self.bundle, network)

        def run(stack: UInt8Array) -> Mapping[str, Float32Array]:
            parts = []
            for start in range(0, len(stack), BATCH_SIZES[-1]):
                part = stack[start : start + BATCH_SIZES[-1]]
                padded = np.zeros(
                    (next(b for b in BATCH_SIZES if b >= len(part)), *stack.shape[1:]), np.uint8
                )
                padded[: len(part)] = part
                parts.append({name: rows.numpy()[: len(part)] for name, rows in function(padded).items()})
            return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

        # what the processor says of the self-test images, against the same graph as it will serve: a GPU
        # chooses how to convolve by the batch's size, so each size is asked
        images = self_test_images(self.bundle.networks[network].input_size)
        with tf.device("/CPU:0"):
            said = {n: rows.numpy() for n, rows in function(images).items() if n in outputs.CHECKED}
        for size in BATCH_SIZES:
            rows = np.arange(size) % len(images)
            expected = {name: answers[rows] for name, answers in said.items()}
            kind = f"TensorFlow in float32, {size} at a time,"
            _check(network, run(images[rows]), expected, kind, TOLERANCE["float32"])
        return run


class _OpenVino:
    """Runs the converted networks one image a request, as many requests at once as there are threads.

    On a CPU larger batches gain nothing: an image's activations no longer fit the caches, and each batch
    size keeps buffers of its own. One by one an image also scores the same in whatever company it comes.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        threads: int,
        cache: Path,
        conversion_seconds: float,
        converted: Path | None = None,
    ) -> None:
        import openvino as ov

        self.bundle, self.cache, self.precision = bundle, cache, precision
        self.conversion_seconds, self.converted = conversion_seconds, converted
        self.core = ov.Core()
        self.streams = min(threads or len(os.sched_getaffinity(0)), MAX_STREAMS)
        self.options: dict[str, Any] = {
            # without the hint OpenVINO picks bfloat16 by itself where the processor has it
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            "ENABLE_CPU_PINNING": False,  # other processes want the same cores
        }

    def forward(self, network: str) -> Forward:
        try:
            folder = convert_in_process(
                self.bundle, network, self.cache, self.conversion_seconds, self.converted
            )
        except ConversionError as error:
            raise ScorerError(str(error)) from error
        compiled = self.core.compile_model(folder / "network.xml", "CPU", self.options)
        requests = [compiled.create_infer_request() for _ in range(self.streams)]
        names = [output.get_any_name() for output in compiled.outputs]

        def run(stack: UInt8Array) -> Mapping[str, Float32Array]:
            answers: list[dict[str, Float32Array]] = []

            def finish(number: int) -> None:
                # waited for, with no callback: that runs in a thread of OpenVINO's, and may still want the
                # interpreter while whoever frees the network holds it and waits for that thread
                request = requests[number % len(requests)]
                request.wait()
                # copies: the request's memory is reused by a later image
                answers.append({name: _output(request, name) for name in names})

            for number in range(len(stack)):
                if number >= len(requests):
                    finish(number - len(requests))
                requests[number % len(requests)].start_async([stack[number : number + 1]])
            for number in range(max(0, len(stack) - len(requests)), len(stack)):
                finish(number)
            return {n: np.concatenate([answer[n] for answer in answers]) for n in names}

        images = self_test_images(self.bundle.networks[network].input_size)
        name = f"OpenVINO in {self.precision}"
        _check(network, run(images), read_expected(folder), name, TOLERANCE[self.precision])
        return run


def _check(
    network: str,
    out: Mapping[str, Float32Array],
    expected: Mapping[str, Float32Array],
    backend: str,
    tolerance: float,
) -> None:
    """Compare answers to the self-test images with what the bundle's own network says on this processor.

    Raises
    ------
    ScorerError
        They differ: this processor, GPU, or version of the backend is not to be trusted.
    """
    furthest = max(
        float(np.abs(probabilities(out[name], name) - probabilities(rows, name)).max())
        for name, rows in expected.items()
    )
    if not furthest <= tolerance:  # NaN too
        raise ScorerError(
            f"{backend} disagrees with network {network} on the self-test images by {furthest:.2g} (at most "
            f"{tolerance} is allowed). Set FRACTUREAI_PRECISION=float32, or FRACTUREAI_SCORER_BACKEND to "
            "tensorflow or openvino."
        )


def probabilities(logits: Float32Array, output: str) -> Float32Array:
    """Return the softmax of the part's logits, the logistic of any other, without the boxes' sides."""
    if output == outputs.BOXES:
        logits = logits[..., 0]
    if output != outputs.PART:
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def _joined(own: FractureScores, other: FractureScores, weights: tuple[float, float]) -> FractureScores:
    """Return what a network and its partner say together."""
    one, two = (np.float32(w) * s.logits for w, s in zip(weights, (own, other), strict=True))
    return FractureScores(
        one + two,
        _joined_maps(own.cams, other.cams),
        2 * np.abs(one - two),
        own.evidence if own.evidence.shape[1] else other.evidence,
        own.boxes if own.boxes.shape[1] else other.boxes,
    )


def _joined_maps(own: Float16Array, other: Float16Array) -> Float16Array:
    """Return the mean of two attention maps (n, h, w), each scaled to at most 1, on the finer grid."""
    finer = max(own, other, key=lambda maps: maps.shape[1])
    side, joined = finer.shape[1], np.zeros(finer.shape, np.float32)
    for maps in (own, other):
        for row, cam in enumerate(np.maximum(maps.astype(np.float32), 0)):
            scaled = cam / max(float(cam.max()), 1e-6)
            joined[row] += cv2.resize(scaled, (side, side), interpolation=cv2.INTER_LINEAR) / 2
    return joined.astype(np.float16)


def _output(request: Any, name: str) -> npt.NDArray[np.float32]:
    return np.array(request.get_tensor(name).data, np.float32)
