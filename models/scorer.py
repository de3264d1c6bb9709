"""A bundle's compiled networks: one pass gives logit and attention map, on TensorFlow or OpenVINO."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.bundle import Bundle
from pipeline.types import Float16Array, Float32Array, UInt8Array

#: Batches are padded to one of these, so that few shapes are ever compiled.
BATCH_SIZES = (1, 4, 16, 32)
#: Of the conversion below; a change makes cached conversions stale.
_CONVERSION = 2


class ScorerError(RuntimeError):
    """The wanted backend is not installed, or cannot do what was asked."""


@dataclass(frozen=True)
class RegionScores:
    """Of n images: `probabilities` float32 (n, R), rows sum to 1; `distances` float32 (n,) to `Reference`."""

    probabilities: Float32Array
    distances: Float32Array


@dataclass(frozen=True)
class FractureScores:
    """Of n images: `logits` float32 (n,), not yet calibrated; `cams` float16 (n, gh, gw), at least 0."""

    logits: Float32Array
    cams: Float16Array


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


#: uint8 (n, s, s) to two float32 arrays: region logits and features, or fracture logits and maps.
Forward = Callable[[UInt8Array], tuple[Float32Array, Float32Array]]


class _Backend(Protocol):
    def forward(self, network: str) -> Forward:
        """Return the compiled function of a network."""


class Scorer:
    """Scores stacks of any length; networks are compiled when first needed.

    Use `open_scorer`.
    """

    def __init__(self, bundle: Bundle, backend: _Backend, backend_name: str, precision: str) -> None:
        self.bundle, self.backend_name, self.precision = bundle, backend_name, precision
        self._backend = backend
        self._forwards: dict[str, Forward] = {}
        self._reference = Reference.read(bundle.reference)

    def classify(self, stack: UInt8Array) -> RegionScores:
        """Tell body regions.

        Parameters
        ----------
        stack
            uint8 (n, s, s), s the bundle's `region_input_size`.
        """
        logits, features = self._run(self.bundle.region_network, stack)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        return RegionScores(probabilities.astype(np.float32), self._reference.distances(features))

    def detect(self, network: str, stack: UInt8Array) -> FractureScores:
        """Look for fractures: logits and attention maps from one forward pass.

        Parameters
        ----------
        stack
            uint8 (n, s, s), s the network's input size.
        """
        logits, cams = self._run(network, stack)
        return FractureScores(logits[:, 0], cams.astype(np.float16))

    def features(self, stack: UInt8Array) -> Float32Array:
        """Return the region network's features, float32 (n, d)."""
        return self._run(self.bundle.region_network, stack)[1]

    def warm_up(self) -> None:
        """Compile every network now rather than at the first image."""
        for name, network in self.bundle.networks.items():
            self._run(name, np.zeros((1, network.input_size, network.input_size), np.uint8))

    def _run(self, network: str, stack: UInt8Array) -> tuple[Float32Array, Float32Array]:
        size = self.bundle.input_size(network)
        if stack.dtype != np.uint8 or stack.ndim != 3 or stack.shape[1:] != (size, size):
            raise ValueError(
                f"{network} takes uint8 (n, {size}, {size}), got {stack.dtype} {tuple(stack.shape)}"
            )
        if network not in self._forwards:
            self._forwards[network] = self._backend.forward(network)
        forward, parts, start = self._forwards[network], [], 0
        while start < max(len(stack), 1):
            part = stack[start : start + BATCH_SIZES[-1]]
            padded = np.zeros((next(b for b in BATCH_SIZES if b >= len(part)), size, size), np.uint8)
            padded[: len(part)] = part
            first, second = forward(padded)
            parts.append((first[: len(part)], second[: len(part)]))
            start += BATCH_SIZES[-1]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def open_scorer(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "float32",
    threads: int = 0,
    cache: Path | None = None,
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
        CPU threads; 0 leaves it to the backend.
    cache
        Where converted networks are kept; by default `FRACTUREAI_CACHE_DIR`, else the user's cache folder.

    Raises
    ------
    ScorerError
        The backend is not installed, or does not do this precision.
    """
    if backend not in {"auto", "tensorflow", "openvino"} or precision not in {"float32", "bfloat16"}:
        raise ScorerError(f"unknown backend {backend!r} or precision {precision!r}")
    if backend == "auto":
        gpu = Path("/dev/nvidia0").exists()
        backend = "openvino" if not gpu and importlib.util.find_spec("openvino") else "tensorflow"
    if importlib.util.find_spec(backend) is None:
        raise ScorerError(f"the backend {backend} is not installed")
    if backend == "openvino":
        made: _Backend = _OpenVino(bundle, precision, threads, cache or _default_cache())
    elif precision != "float32":
        raise ScorerError("TensorFlow scores in float32 only; use the backend openvino for bfloat16")
    else:
        made = _TensorFlow(bundle, threads)
    return Scorer(bundle, made, backend, precision)


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FRACTUREAI_CACHE_DIR") or Path(home) / "fractureai")


def _traced(bundle: Bundle, network: str) -> Any:
    """Load a network and trace it as a tf.function of uint8 (n, s, s), n free."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    from models import architectures  # registers our layers, so that safe mode knows them

    kept = bundle.networks[network]
    model = keras.saving.load_model(kept.path, compile=False, safe_mode=True)
    signature = [tf.TensorSpec((None, kept.input_size, kept.input_size), tf.uint8)]

    if network == bundle.region_network:

        def classify(stack: Any) -> Any:
            out = model(tf.cast(stack, tf.float32)[..., None], training=False)
            return out[architectures.LOGIT], out[architectures.FEATURES]

        return tf.function(classify, input_signature=signature)

    names = (architectures.LOGIT, architectures.LOCAL, architectures.ACTIVATION)
    parts = keras.Model(model.input, [model.get_layer(name).output for name in names])

    attention = architectures.attention_map(model)

    def detect(stack: Any) -> Any:
        logits, local, activation = parts(tf.cast(stack, tf.float32)[..., None], training=False)
        return logits, attention(local, activation)

    return tf.function(detect, input_signature=signature)


def _save_traced(bundle: Bundle, network: str, folder: Path) -> None:
    """Write a traced network as a SavedModel, with its outputs named by their order."""
    import tensorflow as tf

    function = _traced(bundle, network)
    module = tf.Module()
    module.variables_of = function.get_concrete_function().variables
    module.serve = tf.function(
        lambda stack: dict(zip(("first", "second"), function(stack), strict=True)),
        input_signature=function.input_signature,
    )
    tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())


class _TensorFlow:
    """Runs the traced function as it is, on a GPU where there is one."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        import tensorflow as tf

        self.bundle = bundle
        if threads:
            try:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
            except RuntimeError as error:
                raise ScorerError(f"TensorFlow runs already; its threads are fixed: {error}") from error

    def forward(self, network: str) -> Forward:
        function = _traced(self.bundle, network)

        def run(stack: UInt8Array) -> tuple[Float32Array, Float32Array]:
            first, second = function(stack)
            return first.numpy(), second.numpy()

        return run


class _OpenVino:
    """Converts the traced function once, keeps it in the cache, and needs no TensorFlow from then on."""

    def __init__(self, bundle: Bundle, precision: str, threads: int, cache: Path) -> None:
        import openvino as ov

        self.bundle, self.cache = bundle, cache
        self.core = ov.Core()
        # without the hint OpenVINO picks bfloat16 by itself where the processor has it
        self.options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            self.options["INFERENCE_NUM_THREADS"] = threads

    def forward(self, network: str) -> Forward:
        compiled = self.core.compile_model(self._converted(network), "CPU", self.options)
        request = compiled.create_infer_request()

        def run(stack: UInt8Array) -> tuple[Float32Array, Float32Array]:
            request.infer([stack])
            return _output(request, "first"), _output(request, "second")

        return run

    def _converted(self, network: str) -> Path:
        """Return the cached conversion; make it if need be, safe against other processes."""
        import openvino as ov

        digest = self.bundle.networks[network].sha256[:16]
        folder = self.cache / f"openvino-{ov.get_version().split('-')[0]}-{_CONVERSION}-{digest}"
        if not folder.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=self.cache))
            try:
                _save_traced(self.bundle, network, part / "saved")
                converted = ov.convert_model(part / "saved")
                ov.save_model(converted, part / "network.xml", compress_to_fp16=False)
                shutil.rmtree(part / "saved")
                part.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first
                    raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return folder / "network.xml"


def _output(request: Any, name: str) -> npt.NDArray[np.float32]:
    # a copy: the request's memory is reused by the next call
    return np.array(request.get_tensor(name).data, np.float32)
