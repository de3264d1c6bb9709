"""Folds of all films: whole groups, every film held out once, and a kind of picture that is never shown."""

from pathlib import Path

import numpy as np
import pytest

from training.datasets import Example
from training.datasets.parts import PARTS, PartsInView
from training.folds import Fold as Measured
from training.folds import figures
from training.left_out import LeftOut
from training.reading_data import Fold, divided
from training.reading_plan import ReadingPlan, Stage


def example(name, group, positive=False, kind=""):
    regions = ("other",) if kind else ("leg",)
    return Example(name, Path(name), regions, positive, group, name, (), {"class": kind} if kind else {})


def main_of(part):
    main = np.zeros(len(PARTS), np.float32)
    main[PARTS.index(part)] = 1
    return PartsInView(main, main, part)


@pytest.fixture
def films():
    """Two films a group; every fourth group of knees and every second of ankles is fractured."""
    found, seen = [], {}
    for part, often in (("knee", 4), ("ankle", 2)):
        for group in range(72):
            for number in range(2):
                name = f"{part}{group}-{number}"
                found.append(example(name, f"{part}{group}", group % often == 0))
                seen[name] = main_of(part)
    return {"train": found[::2], "test": found[1::2]}, seen


@pytest.fixture
def negatives():
    kinds = ("chest", "spine", "ct", "photo")
    return {
        "train": [example(f"{kind}{n}", f"{kind}{n // 2}", kind=kind) for kind in kinds for n in range(40)]
    }


def folds_of(films, negatives, without=""):
    parts, seen = films
    return [divided(parts, negatives, seen, Fold(number, 3, without)) for number in (1, 2, 3)]


def test_every_film_is_held_out_once_and_no_group_stands_on_two_sides(films, negatives):
    everything = [e.name for part in films[0].values() for e in part]
    held_out = []
    for kept, foreign in folds_of(films, negatives):
        for parts in (kept, foreign):
            groups = [{e.group for e in parts[side]} for side in ("train", "val", "test")]
            assert not groups[0] & groups[1]
            assert not groups[2] & (groups[0] | groups[1])
        held_out += [e.name for e in kept["test"]]
        assert sorted(e.name for part in kept.values() for e in part) == sorted(everything)
    assert sorted(held_out) == sorted(everything)


def test_folds_have_like_shares_of_each_parts_fractured_films(films, negatives):
    for kept, _ in folds_of(films, negatives):
        for part, fractured in (("knee", 12), ("ankle", 24)):
            mine = [e for e in kept["test"] if e.name.startswith(part)]
            assert (len(mine), sum(e.positive for e in mine)) == (48, fractured)
        assert any(e.positive for e in kept["val"])


@pytest.mark.parametrize(("without", "prefixes"), [("chest", ("chest",)), ("no radiograph", ("ct", "photo"))])
def test_a_kind_that_is_left_out_is_held_out_whole_and_the_others_by_fold(
    films, negatives, without, prefixes
):
    for _, foreign in folds_of(films, negatives, without):
        shown = [e.name for side in ("train", "val") for e in foreign[side]]
        assert shown
        assert not [name for name in shown if name.startswith(prefixes)]
        held_out = [e.name for e in foreign["test"]]
        assert len([name for name in held_out if name.startswith(prefixes)]) == 40 * len(prefixes)
        assert len(held_out) + len(shown) == 160


def test_a_plan_of_a_fold_has_its_own_checkpoints_and_its_kind():
    plan = ReadingPlan("f", "a", "b1", Path("s"), (Stage(2, 32, 1.0, 0.1),), 1, folds=("chest", "spine"))
    assert plan.fold is None
    second = plan.of_fold(2)
    assert (second.name, second.fold) == ("f-2", Fold(2, 2, "spine"))


def test_the_table_has_the_mean_of_folds_and_their_standard_deviation():
    def fold(number, auc):
        value = {"value": auc, "interval": (auc - 0.1, auc + 0.1)}
        names = ("auc", "auc_within", "ece", "sensitivity_at_low", "specificity_at_low")
        found = {"images": 10, "fractured": 3, **dict.fromkeys(names, value)}
        parts = dict.fromkeys(("part_right", "family_right", "limbs_refused"), 0.5)
        return Measured(number, [], found, parts, LeftOut("chest", (1, 2), (1, 2), (0, 2)))

    *_, second, last = figures([fold(1, 0.8), fold(2, 0.9)]).splitlines()
    assert second.startswith("| 2 | 10 | 3 | 0.900 (0.800-1.000) |")
    assert last.startswith("| mean ± SD | | | 0.850 ± 0.071 |")
    assert last.endswith("| 0.500 ± 0.000 |")
    assert "SD" not in figures([fold(1, 0.8)]), "one fold has no spread"
