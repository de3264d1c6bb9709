"""Plays the Helm chart's pods by podman: ``python scripts/kube_play.py --podman PODMAN``.

Helm's own engine renders the chart; Postgres, Valkey and an S3 store run beside as plain containers, as they
come from outside in a cluster; ``podman kube play`` runs migration, web, workers and `reconcile`; the client
of the image sends 20 radiographs and waits. Ends with 0 when all were read, with 77 where there is no podman.
The images are those that `scripts/podman.sh` builds. What podman 4.3 does not know is written otherwise
before it is played, and nothing else: see `playable`.
"""

from __future__ import annotations

import argparse
import copy
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "fractureai-kube"
BESIDE = ("postgres-rw", "valkey", "s3")
PLAYED = ("web", "worker-cpu", "worker-score", "worker-report", "reconcile")
ADDRESS = "http://demo-web:8000"  # a pod's name is its host's on podman's network
VERSION = (ROOT / "docker-compose.yml").read_text().partition("fractureai-read:")[2].split()[0]
READ = f"docker.io/library/fractureai-read:{VERSION}"
POSTGRES, VALKEY, BASE = "localhost/postgres", "localhost/valkey", "localhost/debian"  # by scripts/podman.sh
IMAGES = 20
SKIPPED = 77
Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Return the chart's pods: the migration, then those of `PLAYED`."""
    import helm_python as helm

    values = {
        "image": {"registry": "docker.io/library/", "pullPolicy": "Never"},
        "publicUrl": ADDRESS,
        "blobs": {"url": "s3://fractureai?endpoint=http://s3:8333"},
        "networkPolicy": {"enabled": False},
        "ingress": {"enabled": False},
        "settings": {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"},
    }
    with helm.Chart.load(str(ROOT / "deploy/helm/fractureai")) as chart:
        files = chart.render(values, name="demo", namespace="default")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    every = [each for text in texts for each in yaml.safe_load_all(text) if each]
    templates = {
        each["metadata"]["name"].removeprefix("demo-"): each["spec"]["template"]
        for each in every
        if each["kind"] in {"Deployment", "Job"}
    }
    return [{**templates[name], "name": f"demo-{name}"} for name in ("migration", *PLAYED)]


def playable(template: Manifest, secrets_folder: Path) -> Manifest:
    """Return a pod as podman 4.3 takes it.

    It knows no projected volumes, nor decodes a Secret that is mounted: a folder of the host holds the files.
    It runs no timers without systemd, so that probes are left out; limits need cgroups' controllers, which a
    machine in a machine may not have; it would bind each port of a container to the host's.
    """
    spec = copy.deepcopy(template["spec"])
    (container,) = spec["containers"]
    for part in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "resources", "ports"):
        container.pop(part, None)
    for volume in spec["volumes"]:
        if "projected" in volume:
            del volume["projected"]
            volume["hostPath"] = {"path": str(secrets_folder), "type": "Directory"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": template["name"], "labels": template["metadata"]["labels"]},
        "spec": spec,
    }


class Podman:
    """podman, and what was started by it."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run it; return what it prints."""
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def beside(self, name: str, *arguments: str) -> None:
        """Start a container beside the pods, by its name on their network."""
        self.run(
            "run", "-d", "--name", f"{NETWORK}-{name}", "--network", f"{NETWORK}:alias={name}", *arguments
        )

    def play(self, pod: Manifest) -> None:
        """Play a pod."""
        file = self.folder / f"{pod['metadata']['name']}.yaml"
        file.write_text(yaml.safe_dump(pod))
        self.run("kube", "play", "--network", NETWORK, str(file))

    def remove(self) -> None:
        """Remove everything."""
        for name in ("migration", *PLAYED):
            self.run("pod", "rm", "-f", f"demo-{name}", check=False)
        for name in BESIDE:
            self.run("rm", "-f", "-v", f"{NETWORK}-{name}", check=False)
        self.run("network", "rm", "-f", NETWORK, check=False)


def wait_for(what: str, ask: Any, seconds: float = 900.0) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(1)


def start_beside(podman: Podman, passwords: dict[str, str], weed: str) -> None:
    """Start what comes from outside in a cluster: Postgres, Valkey, S3."""
    database = {"USER": "fractureai", "DB": "fractureai", "PASSWORD": passwords["database_owner_password"]}
    given = [part for name, value in database.items() for part in ("-e", f"POSTGRES_{name}={value}")]
    podman.beside("postgres-rw", *given, POSTGRES)
    broker = ["valkey-server", "--requirepass", passwords["broker_password"], "--appendonly", "yes"]
    podman.beside("valkey", VALKEY, *broker)
    config = podman.folder / "s3.json"
    key = {"accessKey": "demo", "secretKey": "demo"}
    allowed = ["Admin", "Read", "Write", "List", "Tagging"]
    config.write_text(
        json.dumps({"identities": [{"name": "demo", "credentials": [key], "actions": allowed}]})
    )
    store = [
        "/weed",
        "-v=0",
        "server",
        "-dir=/data",
        "-ip=127.0.0.1",
        "-ip.bind=0.0.0.0",
        "-s3",
        "-s3.port=8333",
    ]
    mounts = ["-v", f"{weed}:/weed:ro", "-v", f"{config}:/s3.json:ro", "-v", "/data"]
    podman.beside("s3", *mounts, BASE, *store, "-s3.config=/s3.json", "-master.volumeSizeLimitMB=128")
    ready = [
        "exec",
        f"{NETWORK}-postgres-rw",
        "pg_isready",
        "-h",
        "127.0.0.1",
    ]  # over TCP: it is set up before
    wait_for("Postgres", lambda: _ok(podman, *ready), 120)


def radiographs(folder: Path) -> None:
    """Write phantoms."""
    from phantoms.files import write_phantoms

    write_phantoms(folder, IMAGES, seed=7, regions=("hand", "leg"), formats=("png",))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)


def check(podman: Podman, weed: str) -> None:
    """Play everything, and have radiographs read."""
    names = ("database_password", "database_owner_password", "broker_password", "secret_key")
    passwords = {name: secrets.token_hex(16) for name in names}
    folder = podman.folder / "secrets"
    folder.mkdir()
    for name, value in passwords.items():
        (folder / name).write_text(value)
        (folder / name).chmod(0o444)
    podman.run("network", "create", NETWORK)
    start_beside(podman, passwords, weed)
    migration, *pods = (playable(template, folder) for template in manifests())
    podman.play(migration)
    state = ["wait", "demo-migration-migration"]
    assert podman.run(*state).strip() == "0", podman.run("logs", "demo-migration-migration")
    for pod in pods:
        podman.play(pod)
    web = ["exec", "demo-web-web"]
    wait_for("web", lambda: _ok(podman, *web, "alive", "http"), 300)
    scopes = [part for scope in ("submit", "read") for part in ("--scope", scope)]
    keys = ["fractureai", "keys", "add", "check", "--for", "admin@localhost", *scopes]
    key = podman.run(*web, *keys).strip().splitlines()[-1]
    images = podman.folder / "images"
    radiographs(images)
    submit = ["fractureai", "submit", "/images", "--wait", "--json", "--timeout", "1800"]
    given = [
        "-e",
        f"FRACTUREAI_URL={ADDRESS}",
        "-e",
        f"FRACTUREAI_API_KEY={key}",
        "-e",
        "XDG_STATE_HOME=/tmp",
    ]
    told = podman.run(
        "run", "--rm", "--network", NETWORK, "-v", f"{images}:/images:ro", *given, READ, *submit
    )
    counts = json.loads(told)["batch"]["counts"]
    assert counts["done"] == counts["total"] == IMAGES, counts
    for pod in PLAYED:
        running = podman.run("pod", "inspect", "-f", "{{.State}}", f"demo-{pod}").strip()
        assert running == "Running", (pod, running)
    print(f"kube play: {IMAGES} of {IMAGES} read; pods: {', '.join(PLAYED)}")


def _ok(podman: Podman, *arguments: str) -> bool:
    done = subprocess.run([podman.program, *arguments], capture_output=True, check=False)
    return done.returncode == 0


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python scripts/kube_play.py", description=__doc__)
    parser.add_argument("--podman", default="podman", help="the program; scripts/podman.sh writes one")
    parser.add_argument("--keep", action="store_true", help="leave the pods running")
    arguments = parser.parse_args()
    if shutil.which(arguments.podman) is None:
        print(f"skipped: no {arguments.podman}", file=sys.stderr)
        raise SystemExit(SKIPPED)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="fractureai-kube-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        podman = Podman(arguments.podman, folder)
        try:
            check(podman, str(Path(sys.executable).with_name("weed").resolve()))
        finally:
            if not arguments.keep:
                podman.remove()


if __name__ == "__main__":
    main()
