"""Thresholds of a reading bundle: a family's, and by part where its normal films look likelier broken."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.triage import calibrate
from pipeline.types import Platt, RegionModel, Thresholds
from training import doubts, reading_bundle
from training.datasets.parts import PARTS
from training.reading_bundle import Read


def read(part, logit, positive, group):
    example = SimpleNamespace(positive=positive, group=group)
    film = SimpleNamespace(source="film", example=example)
    return Read(film, (10, 10), {p: float(p == part) for p in PARTS}, None, logit, None)


@pytest.fixture
def films():
    """Feet look two more likely broken than knees, with a fracture and without."""
    rng = np.random.default_rng(0)
    found = []
    for part, shift in (("knee", 0.0), ("foot", 2.0), ("hand", 0.0), ("hip", 0.0)):
        for number in range(120):
            positive = number % 3 == 0
            logit = float(rng.normal(shift + 3.0 * positive, 0.5))
            found.append(read(part, logit, positive, f"{part}{number}"))
    return found


@pytest.fixture
def models():
    blank = Platt(1.0, 0.0, 0.5), Thresholds(0.0, 1.0)
    return {part: RegionModel(part, "network", *blank, True) for part in PARTS}


def low_of(fitted, part):
    platt, low = fitted[part].calibration, fitted[part].thresholds.low
    return (np.log(low / (1 - low)) - platt.intercept) / platt.slope


def test_a_family_has_one_pair_of_thresholds(films, models):
    fitted = reading_bundle._fit(films, models)
    assert fitted["knee"].thresholds == fitted["foot"].thresholds
    logits = [r.logit for r in films if r.film.example.positive and reading_bundle._best(r.probabilities) in
              ("knee", "foot")]  # fmt: skip
    platt = fitted["knee"].calibration
    assert fitted["knee"].thresholds.low in {calibrate(logit, platt) for logit in logits}


def test_centred_thresholds_follow_what_is_normal_in_a_part(films, models):
    fitted = reading_bundle._fit(films, models, 1.0)
    apart = low_of(fitted, "foot") - low_of(fitted, "knee")
    assert apart == pytest.approx(2.0 * 80 / (80 + reading_bundle._SHRINK), abs=0.15)
    assert fitted["knee"].calibration == fitted["foot"].calibration
    assert fitted["hip"].thresholds == fitted["shoulder"].thresholds, "neither has a family to differ from"


def test_centred_thresholds_leave_fewer_films_between_them_and_find_as_many(films, models):
    def figures(centre):
        rows = reading_bundle.cross_fitted(films, models, centre)
        found = np.mean([p >= cuts.low for r, _, p, cuts in rows if r.film.example.positive])
        return found, np.mean([cuts.low <= p < cuts.high for _, _, p, cuts in rows])

    (found, between), (found_centred, between_centred) = figures(0.0), figures(1.0)
    assert between_centred < between - 0.03
    assert found_centred >= found - 0.02


def test_a_share_that_is_chosen_within_each_tenth_leaves_fewer_in_doubt(films, models):
    without, (within, shares) = (
        reading_bundle.cross_fitted(films, models),
        doubts.chosen_within(films, models),
    )
    assert len(shares) == 10
    assert min(shares) > 0
    assert sorted(row[0].film.example.group for row in within) == sorted(r.film.example.group for r in films)
    fewer, low, high = doubts.gain(without, within, models)
    assert low <= fewer <= high
    assert fewer > 0.03
    cells = doubts.line("chosen", within, models).split(" | ")
    assert cells[0] == "| chosen"
    assert cells[3].endswith(f" of {sum(r.film.example.positive for r in films)}")


def test_a_share_that_silences_a_part_is_not_chosen(films, models, monkeypatch):
    silent = {part: part != "foot" for part in PARTS}

    def evidence(models, rows):
        allowed = dict.fromkeys(PARTS, True) if rows == "0.25" else silent
        return {p: SimpleNamespace(may_say_negative=allowed[p]) for p in PARTS}

    monkeypatch.setattr(doubts, "with_evidence", evidence)
    monkeypatch.setattr(doubts, "cross_fitted", lambda reads, models, centre: f"{centre:g}")
    monkeypatch.setattr(doubts, "_doubts", lambda rows, models: [rows == "0.25"])
    assert doubts.best_centre(films, models) == 0.25
