"""What a bundle has shown for a part, as figures and as sentences."""

import json

import pytest

from pipeline.evidence import part_evidence
from training.experiment import ROOT
from vocabulary.states import Triage


def manifest(**evidence):
    """Return a manifest of one ankle, in the family of the leg."""
    kept = {"fractures": 11, "found": 10, "lower": 0.6226, "family_lower": 0.92} | evidence
    figure = {"value": 0.9, "interval": [0.8, 0.95]}
    row = {
        "images": 105,
        "fractured": 11,
        "auc": figure,
        "sensitivity_at_low": {"value": 10 / 11, "interval": [0.7, 1.0]},
        "specificity_at_low": {"value": 0.5, "interval": None},
        "sensitivity_at_high": {"value": 8 / 11, "interval": None},
        "specificity_at_high": {"value": 90 / 94, "interval": None},
    }
    return {
        "families": {"ankle": "leg"},
        "models": {"ankle": {"may_say_negative": True, "evidence": kept}},
        "figures": {
            "test": {"overall": {"images": 3}, "ankle": {"images": 3}},
            "all folds": {"overall": {"images": 999}, "ankle": row},
            "parts": {"part_right": 0.9},
        },
    }


def test_a_part_on_its_familys_evidence():
    found = part_evidence(manifest(), "ankle")
    assert (found.family, found.films, found.auc.interval) == ("leg", 105, (0.8, 0.95))
    # 47 normal and 1 fractured below low; 90 normal and 3 fractured not positive
    assert found.in_doubt == pytest.approx((93 - 48) / 105)
    assert found.sentence("fractured") == (
        "For the ankle: found 10 of 11 fractures (95% interval 62 to 98%) in held-out films; "
        "43% of its 105 films were in doubt."
    )
    assert found.about_negative() == (
        "It says negative on the evidence of its family (leg): sensitivity at least 0.92."
    )


def test_a_part_that_may_not_is_in_doubt_below_the_threshold_too():
    said = manifest(family_lower=0.8996)
    said["models"]["ankle"]["may_say_negative"] = False
    found = part_evidence(said, "ankle")
    assert found.in_doubt == pytest.approx(93 / 105)
    assert found.about_negative() == (
        "It never says negative: fewer than 30, and over its family (leg) sensitivity may be as low as 0.89, "
        "where 0.90 is asked."
    )
    assert "this site has validated it" in found.about_negative(Triage.NEGATIVE)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"family_lower": None}, "30 are asked of a part that no others can speak for"),
        ({"fractures": 40, "found": 30}, "sensitivity may be as low as 0.59, and 0.80 is asked"),
        ({}, "more were missed than the rate of its family (leg) explains"),
    ],
)
def test_why_a_part_never_says_negative(evidence, words):
    said = manifest(**evidence)
    said["models"]["ankle"]["may_say_negative"] = False
    assert words in part_evidence(said, "ankle").about_negative()


def test_what_a_bundle_does_not_say_is_not_made_up():
    bare = {"models": {"hand": {"may_say_negative": False}}}
    found = part_evidence(bare, "hand")
    assert (found.films, found.in_doubt, found.family) == (None, None, "arm")
    assert found.sentence("abnormal") == ("For the hand: no held-out abnormality shows how many are found.")
    assert part_evidence(bare, "foot") is None
    assert part_evidence({"models": {"hand": {}}}, "hand").may_say_negative is False


@pytest.mark.parametrize("name", ["fracatlas-1", "fracatlas-3", "fracatlas-4"])
def test_shipped_bundles_of_both_formats_say_it_for_every_region(name):
    said = json.loads((ROOT / "models" / "bundles" / name / "manifest.json").read_text())
    for region in said["models"]:
        found = part_evidence(said, region)
        assert found.fractures > 0
        assert found.films >= found.fractures
        assert 0 <= found.in_doubt <= 1
        assert found.auc.interval[0] <= found.auc.value <= found.auc.interval[1]
        assert found.may_say_negative or "never says negative" in found.about_negative()
