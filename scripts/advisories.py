"""Compares the locks with saved security advisories: ``python scripts/advisories.py FILE``.

FILE is what the OSV database exports of the ecosystem PyPI (``all.zip``), a folder of its records, or one
record: JSON in the OSV format. It is fetched where there is a network and carried to where there is none.
The command exits with 1 if a locked package is affected by an advisory that is not accepted in
`scripts/accepted-advisories.toml`, and says how old the newest advisory is: an old file finds nothing new.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = tuple(sorted(path.name for path in ROOT.glob("requirements*.lock")))
ACCEPTED = ROOT / "scripts" / "accepted-advisories.toml"


@dataclass(frozen=True)
class Found:
    """An advisory that affects a locked package."""

    id: str
    package: str
    version: str
    summary: str
    fixed: str


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a ZIP, a folder or a file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield json.loads(file.read_bytes())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    yield json.loads(archive.read(name))
    else:
        yield json.loads(path.read_bytes())


def normal(name: str) -> str:
    """Return a package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def in_range(version: Version, events: list[dict[str, str]]) -> bool:
    """Tell whether the events of an OSV range, in the order of versions, leave this version affected."""
    affected = False
    for event in events:
        kind, text = next(iter(event.items()))
        at = Version("0") if text == "0" else _version(text)
        if at is None:
            continue
        if kind == "introduced" and version >= at:
            affected = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            affected = False
    return affected


def affects(record: dict[str, Any], package: str, version: str) -> str | None:
    """Return the version that mends it, "none", or None when this version is not affected."""
    for entry in record.get("affected", []):
        named = entry.get("package", {})
        if named.get("ecosystem") != "PyPI" or normal(named.get("name", "")) != package:
            continue
        ranges = [r for r in entry.get("ranges", []) if r.get("type") == "ECOSYSTEM"]
        parsed = _version(version)
        by_range = parsed is not None and any(in_range(parsed, r.get("events", [])) for r in ranges)
        if by_range or version in entry.get("versions", []):
            fixed = [e["fixed"] for r in ranges for e in r.get("events", []) if "fixed" in e]
            return fixed[-1] if fixed else "none"
    return None


def locked(root: Path) -> dict[str, set[str]]:
    """Return the versions of each package in the locks."""
    found: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", (root / lock).read_text(), re.MULTILINE):
            found.setdefault(normal(name), set()).add(version)
    return found


def accepted(path: Path, today: date) -> set[str]:
    """Return the ids that somebody looked at and accepted, with a reason, until a day that has not come."""
    entries = tomllib.loads(path.read_text()).get("accepted", [])
    return {entry["id"] for entry in entries if entry["reason"] and entry["until"] >= today}


def check(source: Path, packages: dict[str, set[str]]) -> tuple[list[Found], datetime | None]:
    """Return what affects the packages, and when the newest advisory was changed."""
    found: list[Found] = []
    newest: datetime | None = None
    for record in records(source):
        if changed := record.get("modified"):
            at = datetime.fromisoformat(changed.replace("Z", "+00:00"))
            newest = max(newest or at, at)
        if record.get("withdrawn"):
            continue
        names = {normal(e.get("package", {}).get("name", "")) for e in record.get("affected", [])}
        for name in sorted(names & packages.keys()):
            for version in sorted(packages[name]):
                if fixed := affects(record, name, version):
                    found.append(Found(record["id"], name, version, record.get("summary", ""), fixed))
    return found, newest


def main() -> None:
    """Print a line an advisory; exit with 1 if one is not accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    packages = locked(ROOT)
    found, newest = check(options.file, packages)
    allowed = accepted(ACCEPTED, datetime.now(UTC).date())
    for each in found:
        word = "accepted" if each.id in allowed else "AFFECTED"
        print(f"{word}  {each.id}  {each.package} {each.version}, mended in {each.fixed}: {each.summary}")
    age = f"{(datetime.now(UTC) - newest).days} days old" if newest else "without dates"
    print(f"{len(packages)} packages against advisories of which the newest is {age}")
    sys.exit(1 if any(each.id not in allowed for each in found) else 0)


if __name__ == "__main__":
    main()
