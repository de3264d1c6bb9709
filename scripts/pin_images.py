"""Pins the container images by digest: ``python scripts/pin_images.py``, where Docker and a network are.

A tag can be moved; a digest cannot. The digests are those that Docker itself checked when it pulled the
images by the tags of docker-compose.yml and the Dockerfile. They are written to `docker-compose.digests.yml`,
which Compose reads beside the main file when `.env` says so:
``COMPOSE_FILE=docker-compose.yml:docker-compose.digests.yml``. Keep that file with the installation.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docker-compose.digests.yml"


def digest_of(image: str) -> str:
    """Pull an image by its tag and return its name with the digest.

    Raises
    ------
    subprocess.CalledProcessError
        Docker cannot pull it.
    ValueError
        Docker states no digest.
    """
    subprocess.run(["docker", "pull", "--quiet", image], check=True, stdout=subprocess.DEVNULL)
    told = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for pinned in json.loads(told):
        if re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", pinned):
            return str(pinned)
    raise ValueError(f"Docker states no digest of {image}")


def main() -> None:
    """Write the override."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    pinned_base = digest_of(base[1])
    pinned: dict[str, dict[str, object]] = {}
    for name, service in services.items():
        if "build" in service:
            pinned[name] = {"build": {"args": {"PYTHON_IMAGE": pinned_base}}}
        else:
            pinned[name] = {"image": digest_of(service["image"])}
    OUT.write_text(yaml.safe_dump({"services": pinned}, sort_keys=False))
    sys.stdout.write(f"{OUT.name}: {len(pinned)} services\n")


if __name__ == "__main__":
    main()
