"""Leaving a kind of picture out: the head is not taught with it, and all of its pictures are asked about."""

from types import SimpleNamespace

import numpy as np
import pytest

from training import left_out
from training.calibrate import refused_from
from training.left_out import LeftOut, Seen, cache_key, kind_of, leave_out, table
from training.reading_data import OTHER, Films


def film(source, named="", sha256="", part=0):
    main = np.eye(OTHER + 1, dtype=np.float32)[part]
    return SimpleNamespace(
        source=source, main=main, example=SimpleNamespace(name="a", sha256=sha256, traits={"class": named})
    )


def test_chest_and_spine_are_kinds_of_their_own_and_all_else_is_no_radiograph():
    assert [kind_of(film("negative", n)) for n in ("chest", "spine", "ct", "photo")] == [
        "chest",
        "spine",
        "no radiograph",
        "no radiograph",
    ]
    assert kind_of(film("film")) == ""


@pytest.fixture
def parts():
    """Hands and feet lie along two axes; chests far along a third, spines halfway to them."""
    rng = np.random.default_rng(1)
    centres = {"hand": (4, 0, 0, 0), "foot": (0, 4, 0, 0), "chest": (0, 0, 6, 0), "spine": (0, 0, 3, 0)}

    def some(count):
        names = [name for name in centres for _ in range(count)]
        features = np.array([centres[name] for name in names]) + rng.normal(0, 0.3, (len(names), 4))
        main = np.zeros((len(names), OTHER + 1), np.float32)
        for row, name in enumerate(names):
            main[row, {"hand": 0, "foot": 11}.get(name, OTHER)] = 1
        kinds = np.array([name if name in left_out.KINDS else "" for name in names])
        return Seen(features.astype(np.float32), main, kinds)

    return {name: some(20) for name in ("train", "val", "test", "rest")}


def test_a_kind_is_asked_about_that_the_head_has_not_seen(parts, monkeypatch):
    taught = []

    def fit(features, main, penalty):
        taught.append(len(features))
        return fit_head(features, main, penalty)

    fit_head = left_out.fit_head
    monkeypatch.setattr(left_out, "fit_head", fit)
    found = leave_out("chest", parts)
    assert taught == [60], "the twenty chests of training were not among them"
    assert found.refused == (60, 60), "of validation, test and the rest of training"
    assert found.others == (20, 20)
    assert found.limbs == (0, 40)


def test_the_table_has_an_interval_for_each_share():
    row = table([LeftOut("spine", (9, 10), (20, 20), (0, 40))]).splitlines()[-1]
    assert row.startswith("| spine | 0.900 (0.596-0.982) of 10 | 1.000 (0.839-1.000) of 20 | 0.000 (0.000-")


def test_a_picture_is_refused_from_ten_times_what_limbs_reach_on_and_within_bounds():
    assert refused_from([0.02] * 100) == pytest.approx(0.2)
    assert refused_from([0.0001] * 100) == 0.05
    assert refused_from([0.3] * 100) == 0.5
    assert refused_from([0.001] * 999 + [0.9]) == 0.05, "one limb of a thousand does not count"


def test_kept_features_are_those_of_the_same_bundle_and_the_same_pictures():
    def key(bundle="b", **changed):
        return cache_key(bundle, {"val": Films([film("film", **changed)], [])})

    assert key() == key()
    others = [key("c"), key(sha256="ff"), key(part=3), cache_key("b", {"test": Films([film("film")], [])})]
    assert len({key(), *others}) == 5
