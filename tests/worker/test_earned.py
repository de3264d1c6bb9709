"""A body part that has not earned it is never called negative: on image, study, PDF and CSV."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from store.base.session import session_scope
from store.base.tables import Bundle, Image, Site
from store.bundles.bundles import add_bundle
from store.reading import validations
from store.results.results import COLUMNS, Selection, iter_lines
from tests.worker.test_reading import by_path, finding_of, pdf_text, png, read

#: What the untrained bundle says of any picture lies below its lower threshold.
BELOW = {"low": 1.0, "high": 1.0}


@pytest.fixture
def cautious(site_id: uuid.UUID, untrained_bundle: Path, tmp_path: Path) -> str:
    """Add a bundle that calls everything negative and has earned it nowhere."""
    folder = tmp_path / "cautious-1"
    shutil.copytree(untrained_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": folder.name}
    for model in manifest["models"].values():
        model |= {"thresholds": BELOW, "may_say_negative": False}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return add_bundle(folder)


def test_what_was_not_earned_is_in_doubt_and_says_why(site_id: uuid.UUID, cautious: str) -> None:
    batch = read(site_id, {"a.png": png(1)}, bundle=cautious)
    image: Image = by_path(batch)["a.png"]
    assert (image.triage, image.status) == ("doubt", "done")
    assert "negative_not_validated" in image.flags
    found = finding_of(image, cautious)
    assert (found.triage, batch.t_doubt, batch.t_negative) == ("doubt", 1, 0)
    assert "negative_not_validated" in found.reasons
    assert "does not say negative" in " ".join(pdf_text(found).split())
    (line,) = iter_lines(Selection(site_id, batch.id, trials=True))
    assert COLUMNS["triage"].value(line) == "doubt"
    assert "negative_not_validated" in COLUMNS["flags"].value(line)


def test_a_site_that_has_validated_a_part_hears_its_negative(site_id: uuid.UUID, cautious: str) -> None:
    before = by_path(read(site_id, {"a.png": png(1)}, bundle=cautious))["a.png"]
    assert before.region is not None
    other = uuid.uuid4()
    with session_scope() as session:
        session.add(Site(id=other, name="Other hospital"))
        validations.unlock(
            session,
            site_id,
            None,
            cautious,
            before.region,
            validations.PartFigures(positives=40, found=40, negatives=60, cleared=30),
            sha256=session.get_one(Bundle, cautious).sha256,
            dataset="our hips",
        )
    again = by_path(read(site_id, {"a.png": png(1)}, bundle=cautious))["a.png"]
    assert (again.finding_id, again.triage) == (before.finding_id, "negative"), "the finding is shared"
    assert "negative_not_validated" not in again.flags
    elsewhere = by_path(read(other, {"a.png": png(1)}, bundle=cautious))["a.png"]
    assert (elsewhere.region, elsewhere.triage) == (before.region, "doubt")
