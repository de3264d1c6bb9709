"""What docker-compose.yml promises, as far as reading it can tell; tests/e2e runs its commands."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import threading
import time
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from cli.embedded import free_port, valkey_binary
from cli.supervise import URGENT_QUEUES, WEB_OPTIONS, listen, processes
from settings import PREFIX, Settings
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
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
    assert re.fullmatch(r"\d+[gm]|\$\{WORKER_MEMORY:-\d+g\}", service["mem_limit"])
    assert service["logging"]["options"]["max-size"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_ours_run_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_each_image_is_built_once_and_every_role_has_one() -> None:
    builders = [SERVICES[name]["image"] for name in OURS if "build" in SERVICES[name]]
    assert len(builders) == len(set(builders))
    assert {SERVICES[name]["image"] for name in OURS} == set(builders)
    targets = {SERVICES[name]["build"]["target"] for name in OURS if "build" in SERVICES[name]}
    assert targets == {"web", "read", "${SCORE_TARGET:-score}", "gpu"}
    stages = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert {"web", "read", "score", "cpu", "gpu"} <= stages
    for lock in re.findall(r"requirements-\w+\.lock", DOCKERFILE):
        assert (ROOT / lock).is_file()
    # what is built with one profile alone must not be needed with another
    alone = {
        SERVICES[name]["image"] for name in OURS if "build" in SERVICES[name] and "profiles" in SERVICES[name]
    }
    assert alone == {"fractureai-gpu:0.1.0"}


def test_an_image_holds_what_its_lock_names_and_no_more() -> None:
    def packages(role: str) -> set[str]:
        lock = (ROOT / f"requirements-{role}.lock").read_text()
        return set(re.findall(r"^[\w.-]+==\S+", lock, re.MULTILINE))

    chain = re.findall(r"^FROM (\S+)-venv AS (\S+)-venv$", DOCKERFILE, re.MULTILINE)
    assert {role for pair in chain for role in pair} == {"web", "read", "score", "cpu", "gpu"}
    for earlier, role in chain:
        assert packages(earlier) <= packages(role), f"{role} would keep packages of {earlier}"


def test_the_webs_image_holds_no_networks() -> None:
    lock = (ROOT / "requirements-web.lock").read_text()
    heavy = ("tensorflow", "openvino", "opencv", "weasyprint", "pydicom", "pyarrow", "pixeltable", "numpy")
    assert not [line for line in lock.splitlines() if line.startswith(heavy)]
    scoring = (ROOT / "requirements-score.lock").read_text()
    assert re.search(r"^openvino==", scoring, re.MULTILINE)
    assert not re.search(r"^(tensorflow|keras)", scoring, re.MULTILINE)


def test_documented_commands_run_as_the_user_who_owns_the_files() -> None:
    """Root without capabilities reads none of them, and what it restored nobody else could read."""
    told = (ROOT / "docs" / "operations.md").read_text().splitlines()
    commands = [line.split() for line in told if "docker compose run" in line and "/backups" in line]
    assert len(commands) >= 2
    assert not [words for words in commands if {"--user", "-u"} & set(words)]


@pytest.mark.parametrize("name", [name for name in SERVICES if "healthcheck" in SERVICES[name]])
def test_a_probe_has_no_blank_in_an_argument(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD-SHELL" or not any(" " in word for word in words)


def test_no_volume_is_anonymous_and_what_is_large_lies_on_disk() -> None:
    named = set(COMPOSE["volumes"])
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in named or volume.startswith("./")
    for name in OURS:
        assert SERVICES[name]["environment"]["TMPDIR"] == "/scratch"
        assert "scratch:/scratch" in SERVICES[name]["volumes"]
        assert SERVICES[name]["tmpfs"] == ["/tmp:mode=1777,size=64m"]


def alive(tmp_path: Path, *arguments: str, **environment: str) -> int:
    command = [ROOT / "docker" / "alive", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def test_the_health_check_looks_at_a_files_time(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert alive(tmp_path, FRACTUREAI_ALIVE_FILE=str(file)) == 1
    file.touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(10):
        assert alive(tmp_path, FRACTUREAI_ALIVE_FILE=str(file)) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent / 10 < 0.05, "it costs nearly nothing"
    os.utime(file, (time.time() - 120, time.time() - 120))
    assert alive(tmp_path, FRACTUREAI_ALIVE_FILE=str(file)) == 1
    assert alive(tmp_path, "16", FRACTUREAI_ALIVE_FILE=str(file)) == 0


def test_the_health_check_asks_the_web_process(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        port = str(server.server_port)
        assert alive(tmp_path, "http", FRACTUREAI_HEALTH_PORT=port) == 0
    assert alive(tmp_path, "http", FRACTUREAI_HEALTH_PORT=port) == 1


@pytest.mark.parametrize("as_file", [False, True])
def test_the_brokers_command_takes_any_password_and_ends_when_asked(tmp_path: Path, as_file: bool) -> None:
    """The very command of the service, with the wheel's server; its first process is the server itself."""
    password = 'it\'s "a" $HOME \\ # Ü'
    script = SERVICES["valkey"]["command"][2].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")
    port = free_port()
    secret = tmp_path / "secret"
    secret.write_text(password + "\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(valkey_binary())
    process = subprocess.Popen(
        ["sh", "-c", script.replace("--appendonly", f"--port {port} --dir {tmp_path} --appendonly")],
        env={
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "VALKEY_PASSWORD": "" if as_file else password,
            "VALKEY_PASSWORD_FILE": str(secret) if as_file else "",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port, password=password) as client:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.ConnectionError):
                    if client.ping():
                        break
                time.sleep(0.1)
            assert client.ping()
        assert password not in " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.terminate()
    assert process.wait(10) == 0


def test_a_broker_without_a_password_does_not_start(tmp_path: Path) -> None:
    script = SERVICES["valkey"]["command"][2].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")
    empty = {"PATH": os.environ["PATH"], "VALKEY_PASSWORD": "", "VALKEY_PASSWORD_FILE": ""}
    done = subprocess.run(["sh", "-c", script], env=empty, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not set" in done.stderr


def test_secrets_may_come_as_files() -> None:
    extra = yaml.safe_load((ROOT / "docker" / "secrets.yml").read_text())
    assert set(extra["services"]) == {*OURS, "postgres", "valkey"}
    # from the folder of the first file, in which `docker compose` is called
    assert {each["file"] for each in extra["secrets"].values()} == {
        f"./secrets/{name}" for name in extra["secrets"]
    }
    for name in OURS:
        assert {"application_password", "valkey_password", "secret_key"} <= set(
            extra["services"][name]["secrets"]
        )
        assert ("postgres_password" in extra["services"][name]["secrets"]) == (name == "migrate")
        assert SERVICES[name]["environment"]["FRACTUREAI_SECRET_KEY_FILE"] == "${SECRET_KEY_FILE-}"


def test_only_proxy_and_gateway_are_open_and_on_loopback_unless_told() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"proxy", "gateway"}
    assert SERVICES["gateway"]["ports"] == ["${DICOM_BIND:-127.0.0.1}:${DICOM_PORT:-11112}:11112"]
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in SERVICES["proxy"]["ports"])
    inside = [name for name, service in SERVICES.items() if "inside" in service["networks"]]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert set(SERVICES) - set(inside) == {"proxy"}


def test_few_reach_the_outside_and_one_the_private_keys() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name, has in networks.items() if "outside" in has} == {"proxy", "web", "gateway"}
    reaching = {"worker-notices", "worker-deliveries"}
    assert {name for name, has in networks.items() if "egress" in has} == reaching
    keys = {name for name in OURS if any(":/keys" in each for each in SERVICES[name]["volumes"])}
    assert keys == {"worker-deliveries"}
    assert "notices" in SERVICES["worker-notices"]["command"]
    assert set().union(*networks.values()) == set(COMPOSE["networks"])


def test_broker_never_evicts_and_keeps_a_log() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


@pytest.mark.parametrize("name", OURS)
def test_bytes_lie_in_a_volume_that_all_of_ours_have(name: str) -> None:
    assert SERVICES[name]["environment"]["FRACTUREAI_BLOB_URL"] == "${BLOB_URL:-file:///blobs}"
    assert "blobs:/blobs" in SERVICES[name]["volumes"]
    assert " /blobs " in DOCKERFILE, "whose owner a new volume gets"


def test_without_a_gpu_it_starts_too() -> None:
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert SERVICES["worker-score"]["profiles"] == ["cpu"]
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env.example").read_text()
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia"


def test_variables_are_explained_and_settings_exist() -> None:
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert wanted <= explained
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    for name in OURS:
        given = {key for key in SERVICES[name]["environment"] if key.startswith(PREFIX)}
        assert {each if each in known else each.removesuffix("_FILE") for each in given} <= known


def test_secrets_have_no_default() -> None:
    """Nothing starts without: `migrate` and Postgres refuse, and all else waits for them."""
    for name in ("POSTGRES_PASSWORD", "APPLICATION_PASSWORD", "VALKEY_PASSWORD", "SECRET_KEY"):
        assert set(re.findall(rf"(?<!\$)\$\{{{name}([^}}]*)\}}", TEXT)) == {"-", "_FILE-"}
    assert not re.search(r"postgresql://\w+:|redis://:", TEXT), "no password in an address"


def test_the_gateway_starts_where_it_is_asked_for() -> None:
    assert SERVICES["gateway"]["profiles"] == ["dicom"]
    assert SERVICES["gateway"]["command"] == ["fractureai", "gateway"]


def test_processes_are_those_of_up(tmp_path: Path) -> None:
    assert SERVICES["web"]["command"] == ["gunicorn", "web.factory:create_app()", *WEB_OPTIONS]
    queues = {SERVICES[name]["command"][5] for name in OURS if "celery" in SERVICES[name]["command"]}
    assert queues == {"cpu", "gpu", "report", "notices", "exports", "deliveries", URGENT_QUEUES}
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as health:
        up = {child.name: child for child in processes(tmp_path, listener, health, 1, 1)}
    assert {child.argv[child.argv.index("-Q") + 1] for child in up.values() if "-Q" in child.argv} == queues
    alone = {name for name, child in up.items() if (child.env or {}).get("FRACTUREAI_URGENT_ONLY") == "true"}
    assert alone == {"worker-urgent"}
    for name in OURS:
        alone = SERVICES[name]["environment"].get("FRACTUREAI_URGENT_ONLY")
        assert (alone == "true") == (name == "worker-urgent") == ("cpu_shares" in SERVICES[name])
