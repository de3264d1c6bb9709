"""A site's labelled images, counted by the body part that the bundle saw in them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.bundle import Bundle
from models.fitted_on import DIGITS, FittedOn, fitted_on
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.types import Platt, RegionModel, Route, Thresholds
from training import validate as validate_module
from training.datasets import Example
from training.readings import Reading
from training.validate import count_parts, validate
from vocabulary.reasons import Reason

MODEL = RegionModel("hand", "hand", Platt(1, 0, 0.2), Thresholds(0.2, 0.6), False, may_say_negative=True)
BUNDLE = cast(
    Bundle,
    SimpleNamespace(models={"hand": MODEL, "hip": replace(MODEL, region="hip", may_say_negative=False)}),
)


def reading(
    region: str, positive: bool, probability: float | None, unread: Reason | None = None, *flags: Reason
) -> Reading:
    example: Any = SimpleNamespace(positive=positive, path=Path("a.png"))
    return Reading(cast(Example, example), Route(region, 0.9, unread, flags), 0.0, probability, None)


def test_images_count_for_the_part_that_was_seen_and_unread_ones_for_none():
    found = {
        part.region: part
        for part in count_parts(
            BUNDLE,
            [
                reading("hip", True, 0.2),  # at the lower threshold: not negative
                reading("hip", True, 0.19),
                reading("hip", False, 0.1),
                reading("hip", False, 0.7),
                reading("hand", True, 0.01, Reason.REGION_UNSURE),
            ],
        )
    }
    hip, hand = found["hip"], found["hand"]
    assert (hip.positives, hip.found, hip.negatives, hip.cleared) == (2, 1, 2, 1)
    assert (hip.may_say_negative, hip.earned) == (False, False)
    assert hip.sensitivity is not None
    assert hip.sensitivity[0] < 0.5 < hip.sensitivity[1]
    assert (hand.positives, hand.sensitivity, hand.specificity) == (0, None, None)


def test_thirty_found_of_thirty_have_earned_it_and_twenty_nine_of_twenty_nine_have_not():
    for count, earned in ((30, True), (29, False)):
        part = {p.region: p for p in count_parts(BUNDLE, [reading("hip", True, 0.9)] * count)}["hip"]
        assert part.earned is earned


def test_what_a_flag_keeps_from_being_negative_is_not_cleared_and_a_fracture_there_is_missed():
    flagged = [reading("hip", positive, 0.1, None, Reason.SEVERAL_REGIONS) for positive in (True, False)]
    hip = {p.region: p for p in count_parts(BUNDLE, flagged)}["hip"]
    assert (hip.positives, hip.found, hip.negatives, hip.cleared) == (1, 0, 1, 0)


#: `tiny_bundle` was fitted on the phantoms of seeds 0 to 23.
FITTED, NEW = range(3), range(500, 504)


def test_what_looks_like_an_image_that_it_was_fitted_on_is_in_no_figure(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels of the training data, saved as JPEG here: by the hash of the file nobody would know them."""
    lines = ["path,label,region"]
    for seed in (*FITTED, *NEW):
        phantom = make_phantom(seed, "hand", fracture=seed % 2 == 0)
        (tmp_path / f"{seed}.jpg").write_bytes(encode_phantom(phantom, "jpeg"))
        lines.append(f"{seed}.jpg,{'fractured' if seed % 2 == 0 else 'normal'},hand")
    table = tmp_path / "ours.csv"
    table.write_text("\n".join(lines) + "\n")
    own = hashlib.sha256((tmp_path / f"{NEW[0]}.jpg").read_bytes()).hexdigest()[:DIGITS]
    known = fitted_on(tiny_bundle)
    monkeypatch.setattr(validate_module, "fitted_on", lambda _: FittedOn(known.digests | {own}, known.looks))

    found = validate(tiny_bundle.folder, table, cache=tmp_path / "cache", backend="tensorflow")

    assert (found.alike, found.images) == (len(FITTED), len(NEW))
    assert found.seen == 1  # counted, so that the command refuses to unlock by it
    counted = sum(part.positives + part.negatives for part in found.parts.values())
    assert counted == len(NEW) - found.not_assessed
