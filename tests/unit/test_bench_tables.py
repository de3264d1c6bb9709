"""The figures of the pages come out of the results that are kept beside the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import measure, tables
from bench.measure import Spread


def test_the_pages_say_what_the_results_do() -> None:
    check = [sys.executable, "-m", "bench.tables", "--check"]
    assert subprocess.run(check, cwd=measure.ROOT, check=False).returncode == 0


def test_a_result_becomes_a_table_and_a_new_one_is_noticed(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    rows = {"one|stage": {"ms": Spread.of([1.0, 2.0, 4.0])}, "whole": {"images/s": 1234.5, "goal": "10"}}
    before = {"cores": 2, "processor": "Abacus", "memory_gb": 4, "load_before": 0.1}
    measure.publish("floor", "A try", rows, before)
    page = "# Page\n<!-- bench:floor -->\nold\n<!-- end -->\n<!-- bench:latency -->\n<!-- end -->\n"

    first = tables.filled(page, tmp_path)

    assert "| A try | ms | images/s | goal |" in first
    assert "| one\\|stage | 2 (1 to 4) |  |  |" in first
    assert "| whole |  | 1,234 | 10 |" in first
    assert "2 cores of Abacus, 4 GB, load 0.1 before" in first
    assert "Not run yet: `python -m bench.latency`." in first
    assert "old" not in first
    assert tables.filled(first, tmp_path) == first
    kept = json.loads((tmp_path / "floor.json").read_text())
    kept["figures"]["whole"]["images/s"] = 2.0
    (tmp_path / "floor.json").write_text(json.dumps(kept))
    assert tables.filled(first, tmp_path) != first
