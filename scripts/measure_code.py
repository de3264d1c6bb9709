"""Count lines, files and import cycles of the code as it was at one commit or several.

.venv/bin/python scripts/measure_code.py d2cbe80 HEAD
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
#: What counts as neither code nor tests: a migration is written once and is never read again.
LEFT_OUT = ("migrations/versions/",)


def main(commits: list[str]) -> None:
    """Print a row a commit."""
    print("| Commit | Files of code | Lines of code | Files of tests | Lines of tests | Import cycles |")
    print("|---|---|---|---|---|---|")
    for commit in commits:
        with tempfile.TemporaryDirectory() as folder:
            unpack(commit, Path(folder))
            print(f"| {commit} | {' | '.join(f'{n:,}' for n in measure(Path(folder)))} |")


def unpack(commit: str, folder: Path) -> None:
    """Write a commit's tree into a folder."""
    command = ["git", "archive", "--format=tar", commit]
    archive = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")


def measure(folder: Path) -> tuple[int, int, int, int, int]:
    """Return files and lines of the code, files and lines of the tests, and groups of modules in cycles."""
    code: list[int] = []
    tests: list[int] = []
    for file in folder.rglob("*.py"):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(LEFT_OUT):
            (tests if name.startswith("tests/") else code).append(len(file.read_bytes().splitlines()))
    return len(code), sum(code), len(tests), sum(tests), len(cycles(folder))


def cycles(folder: Path) -> set[frozenset[str]]:
    """Return the groups of modules of which each imports all others by some way.

    An import within a function counts; one for the type checker alone does not.
    """
    packages = sorted(
        each.parent.name for each in folder.glob("*/__init__.py") if each.parent.name != "tests"
    )
    sys.path.insert(0, str(folder))
    try:
        graph = grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.path.remove(str(folder))
    upstream = {module: graph.find_upstream_modules(module) for module in graph.modules}
    groups = (
        frozenset({module} | {other for other in above if module in upstream[other]})
        for module, above in upstream.items()
    )
    return {group for group in groups if len(group) > 1}


if __name__ == "__main__":
    main(sys.argv[1:] or ["HEAD"])
