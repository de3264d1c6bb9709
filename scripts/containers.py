"""Builds the images and brings the whole profile up: ``python scripts/containers.py [--no-build] [--keep]``.

Under Docker, or under podman with Compose's own program (``DOCKER_HOST``). The addresses 127.0.0.1:80 and
:443 must be free. A key comes from the command in the web container, and everything else goes through the TLS
proxy, by the client of this checkout. Each service is killed once during a batch, in the stage that it works
on; web and workers are replaced during one; a backup is brought back into an empty profile. Ends with 0 when
nothing was lost. Run as root it prints the memory that each service had at rest and at its peak.

``--folder FOLDER --keep`` leaves the profile as it is; ``--folder FOLDER --from STEP`` goes on with a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
#: Each service that is killed, and the stages of a chunk in which it is; any stage where none is named
KILLED = {
    "worker-cpu": ("prepare", "explain"),
    "worker-score": ("classify", "detect"),
    "worker-report": ("report",),
    "worker-urgent": ("prepare", "classify", "detect", "explain", "report"),
    "reconcile": (),
    "web": (),
    "valkey": (),
    "postgres": (),
    "proxy": (),
}
REPLACED = ("web", "worker-cpu", "worker-report", "worker-score", "reconcile")
PROJECT = "fractureai-check"
IMAGES = 20
#: Waits within the database until a chunk is in one of these stages: a question from outside would be late
IN_STAGE = """DO $$ BEGIN FOR i IN 1..6000 LOOP
    PERFORM FROM work WHERE kind = 'chunk' AND lease_token IS NOT NULL AND stage = ANY ('{%s}');
    EXIT WHEN FOUND; PERFORM pg_sleep(0.02);
END LOOP; END $$"""
TAKEN_AGAIN = """SELECT sum(taken - 5) FROM work
    WHERE kind = 'chunk' AND batch_id = (SELECT id FROM batches ORDER BY created_at DESC LIMIT 1)"""
FIRST_DONE = """DO $$ BEGIN FOR i IN 1..30000 LOOP
    PERFORM FROM batches WHERE n_done > 0; EXIT WHEN FOUND; PERFORM pg_sleep(0.02);
END LOOP; END $$"""


def _environment() -> str:
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
    return "".join(f'{name}="{value}"\n' for name, value in values.items())


class Profile:
    """One project of Compose with its own settings and volumes."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder, self.certificate, self.key_file = folder, folder / "root.crt", folder / "key"
        self.environment = folder / "env"
        if not self.environment.exists():
            self.environment.write_text(_environment())
        named = [part for file in files for part in ("-f", file)]
        self.compose = ["docker", "compose", "-p", PROJECT, *named, "--env-file", str(self.environment)]

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

    def down(self) -> None:
        """Remove everything, bytes and all; `run` left containers behind that hold volumes."""
        self.run("down", "-v", "--remove-orphans", check=False)
        listed = ["docker", "volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        left = _lines(listed)
        assert not left, left

    def make_key(self) -> None:
        """Take the first administrator's key; the sign-in link stands in the log of `migrate`."""
        assert "/sign-in?token=" in self.run("logs", "--no-log-prefix", "migrate")
        scopes = [part for scope in ("submit", "read") for part in ("--scope", scope)]
        command = ["fractureai", "keys", "add", f"check {secrets.token_hex(3)}", "--for", "admin@localhost"]
        self.key_file.write_text(self.run("exec", "-T", "web", *command, *scopes).strip().splitlines()[-1])

    def get(self, path: str, scheme: str = "https", timeout: float = 5) -> tuple[int, list[tuple[str, str]]]:
        """Ask the proxy; return the status and the headers."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        try:
            url = f"{scheme}://localhost{path}"
            with urllib.request.urlopen(url, context=context, timeout=timeout) as answer:  # noqa: S310 - our own
                return answer.status, list(answer.headers.items())
        except urllib.error.HTTPError as error:
            return error.code, list(error.headers.items())

    def submit(self, films: Path, *options: str) -> subprocess.Popen[str]:
        """Send a folder as a person would, wait for its results and save them beside it."""
        environment = {
            **os.environ,
            "FRACTUREAI_URL": "https://localhost",
            "FRACTUREAI_API_KEY": self.key_file.read_text(),
            "SSL_CERT_FILE": str(self.certificate),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        out = ["--out", str(films.with_suffix(".zip")), "--wait", "--json", "--timeout", "900"]
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", "submit", str(films), *out, *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, statement: str) -> str:
        """Ask the database; return its answer."""
        command = ["psql", "-U", "fractureai", "-d", "fractureai", "-qAtc", statement]
        return self.run("exec", "-T", "postgres", *command).strip()

    def done(self) -> int:
        """Return how many images are done."""
        return int(self.ask("SELECT COALESCE(sum(n_done), 0) FROM batches"))

    def containers(self) -> dict[str, tuple[str, int]]:
        """Return each service's container, and its first process."""
        listed = ["docker", "ps", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        ids = _lines(listed)
        label = '{{index .Config.Labels "com.docker.compose.service"}}'
        asked = ["docker", "inspect", "-f", f"{label} {{{{.Id}}}} {{{{.State.Pid}}}}", *ids]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout if ids else ""
        found = (line.split() for line in told.splitlines())
        return {service: (container, int(pid)) for service, container, pid in found}


class Memory:
    """What each service's processes hold, in MiB: a page that several share counts a part for each."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.rest, self.peak = profile, dict[str, int](), dict[str, int]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now(self, pids: dict[str, int]) -> dict[str, int]:
        """Return it for containers' first processes; one that has ended holds nothing."""
        held = {}
        for service, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                first = psutil.Process(pid)
                processes = [first, *first.children(recursive=True)]
                held[service] = sum(process.memory_full_info().pss for process in processes) >> 20
        return held

    def _watch(self) -> None:
        pids: dict[str, int] = {}
        while not self._stop.wait(1):
            if len(held := self.now(pids)) < max(len(pids), 1):
                pids = {service: pid for service, (_, pid) in self.profile.containers().items()}
            for service, size in held.items():
                self.peak[service] = max(self.peak.get(service, 0), size)

    def at_rest(self) -> None:
        """Note what the services hold, while nothing is read."""
        time.sleep(10)
        self.rest = self.now({service: pid for service, (_, pid) in self.profile.containers().items()})

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for service, peak in sorted(self.peak.items()):
            print(f"{service}: {self.rest.get(service, 0)} MiB at rest, {peak} at the peak", flush=True)


def sizes() -> str:
    """Return how large our images are, each with its base."""
    listed = ["docker", "image", "ls", "--filter", "reference=*fractureai-*", "--format"]
    return ", ".join(_lines([*listed, "{{.Repository}}:{{.Tag}} {{.Size}}"]))


def _lines(command: Sequence[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def radiographs(folder: Path) -> Path:
    """Write phantoms that nobody sent before."""
    from phantoms.files import encode_phantom
    from phantoms.film import make_phantom

    earlier = len([path for path in folder.glob("films-*") if path.is_dir()])
    films = folder / f"films-{earlier}"
    films.mkdir()
    for number in range(IMAGES):
        region = ("hand", "leg")[number % 2]
        phantom = make_phantom(1000 + earlier * IMAGES + number, region, size=(320, 320))
        (films / f"{number:02d}.png").write_bytes(encode_phantom(phantom))
    return films


def ended(process: subprocess.Popen[str], films: Path) -> None:
    """See that every image of a batch is done, and that the ZIP holds each report."""
    told, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{films.name}: submit ended with {process.returncode}\n{told}{errors}")
    counts = json.loads(told)["batch"]["counts"]
    assert counts["done"] == counts["total"] == IMAGES, counts
    with zipfile.ZipFile(films.with_suffix(".zip")) as archive:
        names = archive.namelist()
    assert sum(name.endswith(".pdf") for name in names) == IMAGES, names


@contextlib.contextmanager
def watched(profile: Profile) -> Iterator[list[tuple[float, int, float]]]:
    """Ask for /healthz all the time: when, the status of the answer, 0 for none, and how long it took."""
    answers: list[tuple[float, int, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.25):
            began, status = time.monotonic(), 0
            with contextlib.suppress(OSError):
                status = profile.get("/healthz", timeout=40)[0]
            answers.append((began, status, time.monotonic() - began))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


class Check:
    """What is done with a profile, step by step."""

    def __init__(self, profile: Profile, memory: Memory) -> None:
        self.profile, self.memory = profile, memory
        self.steps: dict[str, Callable[[], str]] = {"up": self.up, "read": self.read}
        for service in KILLED:
            self.steps[f"kill-{service}"] = lambda service=service: self.kill(service)  # type: ignore[misc]
        self.steps |= {"upgrade": self.upgrade, "restore": self.restore}

    def up(self) -> str:
        """Start everything; see what the proxy gives out and what it keeps; read a first image."""
        films, began = radiographs(self.profile.folder), time.monotonic()
        self.profile.up()
        pages = time.monotonic() - began
        for path in ("/metrics", "/readyz", "/readyz/web"):
            assert self.profile.get(path)[0] == 404, path
        _, headers = self.profile.get("/sign-in")
        assert [name.lower() for name, _ in headers].count("strict-transport-security") == 1
        assert self.profile.get("/api/v1/batches", "http")[0] == 403
        self.profile.make_key()
        process = self.profile.submit(films)
        self.profile.ask(FIRST_DONE)
        first = time.monotonic() - began
        ended(process, films)
        return f"pages after {pages:.1f} s, the first image read after {first:.1f}"

    def read(self) -> str:
        """Read a batch, undisturbed."""
        films = radiographs(self.profile.folder)
        ended(self.profile.submit(films), films)
        self.memory.at_rest()
        return f"{IMAGES} radiographs through the proxy, and their ZIP"

    def kill(self, service: str) -> str:
        """Kill a service during a batch; see that nothing is lost."""
        films = radiographs(self.profile.folder)
        container, pid = self.profile.containers()[service]
        urgent = ["--priority", "urgent"] if service == "worker-urgent" else []
        process = self.profile.submit(films, *urgent)
        stages = KILLED[service] or KILLED["worker-urgent"]
        self.profile.ask(IN_STAGE % ",".join(stages))
        if os.geteuid() == 0:  # as when memory runs out: it has to come back by itself
            os.kill(pid, signal.SIGKILL)
        else:
            subprocess.run(["docker", "kill", "-s", "KILL", container], capture_output=True, check=True)
            self.profile.run("start", service)
        early = process.poll() is None
        ended(process, films)
        assert early, "the batch had ended before"
        assert self.profile.containers()[service][1] != pid, f"{service} did not come back"
        return f"nothing lost; stages taken again: {self.profile.ask(TAKEN_AGAIN)}"

    def upgrade(self) -> str:
        """Replace web and workers during a batch."""
        films = radiographs(self.profile.folder)
        with watched(self.profile) as answers:
            process = self.profile.submit(films)
            self.profile.ask(IN_STAGE % ",".join(KILLED["worker-urgent"]))
            self.profile.run("up", "-d", "--no-deps", "--force-recreate", *REPLACED)
            ended(process, films)
        other = [began for began, status, _ in answers if status != 200]
        assert not other, f"{len(other)} of {len(answers)} answers, over {other[-1] - other[0]:.1f} s"
        slowest = max(seconds for _, _, seconds in answers)
        return f"{len(answers)} of as many answers 200, the slowest after {slowest:.1f} s"

    def restore(self) -> str:
        """Bring a backup back into an empty profile, which then reads on."""
        profile, archive = self.profile, self.profile.folder / "backup"
        archive.mkdir(exist_ok=True)
        archive.chmod(0o777)
        (archive / "all.tar").unlink(missing_ok=True)
        (archive / "secret").unlink(missing_ok=True)
        # with --rm podman 4 tells no status; without --no-deps Compose replaces its Postgres each time
        command = ["run", "--no-deps", "-T", "-v", f"{archive}:/backup", "migrate", "fractureai"]
        files = ["/backup/all.tar", "--secret-file", "/backup/secret"]
        images = profile.done()
        profile.run(*command, "backup", *files)
        refused = [*profile.compose, *command, "restore", *files, "--force"]
        told = subprocess.run(refused, cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 2, told.stderr
        assert "still runs" in told.stderr, told.stderr
        profile.down()
        profile.run("up", "-d", "--wait", "postgres", "valkey")
        profile.run("run", "--no-deps", "-T", "migrate")
        profile.run(*command, "restore", *files, "--force")
        profile.up()
        assert profile.done() == images
        profile.run("exec", "-T", "reconcile", "fractureai", "fsck")
        films = radiographs(profile.folder)
        ended(profile.submit(films), films)
        return f"{images} images from the backup, and {IMAGES} read behind them"

    def run(self, first: str) -> None:
        """Do everything from a step on; say what came of each."""
        names = list(self.steps)
        for name in names[names.index(first) :]:
            began = time.monotonic()
            told = self.steps[name]()
            print(f"{name}: {told} ({time.monotonic() - began:.1f} s)", flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/containers.py", description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="the images are there")
    parser.add_argument("--keep", action="store_true", help="leave the profile running")
    parser.add_argument("--folder", type=Path, help="where settings and results stay; else a temporary one")
    parser.add_argument("--from", dest="first", default="up", metavar="STEP", help="go on with this step")
    parser.add_argument(
        "-f", "--file", action="append", default=[], help="another file of Compose, after the first"
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="fractureai-containers-") as name:
        folder = (arguments.folder or Path(name)).resolve()
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        profile = Profile(folder, ["docker-compose.yml", *arguments.file])
        try:
            if not arguments.no_build:
                profile.run("build")
            print(f"images: {sizes()}", flush=True)
            with Memory(profile) as memory:
                Check(profile, memory).run(arguments.first)
            print("Nothing was lost.")
        finally:
            if not arguments.keep:
                profile.down()


if __name__ == "__main__":
    main()
