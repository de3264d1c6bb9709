"""What `pip install` brings: the base wheel is a small client, with the extra `server` a service runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import VERSION
from tests.conftest import ROOT
from tests.e2e.conftest import bare_environment
from tests.web.serving import Reader, Serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(sysconfig.get_path("purelib"))
CLIENT_MB = 30
#: What Windows has not (cli.locks alone uses fcntl, elsewhere), and what the client must not need.
ABSENT = ("pwd", "grp", "resource", "termios", "psutil", "watchdog", "numpy", "sqlalchemy", "flask")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "scripts" / "wheels.py", "--out", out], check=True)
    return out


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that holds nothing of the checkout, and that an unprivileged Postgres can reach."""
    with tempfile.TemporaryDirectory(prefix="fractureai-wheel-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def install(folder: Path, *wheels: Path) -> tuple[Path, Path]:
    """Make an empty environment with these wheels alone; return its programs and its packages."""
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, *wheels], check=True)
    return folder / "bin", packages


def metadata(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in about.get_all("Requires-Dist") or []]


def needed(requirements: list[Requirement]) -> set[str]:
    """Return the distributions that a bare installation brings, and those that these need."""
    found: set[str] = set()
    for each in requirements:
        name = each.name.lower()
        if (each.marker is None or each.marker.evaluate({"extra": ""})) and name not in found:
            found.add(name)
            found |= needed([Requirement(line) for line in distribution(name).requires or []])
    return found


def outside_environment() -> dict[str, str]:
    kept = {k: v for k, v in bare_environment().items() if not k.startswith("PYTHON")}
    return {**kept, "PYTHONSAFEPATH": "1"}


def test_both_wheels_hold_every_file_that_is_read(wheels: Path) -> None:
    held: set[str] = set()
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            held |= set(archive.namelist())
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True)
    tops = (
        "cli",
        "migrations",
        "models",
        "phantoms",
        "pipeline",
        "store",
        "vocabulary",
        "web",
        "worker",
        "settings.py",
    )
    wanted = {name for name in tracked.stdout.splitlines() if name.split("/")[0] in tops}
    assert len(wanted) > 300
    assert wanted - held == set()
    assert (wheels / f"fractureai-{VERSION}-py3-none-any.whl").stat().st_size < 2e6


def test_the_base_install_is_a_small_client(wheels: Path, outside: Path, serving: Serving) -> None:
    """With nothing but its own few packages, and without what Windows lacks, on a code page of DOS."""
    (wheel,) = wheels.glob("fractureai-0*.whl")
    brought = needed(metadata(wheel))
    assert {"click", "rich", "httpx"} <= brought
    assert len(brought) < 16
    programs, packages = install(outside / "env", wheel)
    for name in sorted(brought):
        for file in distribution(name).files or []:
            if file.parts[0] not in {"..", "__pycache__"} and not (packages / file.parts[0]).exists():
                (packages / file.parts[0]).symlink_to(HERE / file.parts[0])
    size = sum(
        file.stat().st_size
        for folder, _, names in os.walk(packages, followlinks=True)
        for file in (Path(folder, each) for each in names)
        if "__pycache__" not in folder
    )
    assert size < CLIENT_MB * 1e6
    blocked = f"import os, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); del os.O_NOFOLLOW\n"
    (packages / "sitecustomize.py").write_text(blocked)
    folder = outside / "Größe Łódź"
    folder.mkdir()
    for name in ("straße.png", "手.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    environment = {
        **outside_environment(),
        "FRACTUREAI_URL": serving.url,
        "FRACTUREAI_API_KEY": serving.key,
        "HOME": str(outside),
        "PYTHONIOENCODING": "cp437",
    }

    def client(*arguments: str) -> str:
        done = subprocess.run(
            [programs / "fractureai", *arguments],
            cwd=outside,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode("cp437")

    with Reader():
        shown = client("submit", str(folder), "--wait", "--out", str(outside / "results.zip"))
        assert "straße.png" in shown
        assert "\\u624b.png" in shown
        assert json.loads(client("status", "latest", "--json"))["counts"]["done"] == 2
        client("download", "latest", "--out", str(outside / "again.zip"))
    with zipfile.ZipFile(outside / "again.zip") as archive:
        assert "手.png" in archive.read("results.csv").decode()
    refused = subprocess.run(
        [programs / "fractureai", "up"],
        cwd=outside,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "pip install 'fractureai[cpu]'" in refused.stderr


def test_the_demo_runs_from_the_wheels_outside_the_checkout(wheels: Path, outside: Path) -> None:
    """The packages that it needs are lent by this environment; of the checkout there is nothing."""
    programs, packages = install(outside / "env", *sorted(wheels.glob("*.whl")))
    (packages / "lent.pth").write_text(f"{HERE}\n")  # without the links in there, such as to the checkout
    images = outside / "images"
    images.mkdir()
    for seed, region in enumerate(("hand", "leg")):
        (images / f"{region}.png").write_bytes(encode_phantom(make_phantom(seed, region), "png"))
    environment = outside_environment()
    where = [programs / "python", "-c", "import cli, models; print(cli.__file__, models.__file__)"]
    found = subprocess.run(where, cwd=outside, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.count(str(packages)) == 2
    done = subprocess.run(
        [programs / "fractureai", "demo", "--exit", "--images", images],
        cwd=outside,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(outside / "demo" / "results.zip") as archive:
        rows = archive.read("results.csv").decode().splitlines()
        reports = [name for name in archive.namelist() if re.search(r"\.pdf$", name)]
    assert len(rows) == 3
    assert len(reports) == 2
