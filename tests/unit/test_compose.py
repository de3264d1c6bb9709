"""What docker-compose.yml promises, as far as reading it can tell; tests/e2e runs its commands."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.supervise import URGENT_QUEUES, WEB_OPTIONS, listen, processes
from settings import PREFIX, Settings
from tests.conftest import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if str(service["image"]).startswith("fractureai")]


def test_nothing_is_missing() -> None:
    assert {"postgres", "valkey", "migrate", "web", "reconcile", "proxy"} <= set(SERVICES)
    workers = {"cpu", "report", "score", "gpu", "notices", "exports", "urgent"}
    assert {f"worker-{name}" for name in workers} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_restarts_and_is_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] in {"unless-stopped", "on-failure:5"}
    assert "healthcheck" in service or name == "migrate"
    pinned = r":\d+\.\d+\.\d+" if name in OURS else r":\d+\.\d+[-.\w]*@sha256:[0-9a-f]{64}"
    assert re.search(pinned + "$", service["image"]), "an exact version, and of others its digest"
    assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_bounds_and_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert 0 < service["pids_limit"] <= 512
    assert re.fullmatch(r"\d+g|\$\{WORKER_MEMORY:-\d+g\}", service["mem_limit"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_ours_run_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert f"AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()


def test_only_proxy_and_gateway_are_open_and_on_loopback_unless_told() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"proxy", "gateway"}
    assert SERVICES["gateway"]["ports"] == ["${DICOM_BIND:-127.0.0.1}:${DICOM_PORT:-11112}:11112"]
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in SERVICES["proxy"]["ports"])
    inside = [name for name, service in SERVICES.items() if "inside" in service["networks"]]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert set(SERVICES) - set(inside) == {"proxy"}


def test_one_worker_alone_reaches_the_outside() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name, has in networks.items() if "outside" in has} == {"proxy", "web", "gateway"}
    assert {name for name, has in networks.items() if "egress" in has} == {"worker-notices"}
    assert "notices" in SERVICES["worker-notices"]["command"]
    assert set().union(*networks.values()) == set(COMPOSE["networks"])


def test_broker_never_evicts_and_keeps_a_log() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


@pytest.mark.parametrize("name", OURS)
def test_bytes_lie_in_a_volume_that_all_of_ours_have(name: str) -> None:
    assert SERVICES[name]["environment"]["FRACTUREAI_BLOB_URL"] == "file:///blobs"
    assert "blobs:/blobs" in SERVICES[name]["volumes"]
    assert " /blobs " in (ROOT / "Dockerfile").read_text(), "whose owner a new volume gets"


def test_without_a_gpu_it_starts_too() -> None:
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["worker-score"]["profiles"] == ["cpu"]
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env.example").read_text()
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia"


def test_variables_are_explained_and_settings_exist() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", TEXT))
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert wanted <= explained
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    for name in OURS:
        given = {key for key in SERVICES[name]["environment"] if key.startswith(PREFIX)}
        assert given <= known


def test_secrets_have_no_default() -> None:
    for name in ("POSTGRES_PASSWORD", "APPLICATION_PASSWORD", "VALKEY_PASSWORD", "SECRET_KEY"):
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", TEXT)) == {":?"}


def test_the_gateway_starts_where_it_is_asked_for() -> None:
    assert SERVICES["gateway"]["profiles"] == ["dicom"]
    assert SERVICES["gateway"]["command"] == ["fractureai", "gateway"]


def test_processes_are_those_of_up(tmp_path: Path) -> None:
    assert SERVICES["web"]["command"] == ["gunicorn", "web.factory:create_app()", *WEB_OPTIONS]
    queues = {SERVICES[name]["command"][5] for name in OURS if "celery" in SERVICES[name]["command"]}
    assert queues == {"cpu", "gpu", "report", "notices", "exports", URGENT_QUEUES}
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as health:
        up = {child.name: child for child in processes(tmp_path, listener, health, 1)}
    assert {child.argv[child.argv.index("-Q") + 1] for child in up.values() if "-Q" in child.argv} == queues
    alone = {name for name, child in up.items() if (child.env or {}).get("FRACTUREAI_URGENT_ONLY") == "true"}
    assert alone == {"worker-urgent"}
    for name in OURS:
        alone = SERVICES[name]["environment"].get("FRACTUREAI_URGENT_ONLY")
        assert (alone == "true") == (name == "worker-urgent") == ("cpu_shares" in SERVICES[name])
