"""Packages of the npm registry that tests try the product with, fetched once and kept by pytest."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest


def npm_folder(config: pytest.Config, *packages: str, alone: bool = False) -> Path:
    """Return a folder with these packages (name@version) in its node_modules; skips where none can be had.

    Parameters
    ----------
    alone
        One package without those that it needs, as one that ships what it has built wants.
    """
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip(f"{packages[0]} needs node and npm")
    folder = config.cache.mkdir("-".join(packages).replace("@", "-").replace("/", "-"))
    names = [package[0] + package[1:].partition("@")[0] for package in packages]
    if not all((folder / "node_modules" / name).is_dir() for name in names):
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
        if alone:
            return _unpacked(npm, folder, packages[0])
        done = subprocess.run([*install, *packages], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm does not get {packages[0]}: {done.stderr.strip()[:200]}")
    return folder


def _unpacked(npm: str, folder: Path, package: str) -> Path:
    target = folder / "node_modules" / (package[0] + package[1:].partition("@")[0])
    command = [npm, "pack", "--silent", "--pack-destination", folder, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm does not get {package}: {done.stderr.strip()[:200]}")
    archive = folder / done.stdout.split()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "package").rename(target)
    archive.unlink()
    return folder


def run_script(folder: Path, script: str, *arguments: str | Path, timeout: float = 120) -> str:
    """Run a script (CommonJS) with the folder's packages; return what it printed."""
    path = folder / "script.cjs"
    path.write_text(script)
    command = [shutil.which("node") or "node", path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
