"""Networks and their fitting: right pixel ranges, the folded MobileNetV2, and runs that survive a kill."""

import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest

SIZE = 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["custom_cnn", "mobilenet_v2", "efficientnet_b0", "efficientnet_b1", "resnet50"]
)
def test_every_network_scales_its_own_input(architecture):
    """A picture in 0-1 instead of 0-255 must give another answer: the scaling is inside the graph."""
    from models.architectures import FEATURES, region_network

    network = region_network(architecture, SIZE, 2)
    picture = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 1)).astype(np.float32)
    right, wrong = (np.asarray(network(x, training=False)[FEATURES]) for x in (picture, picture / 255))
    assert np.isfinite(right).all()
    assert np.abs(right - wrong).max() > 0.05 * np.abs(right).max()


def test_the_folded_mobilenet_is_the_published_one(shared_data):
    import keras

    from models.architectures import build_backbone

    file = shared_data / "imagenet-weights" / "mobilenet_v2_0.35_224_notop.weights.h5"
    trunk = build_backbone("mobilenet_v2_0.35", 224, file)
    published = keras.applications.MobileNetV2((224, 224, 3), 0.35, include_top=False, weights=str(file))
    picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 1)).astype(np.float32)
    ours = np.asarray(keras.Model(trunk.image, trunk.last)(picture))
    scaled = keras.applications.mobilenet_v2.preprocess_input(np.repeat(picture, 3, axis=-1))
    theirs = np.asarray(published(scaled, training=False))
    assert theirs.max() > 1
    assert np.abs(ours - theirs).max() < 1e-3


def test_missing_weights_are_said_clearly(tmp_path):
    from models.architectures import WeightsNotFoundError, build_backbone

    with pytest.raises(WeightsNotFoundError, match="no weights file"):
        build_backbone("mobilenet_v2", SIZE, tmp_path / "none.h5")
    with pytest.raises(WeightsNotFoundError, match="go online"):
        build_backbone("mobilenet_v2", SIZE, str(tmp_path / "none.h5"))
    with pytest.raises(WeightsNotFoundError, match="no pretrained weights"):
        build_backbone("custom_cnn", SIZE, "imagenet")
    with pytest.raises(ValueError, match="unknown architecture"):
        build_backbone("lenet", SIZE)


def _fit(folder: Path, kill_after: int | None) -> None:
    """Fit a small network; with `kill_after`, die as by SIGKILL once that epoch is kept."""
    import os

    import keras

    from models.architectures import fracture_network
    from training.datasets import phantom_examples
    from training.fit import Batches, Pictures, Schedule, fit

    keras.utils.set_random_seed(7)
    examples, pixels = phantom_examples(["hand"], 16, 0)
    batches = Batches(Pictures(examples, pixels, 1.0), None, SIZE, Schedule(4, 16, batch=8), seed=5)
    network = fracture_network("custom_cnn", SIZE, width=8)

    def die(epoch, _):
        if epoch == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(network, batches, folder, verbose=0, validate=die)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights_as_an_unbroken_one(tmp_path):
    import h5py

    context = multiprocessing.get_context("spawn")
    for folder, kill_after in (("whole", None), ("killed", 2), ("killed", None)):
        process = context.Process(target=_fit, args=(tmp_path / folder, kill_after))
        process.start()
        process.join(200)
        assert process.exitcode == (0 if kill_after is None else -signal.SIGKILL)
    log = (tmp_path / "killed" / "tuned.csv").read_text().splitlines()
    assert sum(line.startswith("0,") for line in log) == 1, "the second run must go on, not start again"

    def weights(folder):
        found = {}
        with h5py.File(tmp_path / folder / "tuned.weights.h5") as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None
            )
        return found

    whole, killed = weights("whole"), weights("killed")
    assert whole.keys() == killed.keys()
    assert len(whole) > 10
    for name in whole:
        if not name.startswith("optimizer"):
            assert np.allclose(whole[name], killed[name], atol=1e-5), name
