"""Writes docs/errors.md from the errors' own classes: ``python scripts/errors_table.py [--check]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "errors.md"

_HEAD = """# Error codes

What `code` can be in a problem (`application/problem+json`), in the brackets behind a sentence of the command
line, and in the log. A code keeps its meaning. The table is made from the classes of the errors by
`python scripts/errors_table.py`, and a test compares it with what `/api/v1/openapi.json` publishes. Any other
status of HTTP's own is `http_` and its number. Why a single file was refused is said by reasons, which
`/api/v1/docs` lists.

| Code | Status | What it says | What to do |
|---|---|---|---|
"""


def page() -> str:
    """Return the page of all errors, by status and code."""
    import web.factory  # noqa: F401 - with all that raises errors
    from web.openapi import document

    rows = [
        f"| `{each['code']}` | {each['status']} | {each['title']} | {each['advice']} |\n"
        for each in document()["x-error-codes"]
    ]
    return _HEAD + "".join(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/errors_table.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the page is old")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    made = page()
    if args.check:
        sys.exit(TARGET.read_text() != made)
    TARGET.write_text(made)


if __name__ == "__main__":
    main()
