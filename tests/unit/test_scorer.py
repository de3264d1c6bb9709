"""The scorer: both backends alike, any number of images, and its map is gradient times activation."""

import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from models import outputs
from models import scorer as scorer_module
from models.scorer import BATCH_SIZES, Reference, Scorer, ScorerError, open_scorer
from pipeline.preprocess import shrunk

SIZE = 64


@pytest.fixture(scope="module")
def stack():
    from phantoms.film import make_phantom
    from pipeline.preprocess import model_input

    seeds = range(BATCH_SIZES[-1] + 5)
    pictures = [make_phantom(900 + s, "hand" if s % 2 else "leg", size=(160, 200)).pixels for s in seeds]
    return np.stack([model_input(p, SIZE) for p in pictures])


@pytest.fixture(scope="module", params=["tensorflow", "openvino"])
def scorer(request, tiny_bundle, tmp_path_factory):
    return open_scorer(tiny_bundle, backend=request.param, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tensorflow_scorer(tiny_bundle):
    return open_scorer(tiny_bundle, backend="tensorflow")


def test_scores_have_the_promised_shapes_and_ranges(scorer, stack):
    regions, fractures = scorer.classify(stack), scorer.detect("fracture", stack)
    assert regions.probabilities.shape == (len(stack), 2)
    assert regions.probabilities.dtype == regions.distances.dtype == np.float32
    assert np.allclose(regions.probabilities.sum(axis=1), 1, atol=1e-5)
    assert regions.distances.shape == fractures.logits.shape == (len(stack),)
    assert fractures.cams.shape == (len(stack), 4, 4)
    assert fractures.cams.dtype == np.float16
    assert (fractures.cams >= 0).all()


def test_an_image_scores_the_same_alone_and_in_any_company(scorer, stack):
    whole = scorer.detect("fracture", stack)
    assert np.ptp(whole.logits) > 1e-3, "the images must differ for this test to mean anything"
    for part in (slice(0, 1), slice(2, 5), slice(30, 37)):
        assert np.allclose(scorer.detect("fracture", stack[part]).logits, whole.logits[part], atol=1e-5)


def test_backends_agree(scorer, tensorflow_scorer, stack):
    ours, theirs = scorer.detect("fracture", stack), tensorflow_scorer.detect("fracture", stack)
    assert np.abs(ours.logits - theirs.logits).max() < 1e-5
    assert np.abs(ours.cams.astype(float) - theirs.cams.astype(float)).max() < 1e-3
    ours, theirs = scorer.classify(stack), tensorflow_scorer.classify(stack)
    assert np.abs(ours.probabilities - theirs.probabilities).max() < 1e-5
    assert np.abs(ours.distances - theirs.distances).max() < 1e-3


def test_a_mirrored_network_reads_both_ways_and_tells_how_far_they_differ(scorer, tiny_bundle, stack):
    networks = {name: replace(n, mirrored=True) for name, n in tiny_bundle.networks.items()}
    both = Scorer(replace(tiny_bundle, networks=networks), scorer._backend, scorer.backend_name, "float32")
    plain, turned = (scorer.detect("fracture", s) for s in (stack, stack[:, :, ::-1].copy()))
    found = both.detect("fracture", stack)
    assert np.allclose(found.logits, (plain.logits + turned.logits) / 2, atol=1e-5)
    assert np.allclose(found.spread, np.abs(plain.logits - turned.logits), atol=1e-5)
    assert found.spread.max() > 1e-3
    expected = (plain.cams.astype(float) + turned.cams[:, :, ::-1]) / 2
    assert np.abs(found.cams - expected).max() < 2e-3 * max(1.0, expected.max())
    again = both.detect("fracture", stack[:, :, ::-1].copy())
    assert np.allclose(found.logits, again.logits, atol=1e-5)
    assert not plain.spread.any()


def test_a_network_and_its_partner_are_joined(scorer, tiny_bundle, stack):
    alone = tiny_bundle.networks["fracture"]
    networks = {**tiny_bundle.networks, "second": replace(alone, name="second", mirrored=True)}
    networks["fracture"] = replace(alone, partner="second", weights=(0.25, 0.5))
    both = Scorer(replace(tiny_bundle, networks=networks), scorer._backend, scorer.backend_name, "float32")
    one = scorer.detect("fracture", stack)
    both._forwards.update(scorer._forwards)  # the backend knows no network of that name
    two = both.detect("second", stack)
    found = both.detect("fracture", stack)
    assert np.allclose(found.logits, 0.25 * one.logits + 0.5 * two.logits, atol=1e-5)
    assert np.allclose(found.spread, np.abs(0.5 * one.logits - two.logits), atol=1e-5)
    assert found.cams.shape == one.cams.shape
    assert 0.5 <= found.cams.max() <= 1


def test_what_a_shared_file_said_of_an_image_is_asked_once(scorer, tiny_bundle, stack):
    region = tiny_bundle.networks["region"]
    networks = {**tiny_bundle.networks, "again": replace(region, name="again", mirrored=True)}
    both = Scorer(replace(tiny_bundle, networks=networks), scorer._backend, scorer.backend_name, "float32")
    first, asked = both.classify(stack), []
    (file,) = both._memos
    forward = both._forwards[file]
    both._forwards[file] = lambda some: asked.append(len(some)) or forward(some)
    twice = both.classify(np.concatenate([stack[::-1], 255 - stack[:1], stack[:1]]))
    assert asked == [1]
    assert np.allclose(twice.probabilities[: len(stack)], first.probabilities[::-1], atol=1e-6)
    assert np.allclose(twice.probabilities[-1], first.probabilities[0], atol=1e-6)


def test_no_images_are_no_scores(scorer):
    empty = np.zeros((0, SIZE, SIZE), np.uint8)
    assert scorer.detect("fracture", empty).cams.shape == (0, 4, 4)
    assert scorer.classify(empty).probabilities.shape == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, SIZE, SIZE), np.float32),
        np.zeros((1, 32, 32), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
    ],
)
def test_a_wrong_stack_is_refused(scorer, wrong):
    with pytest.raises(ValueError, match="takes uint8"):
        scorer.detect("fracture", wrong)


def test_the_map_is_the_gradient_times_the_activation(tiny_bundle, tensorflow_scorer, stack):
    import keras
    import tensorflow as tf

    from models import architectures

    model = keras.saving.load_model(tiny_bundle.networks["fracture"].path, compile=False)
    activation = model.get_layer(architectures.ACTIVATION).output
    trunk = keras.Model(model.input, activation)
    head = keras.Model(activation, model.get_layer(architectures.LOGIT).output)
    maps = trunk(stack[:4, ..., None].astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = head(maps)
    expected = tf.nn.relu(tf.reduce_sum(tape.gradient(logits, maps) * maps, axis=-1)).numpy()
    assert expected.max() > 0
    assert np.allclose(tensorflow_scorer.detect("fracture", stack[:4]).cams, expected, atol=1e-6, rtol=1e-3)


def test_a_converted_network_is_kept_and_used_again(tiny_bundle, tmp_path, stack):
    first = open_scorer(tiny_bundle, backend="openvino", cache=tmp_path)
    first.warm_up()
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert len(kept) == 2, "one conversion a network, and no leftovers"
    written = [(tmp_path / name / "network.bin").stat().st_mtime_ns for name in kept]
    open_scorer(tiny_bundle, backend="openvino", cache=tmp_path).warm_up()
    assert [(tmp_path / name / "network.bin").stat().st_mtime_ns for name in kept] == written


def test_scoring_on_openvino_never_loads_tensorflow(tiny_bundle, tmp_path):
    script = (
        "import sys; from pathlib import Path; from models.bundle import load_bundle;"
        "from models.scorer import open_scorer;"
        f"open_scorer(load_bundle(Path({str(tiny_bundle.folder)!r})), backend='openvino',"
        f" cache=Path({str(tmp_path)!r})).warm_up();"
        "print('openvino' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_two_processes_convert_once(tiny_bundle, tmp_path):
    command = [sys.executable, "-m", "models.convert", str(tiny_bundle.folder), "--cache", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [process.communicate(timeout=250)[0].split() for process in both]
    assert sorted(len(lines) for lines in made) == [0, 2]
    assert [process.returncode for process in both] == [0, 0]


def test_a_backend_that_disagrees_refuses_to_serve(tiny_bundle, tmp_path, stack):
    open_scorer(tiny_bundle, backend="openvino", cache=tmp_path).warm_up()
    for kept in tmp_path.glob("*/expected.npz"):
        with np.load(kept) as arrays:
            said = {name: arrays[name] for name in arrays.files}
        for logits in said.values():
            logits[:, 0] += 0.1
        np.savez(kept, **said)
    scorer = open_scorer(tiny_bundle, backend="openvino", cache=tmp_path)
    for ask in (lambda: scorer.detect("fracture", stack), lambda: scorer.classify(stack)):
        with pytest.raises(ScorerError, match=r"OpenVINO in float32 disagrees .* FRACTUREAI_SCORER_BACKEND"):
            ask()


def test_tensorflow_checks_the_path_that_a_gpu_takes_against_the_processor(tiny_bundle, monkeypatch, stack):
    assert open_scorer(tiny_bundle, backend="tensorflow").detect("fracture", stack[:1]).logits.shape == (1,)
    monkeypatch.setitem(scorer_module.TOLERANCE, "float32", -1.0)  # nothing agrees so well
    with pytest.raises(
        ScorerError, match="TensorFlow in float32, 1 at a time, disagrees with network fracture"
    ):
        open_scorer(tiny_bundle, backend="tensorflow").detect("fracture", stack[:1])


@pytest.mark.parametrize("wrong", BATCH_SIZES)
def test_tensorflow_checks_every_size_of_batch(tiny_bundle, monkeypatch, stack, wrong):
    """A GPU chooses how to convolve by the size of the batch, and may be wrong at one of them alone."""
    from models import outputs, traced

    ours = traced.traced

    def wrong_at_one_size(bundle, network):
        function, times = ours(bundle, network), []

        def say(images):
            said = dict(function(images))
            times.append(len(images))
            if times != [len(images)] and len(images) == wrong:  # the first call is the processor's
                said[outputs.LOGIT] += 0.1
            return said

        return say

    monkeypatch.setattr(traced, "traced", wrong_at_one_size)
    with pytest.raises(ScorerError, match=f"TensorFlow in float32, {wrong} at a time, disagrees"):
        open_scorer(tiny_bundle, backend="tensorflow").detect("fracture", stack[:1])


def test_a_network_that_cannot_be_converted_says_why(tiny_bundle, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, broken)
    network = tiny_bundle.networks["fracture"]
    (broken / network.path.name).write_bytes(b"no network")
    bundle = replace(
        tiny_bundle,
        folder=broken,
        networks={**tiny_bundle.networks, "fracture": replace(network, sha256="0" * 64)},
    )
    with pytest.raises(ScorerError, match=r"failed: .*altered.* Try by hand: python -m models.convert"):
        open_scorer(bundle, backend="openvino", cache=tmp_path).detect(
            "fracture", np.zeros((1, SIZE, SIZE), np.uint8)
        )
    with pytest.raises(ScorerError, match="longer than 0 s; FRACTUREAI_CONVERSION_SECONDS"):
        open_scorer(bundle, backend="openvino", cache=tmp_path, conversion_seconds=0.01).warm_up()


def test_unknown_or_impossible_wishes_are_refused(tiny_bundle):
    with pytest.raises(ScorerError, match="unknown backend"):
        open_scorer(tiny_bundle, backend="abacus")
    with pytest.raises(ScorerError, match="float32 only"):
        open_scorer(tiny_bundle, backend="tensorflow", precision="bfloat16")


def test_distances_by_hand():
    points = Reference(
        np.array([1, 0], np.float32),
        np.array([[1, 0], [0, 2]], np.float32),
        np.array([[0, 0], [3, 4]], np.float32),
        1,
    )
    # (4, 2) is centred to (3, 2), projected to (3, 4): it lies on the second centre
    assert points.distances(np.array([[4, 2], [1, 0], [1, 1]], np.float32)).tolist() == [0.0, 0.0, 2.0]
    second = Reference(points.mean, points.projection, points.centres, 2)
    assert second.distances(np.array([[1, 0]], np.float32)).tolist() == [5.0]


def test_partners_of_different_sizes_look_at_one_picture(scorer, tiny_bundle, stack):
    alone = tiny_bundle.networks["fracture"]
    small = replace(alone, name="second", sha256="small", input_size=SIZE // 2)
    networks = {**tiny_bundle.networks, "second": small}
    networks["fracture"] = replace(alone, partner="second", weights=(1.0, 1.0))
    bundle = replace(tiny_bundle, networks=networks)
    assert bundle.input_sizes == (SIZE // 2, SIZE)
    assert bundle.input_size("fracture") == SIZE
    networks["third"] = replace(small, name="third", partner="fracture")
    assert replace(bundle, networks=networks).input_size("third") == SIZE
    both, seen = Scorer(bundle, scorer._backend, scorer.backend_name, "float32"), []

    def forward(some):
        seen.append(some)
        maps = np.zeros((len(some), 4, 4, 1), np.float32)
        return {outputs.LOGIT: np.ones((len(some), 1), np.float32), outputs.ATTENTION: maps}

    both._forwards.update({**scorer._forwards, "small": forward})
    found = both.detect("fracture", stack)
    assert np.allclose(found.logits, scorer.detect("fracture", stack).logits + 1, atol=1e-5)
    assert np.array_equal(seen[0], shrunk(stack, SIZE // 2))
    assert seen[0].shape == (len(stack), SIZE // 2, SIZE // 2)


def test_answers_are_taken_by_the_thread_that_asks(tiny_bundle, tmp_path, monkeypatch, stack):
    """A thread of OpenVINO's that runs Python can keep a network from being freed, for ever."""
    threads, output = set(), scorer_module._output

    def seen(request, name):
        threads.add(threading.get_ident())
        return output(request, name)

    monkeypatch.setattr(scorer_module, "_output", seen)
    scorer = open_scorer(tiny_bundle, backend="openvino", cache=tmp_path)
    whole = scorer.detect("fracture", stack).logits
    assert threads == {threading.get_ident()}
    one_by_one = [scorer.detect("fracture", stack[n : n + 1]).logits[0] for n in range(len(stack))]
    assert np.array_equal(whole, np.array(one_by_one)), "in the order of the pictures"
