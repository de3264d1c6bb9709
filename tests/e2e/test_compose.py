"""The commands of docker-compose.yml, word for word, as plain processes on real servers: they read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine

from cli.child import Child, stop_all
from cli.client import Client
from cli.embedded import Servers, free_port
from cli.output import open_console
from cli.submit import SubmitOptions, run_submit
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.bundles import NAME, write_untrained_bundle
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
RUNNING = (
    *("web", "worker-cpu", "worker-report", "worker-score", "worker-notices", "worker-exports"),
    *("worker-urgent", "reconcile"),
)
FILLED_IN = {
    "SECRET_KEY": "k" * 32,
    "SLOTS": "1",
}


def filled(text: str) -> str:
    """Return what compose makes of ``${NAME-}`` and ``${NAME:-default}``."""
    return re.sub(r"\$\{(\w+):?[?-]([^}]*)\}", lambda m: FILLED_IN.get(m[1], m[2]), text)


class Deployment:
    """The services' commands and environments, with this machine's addresses in place of the containers'."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.here = {
            "FRACTUREAI_DATABASE_URL": servers.database_url,
            "FRACTUREAI_DATABASE_OWNER_URL": servers.database_owner_url,
            "FRACTUREAI_BROKER_URL": servers.broker_url,
            "FRACTUREAI_BLOB_URL": f"file://{folder}/blobs",
            "FRACTUREAI_CACHE_DIR": str(folder / "cache"),
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self.port}",
        }

    def environment(self, name: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("FRACTUREAI_")}
        said = {key: value for key, value in SERVICES[name]["environment"].items() if value is not None}
        given = {key: filled(value) for key, value in said.items()}
        if "FRACTUREAI_ALIVE_FILE" in given:
            given["FRACTUREAI_ALIVE_FILE"] = str(self.alive_file(name))
        given["TMPDIR"] = str(self.folder)
        return {**own, **given, **{key: value for key, value in self.here.items() if key in given}}

    def alive_file(self, name: str) -> Path:
        return self.folder / f"{name}.alive"

    def command(self, name: str) -> list[str]:
        program, *arguments = [filled(word) for word in SERVICES[name]["command"]]
        return [str(Path(sys.executable).parent / program), *arguments]

    def run(self, name: str, command: list[str]) -> str:
        done = subprocess.run(
            command, env=self.environment(name), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> Child:
        log = self.folder / f"{name}.log"
        child = Child(name, self.command(name), log, env=self.environment(name), cwd=ROOT)
        child.start()
        return child


@pytest.fixture
def deployment(servers: Servers, database: Engine, tmp_path: Path) -> Deployment:
    return Deployment(servers, tmp_path)


def test_its_commands_read_a_batch(deployment: Deployment, tmp_path: Path) -> None:
    assert "/sign-in?token=" in deployment.run("migrate", deployment.command("migrate"))
    command = str(Path(sys.executable).parent / "fractureai")
    add_key = [command, "keys", "add", "tests", "--for", "admin@localhost"]
    for scope in ("submit", "read", "administer"):
        add_key += ["--scope", scope]
    key = deployment.run("web", add_key).strip()
    bundle = write_untrained_bundle(tmp_path / "untrained")
    deployment.run("migrate", [command, "bundles", "add", str(bundle)])
    images = tmp_path / "images"
    images.mkdir()
    for seed, region in enumerate(("hand", "leg", "hip", "shoulder")):
        (images / f"{region}.png").write_bytes(encode_phantom(make_phantom(seed, region), "png"))
    children = [deployment.start(name) for name in RUNNING]
    try:
        with Client(f"http://127.0.0.1:{deployment.port}", key, patience=120) as client:
            client.document("/bundles/promote", body={"bundle": NAME})
            options = SubmitOptions(bundle=NAME, out=tmp_path / "results.zip", timeout=900)
            result = run_submit(client, [images], options, open_console())
        assert result.batch["status"] == "done", [child.log_tail() for child in children]
        assert result.batch["counts"]["done"] == 4
        assert all(child.running for child in children)
        for name in RUNNING:
            test, program, *arguments = SERVICES[name]["healthcheck"]["test"]
            assert (test, program) == ("CMD", "alive")
            if name != "web":
                file = {**os.environ, "FRACTUREAI_ALIVE_FILE": str(deployment.alive_file(name))}
                subprocess.run([ROOT / "docker" / "alive", *arguments], env=file, check=True)
    finally:
        stop_all(children, 120)  # as they end by themselves
    assert {child.status for child in children} <= {0, -signal.SIGTERM}
