"""One network of a bundle tells the part and reads the fracture head by head, on both backends alike."""

from dataclasses import replace

import numpy as np
import pytest

from models import outputs
from models.convert import self_test_images
from models.scorer import Reference, Scorer, ScorerError, _check, open_scorer
from pipeline.boxes import drawn_places, suspected_places
from pipeline.types import PlaceRules, Platt, RegionModel, RoutingRules, SensitivityEvidence, Thresholds
from training.export import BundleContent, TrainedNetwork, taken_over, write_bundle

SIZE = 64
PARTS = ("wrist", "knee", "hip")
HEADS = ("reading-all", "reading-arm")
FAMILIES = {"wrist": "arm", "knee": "leg", "hip": "hip"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    import keras

    from models import architectures

    keras.utils.set_random_seed(4)
    network = architectures.reading_network("custom_cnn", SIZE, len(PARTS), len(HEADS), width=8)
    network = architectures.with_boxes(network, "custom_cnn", width=8)
    rng = np.random.default_rng(4)
    for name in ("whole", "boxes"):
        layer = network.get_layer(name)
        layer.set_weights([rng.normal(0, 2, w.shape).astype(np.float32) for w in layer.get_weights()])
    evidence = SensitivityEvidence(40, 39, 0.87, 0.93)
    readers = dict(zip(PARTS, (HEADS[1], HEADS[0], HEADS[0]), strict=True))
    models = {
        part: RegionModel(
            part, head, Platt(1.0, 0.0, 0.2), Thresholds(0.3, 0.6), False, part != "hip",
            evidence if part == "wrist" else None,
        )
        for part, head in readers.items()
    }  # fmt: skip
    content = BundleContent(
        name="reading-1",
        label_meaning="fractured",
        regions=(*PARTS, "other"),
        region_network="reading",
        networks={"reading": TrainedNetwork(network, "custom_cnn", SIZE, heads=HEADS)},
        models=models,
        routing=RoutingRules(0.5, None, 0.35, across_families=True, max_foreign=0.3),
        reference=Reference.blank(256),
        limits=(),
        trained_on="nothing",
        card="# Untrained\n",
        fitted_on=(),
        looks={},
        families=FAMILIES,
        views=PARTS,
        places=PlaceRules(0.2, 0.6),
    )
    return write_bundle(content, tmp_path_factory.mktemp("bundles") / "reading-1")


@pytest.fixture(scope="module")
def stack():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def scorers(bundle, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [open_scorer(bundle, backend=b, cache=cache) for b in ("tensorflow", "openvino")]


def test_the_manifest_says_how_each_part_is_read(bundle):
    assert bundle.families == FAMILIES
    assert bundle.views == PARTS
    assert bundle.places == PlaceRules(0.2, 0.6)
    assert bundle.routing == RoutingRules(0.5, None, 0.35, across_families=True, max_foreign=0.3)
    assert bundle.models["wrist"].evidence == SensitivityEvidence(40, 39, 0.87, 0.93)
    assert [bundle.models[p].may_say_negative for p in PARTS] == [True, True, False]
    assert [bundle.networks[h].head for h in HEADS] == [0, 1]
    assert len(list(bundle.folder.glob("*.keras"))) == 1, "the heads share a file"


def test_a_bundle_with_other_thresholds_has_the_same_files_of_weights(bundle, tmp_path):
    content = taken_over(bundle, "reading-2")
    models = {p: replace(m, thresholds=Thresholds(0.1, 0.9)) for p, m in bundle.models.items()}
    other = write_bundle(replace(content, models=models), tmp_path / "reading-2")
    assert other.name == "reading-2"
    (ours,), (theirs,) = (list(b.folder.glob("*.keras")) for b in (bundle, other))
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.name == theirs.name
    assert other.networks == {name: replace(n, path=theirs) for name, n in bundle.networks.items()}, (
        "heads share the file"
    )
    assert other.models["knee"] == replace(bundle.models["knee"], thresholds=Thresholds(0.1, 0.9))
    kept = ("families", "views", "places", "routing", "regions", "label_meaning")
    assert [getattr(other, k) for k in kept] == [getattr(bundle, k) for k in kept]


def test_both_backends_say_the_same(scorers, stack):
    ours, theirs = (s.classify(stack) for s in scorers)
    assert np.allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
    assert ours.probabilities.shape == (5, 4)
    assert np.allclose(ours.views, theirs.views, atol=1e-4)
    assert ours.views.shape == (5, 3)
    for head in HEADS:
        ours, theirs = (s.detect(head, stack) for s in scorers)
        assert np.allclose(1 / (1 + np.exp(-ours.logits)), 1 / (1 + np.exp(-theirs.logits)), atol=1e-4)
        assert np.allclose(ours.cams, theirs.cams, atol=2e-3)
        assert np.allclose(ours.evidence, theirs.evidence, atol=2e-3)
        assert ours.evidence.shape == (5, SIZE // 8, SIZE // 8)
        assert np.allclose(ours.boxes, theirs.boxes, atol=2e-3)
        assert ours.boxes.shape == (5, SIZE // 8, SIZE // 8, 5)
        assert ours.evidence.min() >= 0
        assert ours.evidence.max() <= 1


def test_heads_differ_and_evidence_is_shared(scorers, stack):
    first, second = (scorers[0].detect(head, stack) for head in HEADS)
    assert not np.allclose(first.logits, second.logits)
    assert not np.allclose(first.cams, second.cams)
    assert np.array_equal(first.evidence, second.evidence)


def test_places_are_the_networks_own_boxes_as_the_rules_say(scorers, bundle, stack):
    said = scorers[1].detect(HEADS[0], stack)
    rules = PlaceRules(0.0, 0.5, film=1.0, evidence=0.5)
    drawn = drawn_places(said.boxes[0], said.evidence[0], float(said.logits[0]), 90, 64, rules)
    assert said.places(0, 90, 64, rules) == drawn
    assert said.places(0, 90, 64, None) is None, "the bundle shows none"
    older = replace(said, boxes=np.zeros((5, 0, 0, 5), np.float32))
    assert older.places(0, 90, 64, rules) == suspected_places(older.evidence[0], 90, 64, rules)


def test_a_backend_that_draws_other_boxes_does_not_serve(bundle, scorers):
    images = self_test_images(SIZE)
    said = scorers[1]._forwards[next(iter(scorers[1]._forwards))](images)
    right = {name: np.array(rows) for name, rows in said.items() if name in outputs.CHECKED}
    assert outputs.BOXES in right
    _check(HEADS[0], said, right, "here", 1e-4)
    right[outputs.BOXES][..., 0] += 1
    with pytest.raises(ScorerError, match="disagrees"):
        _check(HEADS[0], said, right, "here", 1e-4)


def test_the_trunk_is_converted_once(scorers, stack):
    scorers[1].warm_up()
    cache = next(iter({s._backend.cache for s in scorers[1:]}))
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


def test_no_picture_gives_no_rows(scorers):
    empty = np.zeros((0, SIZE, SIZE), np.uint8)
    assert scorers[1].classify(empty).views.shape == (0, 3)
    assert scorers[1].detect(HEADS[0], empty).evidence.shape == (0, 8, 8)


def passes(scorer):
    """Count the pictures that go through the network from now on."""
    (file,) = {network.sha256 for network in scorer.bundle.networks.values()}
    seen, forward = [], scorer._forwards[file]
    scorer._forwards[file] = lambda some: seen.extend(some) or forward(some)
    return seen


def afresh(kept, bundle):
    """The same compiled network in a scorer that has seen nothing."""
    scorer = Scorer(bundle, kept._backend, kept.backend_name, "float32")
    scorer._forwards.update(kept._forwards)
    return scorer


def test_one_pass_tells_the_part_and_what_every_head_says(scorers, bundle, stack):
    for kept in scorers:
        kept.classify(stack[:1])  # compiled
        scorer, other = afresh(kept, bundle), afresh(kept, bundle)
        seen = passes(scorer)
        scorer.classify(stack)
        for head in HEADS:
            said, alone = scorer.detect(head, stack), other.detect(head, stack)
            for name in ("logits", "cams", "spread", "evidence"):
                np.testing.assert_array_equal(getattr(said, name), getattr(alone, name))
        assert len(seen) == len(stack)


def test_a_head_that_reads_pictures_mirrored_too_asks_for_those_alone(scorers, bundle, stack):
    mirrored = {**bundle.networks, HEADS[0]: replace(bundle.networks[HEADS[0]], mirrored=True)}
    scorers[1].classify(stack[:1])
    scorer = afresh(scorers[1], replace(bundle, networks=mirrored))
    seen = passes(scorer)
    scorer.classify(stack)
    scorer.detect(HEADS[1], stack)
    assert len(seen) == len(stack)
    scorer.detect(HEADS[0], stack)
    assert len(seen) == 2 * len(stack)
