"""Builds both wheels into dist: ``python scripts/wheels.py [--out FOLDER]``.

``fractureai`` holds the code, and alone is the client; ``fractureai-data`` holds the model bundles and the
reports' fonts, and comes with the extra ``server``. Both are built from what git tracks.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ("models/bundles", "pipeline/report/fonts")

_PROJECT = """[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"

[project]
name = "fractureai-data"
version = "{version}"
description = "The model bundles and fonts of FractureAI"
requires-python = ">=3.11"

[tool.setuptools]
packages = {packages}

[tool.setuptools.package-data]
"*" = ["**"]
"""


def copy_tracked(target: Path, *paths: str) -> None:
    """Copy the tracked files below the paths, as they are in the working tree."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *paths]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def build(tree: Path, out: Path) -> None:
    """Build the wheel of a tree with the tools that are installed, asking no index."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--no-build-isolation", "-w", str(out), str(tree)], check=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/wheels.py", description="Build both wheels.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out.resolve()
    sys.path.insert(0, str(ROOT))
    from settings import VERSION

    with tempfile.TemporaryDirectory() as folder:
        code, data = Path(folder, "code"), Path(folder, "data")
        copy_tracked(code, ".")
        build(code, out)
        copy_tracked(data, *DATA)
        packages = [each.replace("/", ".") for each in DATA]
        (data / "pyproject.toml").write_text(_PROJECT.format(version=VERSION, packages=packages))
        build(data, out)
    for wheel in sorted(out.glob("fractureai*.whl")):
        print(f"{wheel}  {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
