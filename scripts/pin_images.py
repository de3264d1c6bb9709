"""Renews the container images' digests: ``python scripts/pin_images.py``, where Docker and a network are.

A tag can be moved; a digest cannot. docker-compose.yml and the Dockerfile name both. This pulls each image by
its tag and writes the digest that Docker itself checked in the place of the old one; change a tag there to
have a newer version, then run this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Where others' images are named, and how: the name with its tag, and a digest or none.
NAMED = {
    "docker-compose.yml": r"^(    image: )(?!fractureai)([^\s@]+)(@\S+)?$",
    "Dockerfile": r"^(ARG PYTHON_IMAGE=)([^\s@]+)(@\S+)?$",
}


def digest_of(image: str) -> str:
    """Pull an image by its tag and return its digest.

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
        if digest := re.fullmatch(r"\S+@(sha256:[0-9a-f]{64})", pinned):
            return digest[1]
    raise ValueError(f"Docker states no digest of {image}")


def pin(match: re.Match[str]) -> str:
    """Return the line that names an image, with the digest of today."""
    pinned = f"{match[1]}{match[2]}@{digest_of(match[2])}"
    sys.stdout.write(f"{match[2]}: {'as it was' if pinned == match[0] else 'a new digest'}\n")
    return pinned


def main() -> None:
    """Write the digests; nothing is written of a file whose images cannot all be pulled."""
    for name, pattern in NAMED.items():
        path = ROOT / name
        path.write_text(re.sub(pattern, pin, path.read_text(), flags=re.MULTILINE))


if __name__ == "__main__":
    main()
