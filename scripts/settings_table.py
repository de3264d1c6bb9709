"""Writes docs/settings.md from settings.py: ``python scripts/settings_table.py [--check]``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "settings.md"
PREFIX = "FRACTUREAI_"

_HEAD = """# Settings

Environment variables, read once when a process starts; `fractureai up` and Compose set what has to be set.
A variable with `_FILE` behind its name names a file that holds the value (a secret of Compose or Kubernetes);
an empty one counts as not set.
Times are in seconds and sizes in bytes. Settings that contradict each other refuse to start, with a sentence.

This page is made from `settings.py` by `python scripts/settings_table.py`.
"""
_GROUP = re.compile(r"    # (?P<name>.+)")
_FIELD = re.compile(r"    (?P<name>[a-z_0-9]+): (?:str|int|float|bool) = (?P<value>.+?)  # (?P<words>.+)")


def page(source: str) -> str:
    """Return the page of the fields of `Settings`, a table for each of their groups.

    Raises
    ------
    ValueError
        A field has no words beside it.
    """
    body = source.split("class Settings:", 1)[1].split("    def ", 1)[0]
    lines = [_HEAD]
    for line in body.splitlines():
        if group := _GROUP.fullmatch(line):
            name = group["name"][0].upper() + group["name"][1:]
            lines.append(f"\n## {name}\n\n| Setting | Default | What it is |\n|---|---|---|\n")
        elif field := _FIELD.fullmatch(line):
            lines.append(_row(field["name"], field["value"], field["words"]))
        elif re.match(r"    [a-z_0-9]+:", line):
            raise ValueError(f"settings.py says nothing of {line.split(':')[0].strip()}")
    return "".join(lines)


def _row(name: str, value: str, words: str) -> str:
    shown = "" if value == '""' else f"`{value.strip(chr(34))}`"
    return f"| `{PREFIX}{name.upper()}` | {shown} | {words.replace('|', chr(92) + '|')} |\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/settings_table.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the page is old")
    args = parser.parse_args()
    made = page((ROOT / "settings.py").read_text())
    if args.check:
        sys.exit(TARGET.read_text() != made)
    TARGET.write_text(made)


if __name__ == "__main__":
    main()
