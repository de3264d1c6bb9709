"""doctor names what is wrong, says what to do, and ends with 1 when a server cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli import doctor as doctor_module
from cli.embedded import free_port
from cli.main import main


def examined(home: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(main, ["doctor", "--json", "--home", str(home)])
    document = json.loads(done.stdout)
    assert document["ok"] == (done.exit_code == 0)
    return done.exit_code, {check["name"]: check for check in document["checks"]}


def test_it_looks_at_this_machine(tmp_path: Path) -> None:
    _, checks = examined(tmp_path)
    assert checks["Python"]["state"] == "ok"
    assert checks["Python packages"]["state"] == "ok"
    assert checks["embedded Postgres"]["detail"].startswith("postgres (PostgreSQL) 18")
    assert "Valkey" in checks["embedded Valkey"]["detail"]
    assert checks["settings"]["state"] == "ok"


def test_a_repository_without_bundles_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "BUNDLES", tmp_path)
    status, checks = examined(tmp_path)
    assert (status, checks["bundles"]["state"]) == (1, "problem")


def test_an_altered_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mended-by-hand").mkdir()
    (tmp_path / "mended-by-hand" / "manifest.json").write_text("{}")
    monkeypatch.setattr(doctor_module, "BUNDLES", tmp_path)
    status, checks = examined(tmp_path)
    assert (status, checks["bundle mended-by-hand"]["state"]) == (1, "problem")


@pytest.mark.parametrize(
    ("variable", "url", "name"),
    [
        ("DATABASE_URL", "postgresql://a:b@127.0.0.1:{port}/x", "database"),
        ("BROKER_URL", "redis://127.0.0.1:{port}/0", "broker"),
    ],
)
def test_a_server_that_does_not_answer(
    variable: str, url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FRACTUREAI_{variable}", url.format(port=free_port()))
    status, checks = examined(tmp_path)
    assert (status, checks[name]["state"]) == (1, "problem")
    assert checks[name]["advice"]


def test_settings_out_of_order_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACTUREAI_CHUNK_SIZE", "1000")
    status, checks = examined(tmp_path)
    assert (status, checks["settings"]["state"]) == (1, "problem")
    assert "chunk_size" in checks["settings"]["detail"]


def test_people_read_lines_and_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "BUNDLES", tmp_path)
    done = CliRunner().invoke(main, ["doctor", "--home", str(tmp_path)])
    assert "PROBLEM  bundles" in done.output
    assert "-> " in done.output
