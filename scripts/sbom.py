"""Writes the software bill of materials, in CycloneDX 1.6: ``python scripts/sbom.py [--out FILE]``.

What is listed comes from the files that an installation is made of: the lock of the image (names, versions
and hashes of Python packages), the base image and Debian packages of the Dockerfile, the images of
docker-compose.yml, and others' files in this repository (a script, fonts). Nothing is looked up anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
#: Others' files in this repository: pattern, name, version, licence.
VENDORED = (
    ("web/static/vendor/tus-js-client-*.min.js", "tus-js-client", "4.3.1", "MIT"),
    ("store/accounts/common_passwords.txt.gz", "zxcvbn", "4.5.0", "MIT"),
    ("pipeline/report/fonts/Inter-*.woff2", "Inter", "", "OFL-1.1"),
    ("pipeline/report/fonts/noto/NotoS*.woff2", "Noto", "2020-12-25, CJK 2022-01-27", "OFL-1.1"),
)
_licenses = LicenseFactory()


def locked(lock: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """Yield each requirement of a lock with the SHA-256 hashes that are accepted for it."""
    for entry in re.split(r"\n(?=\S)", lock.read_text().strip()):
        stated, *hashes = re.split(r"\s*\\?\s+--hash=sha256:", entry)
        if stated and not stated.startswith("#"):
            yield Requirement(stated.strip().rstrip("\\").strip()), hashes


def _license_of(name: str) -> str | None:
    """Return the licence that an installed package states as an SPDX expression, if it does."""
    try:
        return importlib.metadata.metadata(name).get("License-Expression")
    except importlib.metadata.PackageNotFoundError:
        return None


def python_packages(lock: Path) -> Iterator[Component]:
    """Yield the packages of a lock."""
    for requirement, hashes in locked(lock):
        version = next(iter(requirement.specifier)).version
        license_ = _license_of(requirement.name)
        purl = PackageURL("pypi", None, requirement.name, version)
        yield Component(
            name=requirement.name,
            version=version,
            purl=purl,
            bom_ref=str(purl),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in hashes],
            licenses=[_licenses.make_from_string(license_)] if license_ else [],
        )


def images(compose: str, dockerfile: str) -> Iterator[Component]:
    """Yield the container images of others."""
    named = re.findall(r"^\s+image: (\S+)$", compose, re.MULTILINE)
    named += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    for image in sorted(name for name in named if not name.startswith("fractureai")):
        name, _, tagged = image.partition(":")
        version, _, digest = tagged.partition("@")
        purl = PackageURL(
            "oci", None, name.rpartition("/")[2], digest or None, {"repository_url": name, "tag": version}
        )
        yield Component(
            name=name, version=version, type=ComponentType.CONTAINER, purl=purl, bom_ref=f"image:{image}"
        )


def debian_packages(dockerfile: str) -> Iterator[Component]:
    """Yield what the Dockerfile installs from Debian; the base image says which version."""
    for line in re.findall(r"--no-install-recommends ([^\\\n]+)", dockerfile):
        for name in line.split():
            yield Component(name=name, purl=PackageURL("deb", "debian", name), bom_ref=f"deb:{name}")


def vendored() -> Iterator[Component]:
    """Yield others' files that lie in this repository, with their hashes."""
    for pattern, name, version, license_ in VENDORED:
        for path in sorted(ROOT.glob(pattern)):
            yield Component(
                name=name,
                version=version or None,
                type=ComponentType.FILE,
                bom_ref=f"file:{path.relative_to(ROOT)}",
                hashes=[
                    HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())
                ],
                licenses=[_licenses.make_from_string(license_)],
            )


def bill(lock: Path, version: str) -> str:
    """Return the document."""
    bom = Bom()
    root = Component(name="fractureai", version=version, type=ComponentType.APPLICATION, bom_ref="fractureai")
    bom.metadata.component = root
    compose = (ROOT / "docker-compose.yml").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    for component in (
        *python_packages(lock),
        *images(compose, dockerfile),
        *debian_packages(dockerfile),
        *vendored(),
    ):
        bom.components.add(component)
    bom.register_dependency(root, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def main() -> None:
    """Write the bill of one lock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements-cpu.lock")
    parser.add_argument("--out", type=Path, default=Path("sbom.cdx.json"))
    options = parser.parse_args()
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    options.out.write_text(bill(options.lock, version[1]) + "\n")
    print(f"{options.out}: {sum(1 for _ in locked(options.lock))} Python packages")


if __name__ == "__main__":
    main()
