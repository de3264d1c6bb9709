"""A body part that has not earned it is never called negative: on image, study, PDF and CSV."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from models.bundle import load_bundle
from models.scorer import open_scorer
from store.accounts import accounts
from store.base.session import session_scope
from store.base.tables import Audit, Bundle, Image, Site, User
from store.bundles.bundles import add_bundle
from store.reading import validations
from store.results.results import COLUMNS, Selection, iter_lines
from tests.conftest import ROOT
from tests.web.asking import Browser
from tests.web.serving import Server
from tests.worker.test_reading import by_path, finding_of, pdf_text, png, read
from training.datasets import load_pixels
from training.datasets.table import read_table
from training.readings import read_all
from web.factory import create_app

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


@dataclass(frozen=True)
class Validated:
    """A bundle that has earned nothing, the pictures that a site validates it with, and a client there.

    Attributes
    ----------
    part
        What the bundle takes all of these pictures for.
    negatives
        Pictures of that part that lie below its lower threshold.
    """

    bundle: Path
    part: str
    enough: Path
    too_few: Path
    negatives: dict[str, bytes]
    networks: Path

    def command(self, images: Path) -> subprocess.CompletedProcess[str]:
        """Run what an administrator would."""
        words = [sys.executable, "-m", "cli.main", "validate", str(self.bundle), str(images)]
        words += ["--unlock", self.part, "--cache", str(self.networks)]
        return subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)


def _let_it_tell(folder: Path) -> None:
    """Give a bundle a fracture network that says something else of every picture."""
    import keras

    from models import architectures

    keras.utils.set_random_seed(3)
    network = architectures.fracture_network("custom_cnn", 96, width=8)
    last = network.get_layer("whole")
    kernel, bias = last.get_weights()
    last.set_weights([np.random.default_rng(3).normal(0, 5, kernel.shape), bias])
    network.save(folder / "pooled.keras")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": folder.name}
    manifest["networks"]["pooled"] |= {
        "sha256": hashlib.sha256((folder / "pooled.keras").read_bytes()).hexdigest(),
        "architecture": "custom_cnn",
        "map_size": int(network.get_layer(architectures.ACTIVATION).output.shape[1]),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def validated(site_id: uuid.UUID, untrained_bundle: Path, cache_folder: Path, tmp_path: Path) -> Validated:
    """Label pictures by what the bundle itself says of them: it finds all that is called fractured here."""
    bundle = tmp_path / "cautious-2"
    shutil.copytree(untrained_bundle, bundle)
    _let_it_tell(bundle)
    folder = tmp_path / "site"
    folder.mkdir()
    rows = []
    for n in range(70):
        (folder / f"{n}.png").write_bytes(png(n, ("hand", "leg", "hip", "shoulder")[n % 4]))
        rows.append({"path": f"{n}.png", "label": "fractured" if n else "normal"})
    every = _table(folder / "every.csv", rows)
    examples = read_table(every).examples
    scorer = open_scorer(load_bundle(bundle), cache=cache_folder / "networks")
    readings = read_all(scorer, examples, load_pixels(examples, tmp_path / "pixels"))
    part = Counter(r.route.region for r in readings if r.route.not_assessable is None).most_common(1)[0][0]
    of = [r for r in readings if r.route.region == part and r.probability is not None]
    of.sort(key=lambda reading: reading.probability or 0.0)
    assert len(of) >= 60, "the untrained bundle takes too few pictures for one part"
    assert len({reading.probability for reading in of}) == len(of), "it must tell the pictures apart"
    normal, fractured = of[:25], of[-32:]
    labels = [{"path": r.example.name, "label": "normal"} for r in normal]
    labels += [{"path": r.example.name, "label": "fractured"} for r in fractured]
    low = ((normal[-1].probability or 0.0) + (fractured[0].probability or 0.0)) / 2

    manifest = json.loads((bundle / "manifest.json").read_text())
    for model in manifest["models"].values():
        model |= {"thresholds": {"low": low, "high": 1.0}, "may_say_negative": False}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    add_bundle(bundle)
    negatives = {r.example.name: r.example.path.read_bytes() for r in normal[:2]}
    return Validated(
        bundle,
        part,
        _table(folder / "enough.csv", labels),
        _table(folder / "too few.csv", labels[:-3]),
        negatives,
        cache_folder,
    )


def _table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def browser(site_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    """An administrator's browser; the command finds the same server, and a key, in the environment."""
    with session_scope() as session:
        admin = session.scalars(select(User).where(User.site_id == site_id)).one()
        key = accounts.create_api_key(session, admin, "tests")[1]
        token = accounts.create_sign_in_token(session, admin)
    server = Server()
    monkeypatch.setenv("FRACTUREAI_URL", server.url)
    monkeypatch.setenv("FRACTUREAI_API_KEY", key)
    seen = Browser(create_app().test_client())
    assert seen.sign_in(token=token).status_code == 303
    yield seen
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_site_validates_a_part_with_the_command_and_takes_that_back_on_the_page(
    site_id: uuid.UUID, validated: Validated, browser: Browser
) -> None:
    name, part = validated.bundle.name, validated.part

    def triages(site: uuid.UUID) -> set[str | None]:
        batch = read(site, validated.negatives, bundle=name)
        return {image.triage for image in by_path(batch).values()}

    assert triages(site_id) == {"doubt"}

    few = validated.command(validated.too_few)
    assert few.returncode == 4, few.stderr
    assert "29 of 29 positives" in few.stderr
    assert "at least 30 positive images" in few.stderr
    assert triages(site_id) == {"doubt"}

    enough = validated.command(validated.enough)
    assert enough.returncode == 0, enough.stderr
    assert "1.000 (0.893 to 1.000)" in enough.stdout  # sensitivity, 32 of 32
    assert "1.000 (0.867 to 1.000)" in enough.stdout  # specificity, 25 of 25
    assert f"{part}: may say negative at this site from now on." in enough.stdout
    assert "32 of 32 found (enough.csv" in browser.client.get(f"/bundles/{name}").text

    assert triages(site_id) == {"negative"}
    other = uuid.uuid4()
    with session_scope() as session:
        session.add(Site(id=other, name="Other hospital"))
    assert triages(other) == {"doubt"}

    assert browser.post(f"/bundles/{name}/negatives/{part}/lock").status_code == 303
    assert "32 of 32 found" not in browser.client.get(f"/bundles/{name}").text
    assert triages(site_id) == {"doubt"}
    with session_scope() as session:
        lines = session.scalars(select(Audit).where(Audit.action.like("negative_%")).order_by(Audit.id)).all()
        kept = [(line.action, line.object_id, line.detail["region"]) for line in lines]
        assert all(line.site_id == site_id and line.user_id is not None for line in lines)
    assert kept == [("negative_unlocked", name, part), ("negative_locked", name, part)]
