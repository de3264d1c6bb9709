"""The bill of materials names what is installed; saved advisories find what is affected."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_bill_names_every_locked_package_and_image(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    assert run("sbom.py", "--out", out).returncode == 0
    bill: dict[str, Any] = json.loads(out.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in bill["components"]}
    lock = (ROOT / "requirements-cpu.lock").read_text()
    names = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    assert len(names) > 80
    assert names <= components.keys()
    flask = components["flask"]
    assert flask["purl"] == f"pkg:pypi/flask@{flask['version']}"
    assert all(digest["content"] in lock for digest in flask["hashes"])
    assert len(flask["hashes"]) >= 2
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {s["image"].partition(":")[0] for s in services.values()}
    images = {name for name in images if not name.startswith("fractureai")}
    assert images | {"python", "tus-js-client", "Inter", "libharfbuzz-subset0"} <= components.keys()


def advisory(id_: str, package: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    return {
        "id": id_,
        "summary": "a weakness",
        "modified": "2026-01-01T00:00:00Z",
        "affected": [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}],
        **more,
    }


EVERYTHING = {"introduced": "0"}


@pytest.mark.parametrize(
    ("record", "affected"),
    [
        (advisory("A-1", "Flask", EVERYTHING, {"fixed": "9999"}), True),
        (advisory("A-2", "argon2_cffi", EVERYTHING), True),
        (advisory("A-3", "flask", EVERYTHING, {"fixed": "1.0"}), False),
        (advisory("A-4", "flask", {"introduced": "9999"}), False),
        (advisory("A-5", "flask", EVERYTHING, {"last_affected": "0.5"}), False),
        (advisory("A-6", "flask", EVERYTHING, {"fixed": "1"}, {"introduced": "2"}, {"fixed": "9999"}), True),
        (advisory("A-7", "not-installed", EVERYTHING), False),
        (advisory("A-8", "flask", EVERYTHING, withdrawn="2026-01-02T00:00:00Z"), False),
    ],
    ids=lambda value: value["id"] if isinstance(value, dict) else "",
)
def test_saved_advisories_find_what_is_affected(
    tmp_path: Path, record: dict[str, Any], affected: bool
) -> None:
    saved = tmp_path / "all.zip"
    with zipfile.ZipFile(saved, "w") as archive:
        archive.writestr(f"{record['id']}.json", json.dumps(record))
    done = run("advisories.py", saved)
    assert done.returncode == int(affected), done.stdout + done.stderr
    assert (f"AFFECTED  {record['id']}" in done.stdout) == affected
    assert "days old" in done.stdout


def test_an_accepted_advisory_passes_until_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import advisories

    file = tmp_path / "accepted.toml"
    file.write_text('[[accepted]]\nid = "A-1"\nreason = "not used"\nuntil = 2026-06-30\n')
    assert advisories.accepted(file, date(2026, 6, 30)) == {"A-1"}
    assert advisories.accepted(file, date(2026, 7, 1)) == set()
    assert advisories.accepted(advisories.ACCEPTED, date(2026, 7, 1)) == set()


def test_images_are_pinned_by_the_digests_that_docker_states(tmp_path: Path) -> None:
    """Docker itself is not here: a command in its place states a digest of its own for each image."""
    tree = tmp_path / "tree"
    (tree / "scripts").mkdir(parents=True)
    names = ("docker-compose.yml", "Dockerfile")
    for name in (*names, "scripts/pin_images.py"):
        (tree / name).write_text((ROOT / name).read_text())
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\nfor image; do :; done\ncase "$image" in *@*) exit 1;; esac\n[ "$1" = pull ] && exit 0\n'
        'printf \'["%s@sha256:%s"]\' "${image%%:*}" "$(printf %s "$image" | sha256sum | cut -c1-64)"\n'
    )
    docker.chmod(0o755)
    done = subprocess.run(
        [sys.executable, tree / "scripts" / "pin_images.py"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pinned = 0
    for name in names:
        before, after = (ROOT / name).read_text().splitlines(), (tree / name).read_text().splitlines()
        for old, new in zip(before, after, strict=True):
            if old != new:
                tagged, _, digest = new.partition("@sha256:")
                image = re.split(r"[ =]", tagged)[-1]
                assert digest == hashlib.sha256(image.encode()).hexdigest()
                assert old.startswith(f"{tagged}@sha256:"), "it was pinned before"
                pinned += 1
    assert pinned == 4
