"""Builds the images and brings the whole profile up: ``python scripts/containers.py [--no-build] [--keep]``.

Under Docker, or under podman with Compose's own program (``DOCKER_HOST``). The addresses 127.0.0.1:80 and
:443 must be free. A key comes from the command in the web container, and everything else goes through the TLS
proxy, by the client of this checkout. Each service is killed once during a batch, web and workers are
replaced during one, a backup is brought back into an empty profile. Ends with 0 when nothing was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KILLED = (
    "worker-cpu",
    "worker-report",
    "worker-score",
    "worker-urgent",
    "reconcile",
    "web",
    "valkey",
    "postgres",
    "proxy",
)
REPLACED = ("web", "worker-cpu", "worker-report", "worker-score", "reconcile")
IMAGES = 20


class Profile:
    """One project of Compose with its own settings and volumes."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder, self.certificate = folder, folder / "root.crt"
        self.environment = folder / "env"
        odd = "it's @/:%#"  # a password may hold any letters
        values = {
            "DOMAIN": "localhost",
            "CERTIFICATE": "auto",
            "BIND": "127.0.0.1",
            "SLOTS": "1",
            "COMPOSE_PROFILES": "cpu",
            "POSTGRES_PASSWORD": secrets.token_hex(8) + odd,
            "APPLICATION_PASSWORD": secrets.token_hex(8) + odd,
            "VALKEY_PASSWORD": secrets.token_hex(8) + odd,
            "SECRET_KEY": secrets.token_hex(32),
        }
        lines = [f'{name}="{value}"\n' for name, value in values.items()]
        self.environment.write_text("".join(lines))
        named = [part for file in files for part in ("-f", file)]
        self.compose = [
            "docker",
            "compose",
            "-p",
            "fractureai-check",
            *named,
            "--env-file",
            str(self.environment),
        ]
        self.key = ""

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run Compose; return what it prints."""
        done = subprocess.run(
            [*self.compose, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise SystemExit(f"docker compose {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def up(self) -> None:
        """Start everything, and wait until the pages answer through the proxy."""
        self.run("up", "-d")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            self.run(
                "cp", "proxy:/data/caddy/pki/authorities/local/root.crt", str(self.certificate), check=False
            )
            with contextlib.suppress(OSError):
                if self.get("/healthz")[0] == 200:
                    return
            time.sleep(1)
        raise SystemExit("the pages do not answer")

    def make_key(self) -> None:
        """Take the first administrator's key; the sign-in link stands in the log of `migrate`."""
        assert "/sign-in?token=" in self.run("logs", "--no-log-prefix", "migrate")
        scopes = [part for scope in ("submit", "read") for part in ("--scope", scope)]
        command = ["fractureai", "keys", "add", f"check {secrets.token_hex(3)}", "--for", "admin@localhost"]
        self.key = self.run("exec", "-T", "web", *command, *scopes).strip().splitlines()[-1]

    def get(self, path: str, scheme: str = "https") -> tuple[int, list[tuple[str, str]]]:
        """Ask the proxy; return the status and the headers."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        try:
            url = f"{scheme}://localhost{path}"
            with urllib.request.urlopen(url, context=context, timeout=5) as answer:  # noqa: S310 - our own
                return answer.status, list(answer.headers.items())
        except urllib.error.HTTPError as error:
            return error.code, list(error.headers.items())

    def submit(self, folder: Path, out: Path) -> subprocess.Popen[str]:
        """Send a folder as a person would, wait for its results and save them."""
        environment = {
            **os.environ,
            "FRACTUREAI_URL": "https://localhost",
            "FRACTUREAI_API_KEY": self.key,
            "SSL_CERT_FILE": str(self.certificate),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        command = [
            sys.executable,
            "-m",
            "cli.main",
            "submit",
            str(folder),
            "--wait",
            "--out",
            str(out),
            "--json",
        ]
        return subprocess.Popen(
            [*command, "--timeout", "900"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self) -> int:
        """Return how many images are done."""
        query = "SELECT COALESCE(sum(n_done), 0) FROM batches"
        told = self.run(
            "exec",
            "-T",
            "postgres",
            "psql",
            "-U",
            "fractureai",
            "-d",
            "fractureai",
            "-Atc",
            query,
            check=False,
        )
        return int(told.strip() or 0)


def radiographs(folder: Path, first: int) -> Path:
    """Write phantoms that nobody sent before."""
    from phantoms.files import encode_phantom
    from phantoms.film import make_phantom

    folder.mkdir()
    for number in range(IMAGES):
        region = ("hand", "leg")[number % 2]
        phantom = make_phantom(first + number, region, size=(320, 320))
        (folder / f"{number:02d}.png").write_bytes(encode_phantom(phantom))
    return folder


def ended(process: subprocess.Popen[str], out: Path, what: str) -> None:
    """See that every image of a batch is done, and that the ZIP holds each report."""
    told, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{what}: submit ended with {process.returncode}\n{errors}")
    counts = json.loads(told)["batch"]["counts"]
    assert counts["done"] == counts["total"] == IMAGES, counts
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
    assert sum(name.endswith(".pdf") for name in names) == IMAGES, names


@contextlib.contextmanager
def watched(profile: Profile) -> Iterator[Counter[int]]:
    """Ask for /healthz all the time; count the answers by status, 0 for none."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.25):
            try:
                statuses[profile.get("/healthz")[0]] += 1
            except OSError:
                statuses[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def say(what: str, began: float) -> float:
    """Print what was done, and how long it took."""
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)
    return time.monotonic()


def check_proxy(profile: Profile) -> None:
    """See what the proxy gives out, and what it keeps."""
    for path in ("/metrics", "/readyz", "/readyz/web"):
        assert profile.get(path)[0] == 404, path
    _, headers = profile.get("/sign-in")
    assert [name.lower() for name, _ in headers].count("strict-transport-security") == 1
    assert profile.get("/api/v1/batches", "http")[0] == 403


def check(profile: Profile, folder: Path, services: Sequence[str]) -> None:
    """Do everything once."""
    began = time.monotonic()
    profile.up()
    profile.make_key()
    check_proxy(profile)
    began = say("up", began)
    seed = 1000
    out = folder / "first.zip"
    ended(profile.submit(radiographs(folder / "first", seed), out), out, "first")
    began = say(f"{IMAGES} radiographs through the proxy", began)
    for service in services:
        seed += IMAGES
        out, before = folder / f"{service}.zip", profile.done()
        process = profile.submit(radiographs(folder / service, seed), out)
        while process.poll() is None and profile.done() == before:
            time.sleep(0.2)
        profile.run("kill", "-s", "SIGKILL", service)
        profile.run("start", service)
        ended(process, out, f"{service} killed")
        began = say(f"{service} killed, nothing lost", began)
    seed += IMAGES
    out, before = folder / "upgrade.zip", profile.done()
    with watched(profile) as statuses:
        process = profile.submit(radiographs(folder / "upgrade", seed), out)
        while process.poll() is None and profile.done() == before:
            time.sleep(0.2)
        profile.run("up", "-d", "--no-deps", "--force-recreate", *REPLACED)
        ended(process, out, "upgrade")
    assert set(statuses) == {200}, statuses
    began = say(f"web and workers replaced, {sum(statuses.values())} of as many answers 200", began)
    archive = folder / "backup"
    archive.mkdir(mode=0o777)
    archive.chmod(0o777)
    read = ["run", "--rm", "-T", "-v", f"{archive}:/backup", "migrate", "fractureai"]
    images = profile.done()
    profile.run(*read, "backup", "/backup/all.tar", "--secret-file", "/backup/secret")
    refused = subprocess.run(
        [*profile.compose, *read, "restore", "/backup/all.tar", "--secret-file", "/backup/secret", "--force"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2, refused.stderr
    assert "still runs" in refused.stderr, refused.stderr
    profile.run("down", "-v")
    profile.run("up", "-d", "postgres", "valkey")
    profile.run("run", "--rm", "-T", "migrate")
    profile.run(*read, "restore", "/backup/all.tar", "--secret-file", "/backup/secret", "--force")
    profile.up()
    assert profile.done() == images
    profile.run("exec", "-T", "reconcile", "fractureai", "fsck")
    say("backup brought back into an empty profile", began)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/containers.py", description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="the images are there")
    parser.add_argument("--keep", action="store_true", help="leave the profile running")
    parser.add_argument(
        "-f", "--file", action="append", default=[], help="another file of Compose, after the first"
    )
    parser.add_argument("--kill", default=",".join(KILLED), help="services to kill, with commas")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="fractureai-containers-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        profile = Profile(folder, ["docker-compose.yml", *arguments.file])
        try:
            if not arguments.no_build:
                began = time.monotonic()
                profile.run("build")
                say("images", began)
            check(profile, folder, [service for service in arguments.kill.split(",") if service])
            print("Nothing was lost.")
        finally:
            if not arguments.keep:
                profile.run("down", "-v", check=False)


if __name__ == "__main__":
    main()
