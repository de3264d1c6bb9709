"""Puts what the benchmarks measured into the pages that show it: ``python -m bench.tables [--check]``.

Between ``<!-- bench:NAME -->`` and ``<!-- end -->`` stands ``bench/results/NAME.json`` as a table, with its
command, commit, machine and day; no figure there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, ROOT, Spread, columns_of, shown

PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "research.md")
BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def markdown(result: Mapping[str, Any]) -> str:
    """Return a result, as `bench.measure.publish` wrote it, as a table with a line on how it came about."""
    figures: dict[str, Any] = result["figures"]
    columns = columns_of(figures)
    lines = [
        f"| {result['title']} | {' | '.join(columns)} |",
        "|---|" + "--:|" * len(columns),
    ]
    for name, cells in figures.items():
        row = [name, *(cells.get(column, "") for column in columns)]
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    machine = result["machine"]
    lines += [
        "",
        f"`{result['command']}`: {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gb']} GB, load {machine['load_before']} before; commit {result['commit']}, "
        f"{result['at'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return shown(Spread(**value) if isinstance(value, Mapping) else value).replace("|", "\\|")


def filled(page: str, results: Path = RESULTS) -> str:
    """Return the page with every block as the results say; a bench without a result says so."""

    def block(found: re.Match[str]) -> str:
        name = found[2]
        kept = results / f"{name}.json"
        if not kept.is_file():
            return f"{found[1]}Not run yet: `python -m bench.{name}`.\n{found[4]}"
        return found[1] + markdown(json.loads(kept.read_text())) + found[4]

    return BLOCK.sub(block, page)


def main() -> None:
    """Fill the pages, or tell whether they are filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is stale")
    arguments = parser.parse_args()
    for path in PAGES:
        page = path.read_text()
        due = filled(page)
        if arguments.check and page != due:
            raise SystemExit(f"{path.name} does not say what bench/results do: python -m bench.tables")
        if not arguments.check:
            path.write_text(due)


if __name__ == "__main__":
    main()
