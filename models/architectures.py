"""Keras builders; every network takes one-channel 0-255 pictures and scales them itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras import layers, ops

#: Name of the layer whose activation the attention map is drawn from.
ACTIVATION = "activation"
LOGIT = "logit"
#: Logits cell by cell.
LOCAL = "local"
FEATURES = "features"
#: Logits of the main subject, a body part or anything else.
PART = "part"
#: Logits of each part being in view.
VIEW = "view"
#: Boxes that cells draw around a fracture.
BOXES = "boxes"


class WeightsNotFoundError(FileNotFoundError):
    """Pretrained weights are neither downloadable nor given as a file."""


@keras.saving.register_keras_serializable("fractureai")
class SoftMaximum(layers.Layer):  # type: ignore[misc]  # keras has no types
    """Log-mean-exp over the cells of a (n, h, w, 1) map of local logits, to (n, 1).

    Between the mean and the maximum: a fracture is a local thing, and the mean of a map dilutes it
    (Pinheiro and Collobert, CVPR 2015).
    """

    def __init__(self, sharpness: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sharpness = sharpness

    def call(self, inputs: Any) -> Any:
        """Pool the map."""
        size = ops.shape(inputs)
        cells = ops.reshape(inputs, (-1, size[1] * size[2])) * self.sharpness
        top = ops.max(cells, axis=1, keepdims=True)
        mean = ops.mean(ops.exp(cells - top), axis=1, keepdims=True)
        return (ops.log(mean) + top) / self.sharpness

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "sharpness": self.sharpness}


@dataclass(frozen=True)
class Backbone:
    """A built trunk: its input, its last map (stride 32) and finer ones (strides 16 and 8)."""

    image: Any
    last: Any
    finer: Any
    finest: Any


def _signed() -> Any:
    """Make the layer that brings 0-255 to -1 to 1."""
    return layers.Rescaling(1 / 127.5, -1.0, name="scale")


def _less_caffe_means() -> Any:
    # the channel order is of no account in a grey picture
    return layers.Rescaling(1.0, [-103.939, -116.779, -123.68], name="scale")


def _grey_to_rgb(image: Any) -> Any:
    return layers.Concatenate(name="grey_to_rgb")([image, image, image])


def _applications(
    build: Callable[..., Any],
    finer: str,
    finest: str,
    scaling: Callable[[], Any] | None = None,
    **options: Any,
) -> Callable[[int, str | None], Backbone]:
    """Take a published trunk; `scaling` makes the layer before it, where it does not scale by itself."""

    def make(size: int, weights: str | None) -> Backbone:
        image = keras.Input((size, size, 1), name="image")
        rgb = _grey_to_rgb(image)
        if scaling is not None:
            rgb = scaling()(rgb)
        try:
            trunk = build(include_top=False, weights=weights, input_tensor=rgb, **options)
        except (OSError, ValueError) as error:
            raise WeightsNotFoundError(
                f"{build.__name__}: no weights {weights!r} ({error}). Give a file of Keras weights without "
                "the top, go online for 'imagenet', or start from random weights with None."
            ) from error
        if weights not in {None, "imagenet"}:
            _rescaled_as_by_name(trunk)
        return Backbone(image, trunk.output, trunk.get_layer(finer).output, trunk.get_layer(finest).output)

    return make


#: Deviations that Keras divides by once more, and only with ``weights="imagenet"``: a file of the same
#: weights would see pictures half as bright.
_IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)


def _rescaled_as_by_name(trunk: Any) -> None:
    """Give an EfficientNet whose weights came from a file the rescaling that it has when named.

    The rescaling has no weights of its own; it goes into the first kernel, which is the same function.
    """
    if not any(isinstance(layer, layers.Normalization) for layer in trunk.layers):
        return
    stem = trunk.get_layer("stem_conv")
    (kernel,) = stem.get_weights()
    stem.set_weights([kernel / np.sqrt(_IMAGENET_DEVIATIONS)[None, None, :, None].astype(np.float32)])


def copy_weights(source: Any, target: Any) -> None:
    """Copy all weights between networks of one architecture.

    `set_weights` alone leaves a `Normalization` layer with the statistics that it had.
    """
    target.set_weights(source.get_weights())
    for layer in target.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


#: MobileNetV2: expansion, channels, repeats, stride (Sandler et al. 2018, table 2).
_MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _rounded(channels: float) -> int:
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _mobilenet_v2(alpha: float) -> Callable[[int, str | None], Backbone]:
    """Build MobileNetV2 with its BatchNorm folded into the convolutions.

    A third faster to train and score than with BatchNorm in inference mode, and the same function. From
    random weights it keeps its BatchNorm: without, it would hardly learn.
    """
    unfolded = _applications(
        keras.applications.MobileNetV2, "block_13_expand_relu", "block_6_expand_relu", _signed, alpha=alpha
    )

    def make(size: int, weights: str | None) -> Backbone:
        if weights is None:
            return unfolded(size, None)
        image = keras.Input((size, size, 1), name="image")

        def conv(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
            if stride == 2:
                x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
            padding = "valid" if stride == 2 else "same"
            return layers.Conv2D(filters, kernel, stride, padding, name=name)(x)

        x = layers.ReLU(6.0)(conv(_signed()(image), "Conv1", _rounded(32 * alpha), 3, 2))
        block, finer, finest = 0, None, None
        for expansion, channels, repeats, first_stride in _MOBILENET_STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                prefix = f"block_{block}" if block else "expanded_conv"
                entry = x
                if expansion > 1:
                    x = layers.ReLU(6.0)(conv(x, f"{prefix}_expand", expansion * x.shape[-1]))
                if block == 6:
                    finest = x
                if block == 13:
                    finer = x
                if stride == 2:
                    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{prefix}_pad")(x)
                x = layers.DepthwiseConv2D(
                    3, stride, "valid" if stride == 2 else "same", name=f"{prefix}_depthwise"
                )(x)
                x = conv(layers.ReLU(6.0)(x), f"{prefix}_project", _rounded(channels * alpha))
                if stride == 1 and entry.shape[-1] == x.shape[-1]:
                    x = layers.Add(name=f"{prefix}_add")([entry, x])
                block += 1
        last = layers.ReLU(6.0)(conv(x, "Conv_1", _rounded(1280 * max(1.0, alpha))))
        _load_folded(keras.Model(image, last), alpha, weights)
        return Backbone(image, last, finer, finest)

    return make


def _load_folded(model: Any, alpha: float, weights: str | None) -> None:
    """Copy ImageNet weights into a folded MobileNetV2: kernel x gamma / sqrt(variance + epsilon)."""
    if weights is None:
        return
    try:
        source = keras.applications.MobileNetV2((224, 224, 3), alpha, include_top=False, weights=weights)
    except (OSError, ValueError) as error:
        raise WeightsNotFoundError(
            f"MobileNetV2 {alpha}: no weights {weights!r} ({error}). Give a file of Keras weights without "
            "the top, or go online for 'imagenet'."
        ) from error
    for layer in model.layers:
        if not isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            continue
        norm = {"Conv1": "bn_Conv1", "Conv_1": "Conv_1_bn"}.get(layer.name, f"{layer.name}_BN")
        gamma, beta, mean, variance = source.get_layer(norm).get_weights()
        factor = gamma / (variance + source.get_layer(norm).epsilon) ** 0.5
        (kernel,) = source.get_layer(layer.name).get_weights()
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        kernel = kernel * (factor[:, None] if depthwise else factor)
        if layer.name == "Conv1":  # three equal grey channels: their kernels add up
            kernel = kernel.sum(axis=2, keepdims=True)
        layer.set_weights([kernel, beta - mean * factor])


#: EfficientNet: expansion, channels, first stride, kernel (Tan and Le 2019, table 1); B0 and B1 are equally
#: wide and differ in how often a block is repeated.
_EFFICIENTNET_STAGES = (
    (1, 16, 1, 3),
    (6, 24, 2, 3),
    (6, 40, 2, 5),
    (6, 80, 2, 3),
    (6, 112, 1, 5),
    (6, 192, 2, 5),
    (6, 320, 1, 3),
)
RELU6_REPEATS = {"b0": (1, 2, 2, 3, 3, 4, 1), "b1": (2, 3, 3, 4, 4, 5, 2)}
#: EfficientNet-Lite does not repeat its first and last stage more often in its larger variants.
LITE_REPEATS = {"b0": (1, 2, 2, 3, 3, 4, 1), "b1": (1, 3, 3, 4, 4, 5, 1)}
#: Bias that squeeze-excitation starts with where it is to change nothing, a constant apart.
EXCITED = 2.0


def _efficientnet_relu6(variant: str) -> Callable[[int, str | None], Backbone]:
    """Build EfficientNet with ReLU6 in place of swish and BatchNorm folded into the convolutions.

    It can start from EfficientNet-Lite's ImageNet weights (`training.lite`); with swish that function would
    be lost. Two to three times faster to train than with BatchNorm.
    """

    def make(size: int, weights: str | None) -> Backbone:
        if weights is not None:
            raise WeightsNotFoundError(
                f"efficientnet_{variant}_relu6 takes no Keras weights; training.lite starts it from "
                "EfficientNet-Lite's."
            )
        image = keras.Input((size, size, 1), name="image")

        def conv(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
            return layers.Conv2D(filters, kernel, stride, "same", name=name)(x)

        x = layers.Rescaling(1 / 128, -127 / 128, name="scale")(image)
        x = layers.ReLU(6.0)(conv(x, "stem", 32, 3, 2))
        entries = []  # of each stage: its first expanded activation, at the stride of the stage before
        for stage, (expansion, channels, first_stride, kernel) in enumerate(_EFFICIENTNET_STAGES, start=1):
            for repeat in range(RELU6_REPEATS[variant][stage - 1]):
                name, entry = f"block{stage}{chr(97 + repeat)}", x
                stride, width = first_stride if repeat == 0 else 1, x.shape[-1]
                if expansion > 1:
                    x = layers.ReLU(6.0)(conv(x, f"{name}_expand", expansion * width))
                if repeat == 0:
                    entries.append(x)
                x = layers.DepthwiseConv2D(kernel, stride, "same", name=f"{name}_depthwise")(x)
                x = layers.ReLU(6.0)(x)
                squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
                squeezed = layers.ReLU(6.0)(conv(squeezed, f"{name}_squeeze", max(1, width // 4)))
                excited = layers.Conv2D(x.shape[-1], 1, activation="sigmoid", name=f"{name}_excite")(squeezed)
                x = conv(layers.Multiply()([x, excited]), f"{name}_project", channels)
                if stride == 1 and width == channels:
                    x = layers.Add(name=f"{name}_add")([entry, x])
        last = layers.ReLU(6.0)(conv(x, "top", 1280))
        return Backbone(image, last, finer=entries[5], finest=entries[3])

    return make


def _custom_cnn(size: int, weights: str | None) -> Backbone:
    """Build the light CNN: Conv-ReLU-BatchNorm-MaxPool-Dropout blocks."""
    if weights is not None:
        raise WeightsNotFoundError("custom_cnn has no pretrained weights; start from random ones with None.")
    image = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    entries = []  # of each block, at strides 1, 2, 4, 8 and 16
    for block, filters in enumerate((32, 64, 128, 192, 256)):
        entries.append(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Dropout(0.1, name=f"block_{block}_dropout")(layers.MaxPooling2D()(x))
    return Backbone(image, x, entries[4], entries[3])


_BUILDERS: dict[str, Callable[[int, str | None], Backbone]] = {
    "efficientnet_b1_relu6": _efficientnet_relu6("b1"),
    "efficientnet_b0_relu6": _efficientnet_relu6("b0"),
    "efficientnet_b1": _applications(
        keras.applications.EfficientNetB1, "block6a_expand_activation", "block4a_expand_activation"
    ),
    "efficientnet_b0": _applications(
        keras.applications.EfficientNetB0, "block6a_expand_activation", "block4a_expand_activation"
    ),
    "mobilenet_v2": _mobilenet_v2(1.0),
    "mobilenet_v2_0.35": _mobilenet_v2(0.35),
    "resnet50": _applications(
        keras.applications.ResNet50, "conv4_block6_out", "conv3_block4_out", _less_caffe_means
    ),
    "custom_cnn": _custom_cnn,
}
ARCHITECTURES: tuple[str, ...] = tuple(_BUILDERS)


def build_backbone(architecture: str, size: int, weights: str | Path | None = None) -> Backbone:
    """Build a trunk for (size, size, 1) pictures in 0-255.

    Parameters
    ----------
    weights
        ``"imagenet"`` (needs the network), a file of Keras weights without the top, or None for random.

    Raises
    ------
    WeightsNotFoundError
        The weights are not to be had.
    """
    if architecture not in _BUILDERS:
        raise ValueError(f"unknown architecture {architecture!r}; one of {', '.join(ARCHITECTURES)}")
    if isinstance(weights, Path):
        if not weights.is_file():
            raise WeightsNotFoundError(f"no weights file {weights}")
        weights = str(weights)
    return _BUILDERS[architecture](size, weights)


def fracture_network(
    architecture: str, size: int, weights: str | Path | None = None, *, width: int = 192, dropout: float = 0.2
) -> Any:
    """Build a fracture network: outputs `logit` (n, 1) and `local` (n, h, w, 1), the logits cell by cell.

    The trunk's last map, doubled, is joined with its finer one (stride 16) in the layer `ACTIVATION`;
    the logit is the soft maximum of the local logits plus a linear reading of the mean activation.
    """
    trunk = build_backbone(architecture, size, weights)
    coarse = layers.UpSampling2D(2, name="coarse_up")(layers.Conv2D(width, 1, name="coarse")(trunk.last))
    joined = layers.Add(name="joined")([coarse, layers.Conv2D(width, 1, name="fine")(trunk.finer)])
    activation = layers.ReLU(name=ACTIVATION)(joined)
    dropped = layers.SpatialDropout2D(dropout, name="dropout")(activation)
    # an empty cell is by far the likeliest: start there (Lin et al. 2017, focal loss)
    local = layers.Conv2D(
        1, 1, name=LOCAL, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(-3.0),
    )(dropped)  # fmt: skip
    whole = layers.Dense(1, name="whole", kernel_initializer="zeros")(
        layers.GlobalAveragePooling2D(name="mean")(dropped)
    )
    logit = layers.Add(name=LOGIT)([SoftMaximum(name="soft_maximum")(local), whole])
    return keras.Model(trunk.image, {LOGIT: logit, LOCAL: local}, name="fracture")


def attention_map(network: Any) -> Callable[[Any, Any], Any]:
    """Return a function of `LOCAL` and `ACTIVATION` that gives each head's attention map (n, h, w, heads).

    It is what each cell adds to the logit, where it adds: gradient times activation, summed over channels.
    This is HiResCAM (Draelos and Carin 2020), the form of Grad-CAM that does not average the gradient over
    cells first, and so cannot point where the network did not look. The gradient of this head has a closed
    form, so none is computed: that of the soft maximum is the softmax of the local logits, that of the mean
    is the same everywhere.
    """
    bias = float(network.get_layer(LOCAL).get_weights()[1][0])
    whole = network.get_layer("whole").get_weights()[0]  # (channels, heads)
    sharpness = network.get_layer("soft_maximum").sharpness

    def attention(local: Any, activation: Any) -> Any:
        height, width = local.shape[1], local.shape[2]
        flat = ops.reshape(local, (-1, height * width))
        shared = ops.reshape((flat - bias) * ops.softmax(flat * sharpness, axis=-1), (-1, height, width, 1))
        return ops.relu(shared + ops.matmul(activation, whole) / (height * width))

    return attention


def reading_network(
    architecture: str, size: int, parts: int, heads: int, *, width: int = 96, dropout: float = 0.2
) -> Any:
    """Build one trunk that tells the part, the parts in view and, head by head, the fracture.

    Outputs: `PART` (n, parts + 1), logits of a softmax over the main subject, the last for anything else;
    `VIEW` (n, parts), logits of each part being in view; `LOGIT` (n, heads), a fracture logit a head;
    `LOCAL` (n, size / 8, size / 8, 1), fracture logits cell by cell, shared by the heads; and `FEATURES`.

    The trunk's last map is joined with its finer ones (strides 16 and 8) in the layer `ACTIVATION`; a head's
    logit is the soft maximum of the local logits plus its own linear reading of the mean activation.
    """
    trunk = build_backbone(architecture, size)
    features = layers.GlobalAveragePooling2D(name=FEATURES)(trunk.last)
    kept = layers.Dropout(dropout, name="features_dropout")(features)
    joined = layers.UpSampling2D(2, name="coarse_up")(layers.Conv2D(width, 1, name="coarse")(trunk.last))
    joined = layers.Add(name="joined_16")([joined, layers.Conv2D(width, 1, name="fine")(trunk.finer)])
    joined = layers.UpSampling2D(2, name="fine_up")(layers.ReLU(name="fine_relu")(joined))
    joined = layers.Add(name="joined_8")([joined, layers.Conv2D(width, 1, name="finest")(trunk.finest)])
    activation = layers.ReLU(name=ACTIVATION)(joined)
    dropped = layers.SpatialDropout2D(dropout / 2, name="dropout")(activation)
    local = layers.Conv2D(
        1, 1, name=LOCAL, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(-3.0),
    )(dropped)  # fmt: skip
    whole = layers.Dense(heads, name="whole", kernel_initializer="zeros")(
        layers.GlobalAveragePooling2D(name="mean")(dropped)
    )
    return keras.Model(
        trunk.image,
        {
            PART: layers.Dense(parts + 1, name=PART)(kept),
            VIEW: layers.Dense(parts, name=VIEW)(kept),
            LOGIT: layers.Add(name=LOGIT)([whole, SoftMaximum(name="soft_maximum")(local)]),
            LOCAL: local,
            FEATURES: features,
        },
        name="reading",
    )


#: Layers that boxes are drawn from, by architecture; strides 4 to 32.
BOX_SOURCES = {
    "efficientnet_b1_relu6": ("block2c_add", "block3c_add", "block5d_add", "block7b_add", ACTIVATION),
    "custom_cnn": ("block_1_dropout", "block_2_dropout", "block_3_dropout", "block_4_dropout", ACTIVATION),
}


def box_kernel(side: int, grid: int) -> tuple[int, int, int]:
    """Return kernel and stride with which boxes look at a map of this side, and how often a cell repeats."""
    if side > grid:
        return 4, side // grid, 1
    coarser = grid // side
    return 5 if coarser == 2 else 3, 1, coarser


def with_boxes(network: Any, architecture: str, *, width: int = 128) -> Any:
    """Return a reading network with one more output, `BOXES` (n, size / 8, size / 8, 5).

    Each cell looks at its neighbours at every stride of the trunk, then says how sure it is of a fracture
    around it and how far the sides of its box are (as FCOS does, Tian et al. 2019). Nothing else of the
    network changes. See `pipeline.boxes.drawn_places`.
    """
    grid = network.get_layer(ACTIVATION).output.shape[1]
    seen = []
    for name in BOX_SOURCES[architecture]:
        source = network.get_layer(name).output
        kernel, stride, coarser = box_kernel(source.shape[1], grid)
        x = layers.Conv2D(width, kernel, stride, "same", name=f"{BOXES}_{name}")(source)
        seen.append(layers.UpSampling2D(coarser, name=f"{BOXES}_{name}_up")(x) if coarser > 1 else x)
    x = layers.ReLU(name=f"{BOXES}_seen")(layers.Add(name=f"{BOXES}_joined")(seen))
    x = layers.Conv2D(width, 1, activation="relu", name=f"{BOXES}_hidden")(x)
    boxes = layers.Conv2D(5, 1, name=BOXES)(x)
    return keras.Model(network.input, {**network.output, BOXES: boxes}, name=network.name)


def region_network(
    architecture: str, size: int, regions: int, weights: str | Path | None = None, *, dropout: float = 0.2
) -> Any:
    """Build a region network: outputs `logit` (n, regions) before the softmax and `features` (n, d)."""
    trunk = build_backbone(architecture, size, weights)
    features = layers.GlobalAveragePooling2D(name=FEATURES)(trunk.last)
    logit = layers.Dense(regions, name=LOGIT)(layers.Dropout(dropout, name="dropout")(features))
    return keras.Model(trunk.image, {LOGIT: logit, FEATURES: features}, name="region")
