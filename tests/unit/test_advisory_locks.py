"""The numbers of advisory locks stand in one table, and nobody takes one past it."""

from __future__ import annotations

import re
from pathlib import Path

from store.base.advisory_locks import AdvisoryLock

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "store/base/advisory_locks.py"
ASKS = re.compile(r"pg_(?:try_)?advisory\w*lock\w*\(([^)]*)")


def test_nobody_takes_a_lock_past_the_table() -> None:
    """A function of the database that takes one takes it by a number of the table."""
    known = {str(lock.value) for lock in AdvisoryLock}
    for folder in ("store", "web", "worker", "interop", "cli", "migrations"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".sql"} and path != TABLE:
                taken = set(ASKS.findall(path.read_text()))
                assert taken <= (known if "versions" in path.parts else set()), path
