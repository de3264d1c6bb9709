"""The helper of benchmarks that start several servers."""

from __future__ import annotations

import os

from bench.service import in_own_process


def name_a_database() -> str:
    """Do what the start of a server does to its process."""
    before = os.environ.get("FRACTUREAI_DATABASE_URL", "none")
    os.environ["FRACTUREAI_DATABASE_URL"] = "postgresql://of-the-first-server"
    return before


def test_a_second_server_is_not_taken_for_the_first() -> None:
    assert [in_own_process(name_a_database) for _ in range(2)] == ["none", "none"]
