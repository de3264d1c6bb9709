"""The documents: every link leads to a file, and every picture is shown by one."""

from __future__ import annotations

import re

from tests.conftest import ROOT

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def linked() -> dict[str, set[str]]:
    """Return by document, below the root, the files that it links to."""
    found = {}
    for path in DOCS:
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
        files = {(path.parent / target).resolve() for target in targets if "://" not in target}
        found[str(path.relative_to(ROOT))] = {str(file) for file in files}
    return found


def test_every_link_leads_to_a_file() -> None:
    missing = {doc: [f for f in files if not (ROOT / f).exists()] for doc, files in linked().items()}
    assert {doc: files for doc, files in missing.items() if files} == {}


def test_every_picture_is_shown() -> None:
    pictures = {str(path.resolve()) for path in (ROOT / "docs/screenshots").glob("*.png")}
    assert pictures - set().union(*linked().values()) == set()
