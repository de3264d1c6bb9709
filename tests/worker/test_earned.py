"""A body part that has not earned it is never called negative: on image, study, PDF and CSV."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from store.bundles import add_bundle
from store.results import COLUMNS, Selection, iter_lines
from store.tables import Image
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
