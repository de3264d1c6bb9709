"""A bundle: the region network, the fracture networks, how they are calibrated and cut, and their card.

Immutable: `manifest.json` pins every other file by sha256, and its own sha256 is the bundle's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pipeline.earned import negative_of
from pipeline.routing import route
from pipeline.triage import PICTURE_FLAGS
from pipeline.types import (
    PlaceRules,
    Platt,
    RegionModel,
    Route,
    RoutingRules,
    Thresholds,
)
from vocabulary.reasons import Reason

#: What is written. Format 1 has no families, heads, evidence or suspected places.
FORMAT = 2
READABLE_FORMATS = frozenset({1, 2})
MANIFEST = "manifest.json"


class BundleError(ValueError):
    """The bundle is incomplete, altered, or of a format that this version does not know."""


class UnknownFormat(BundleError):
    """A newer version wrote the bundle; that one can read it."""


class Stated(Protocol):
    """What header and manifest say of an image; '' where they are silent."""

    @property
    def body_part(self) -> str: ...  # noqa: D102
    @property
    def view(self) -> str: ...  # noqa: D102
    @property
    def modality(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Network:
    """One file of weights.

    Attributes
    ----------
    input_size
        Side of the square input, pixels.
    map_size
        Side of the class-activation map; 0 for the region network.
    mirrored
        Read every picture as it is and mirrored, and take the mean: twice the work.
    head
        Which of the file's fracture outputs this is; None for a file with one. Networks that share a file
        share its trunk.
    partner
        Another network of the bundle that looks at the same pictures, at its own input size; '' for none.
        The logit is then `weights[0]` times this network's and `weights[1]` times the partner's.
    """

    name: str
    path: Path
    sha256: str
    architecture: str
    input_size: int
    map_size: int
    mirrored: bool = False
    head: int | None = None
    partner: str = ""
    weights: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes
    ----------
    sha256
        Of `manifest.json`, hex.
    label_meaning
        What a positive means, such as ``"fractured"``; every page and report uses this word.
    regions
        In the order of the region network's outputs.
    families
        Region to the family that it belongs to, such as ``wrist`` to ``arm``; empty in format 1.
    views
        The regions that the region network tells in view, several at once, in the order of that output;
        empty where it does not.
    places
        How suspected places are drawn; None where the bundle has not earned them.
    reference
        `.npz` with what the feature distance is measured against.
    limits
        Sentences for every report.
    """

    folder: Path
    name: str
    sha256: str
    label_meaning: str
    regions: tuple[str, ...]
    models: Mapping[str, RegionModel]
    routing: RoutingRules
    region_network: str
    networks: Mapping[str, Network]
    reference: Path
    limits: tuple[str, ...]
    trained_on: str
    card: str
    manifest: Mapping[str, Any]
    families: Mapping[str, str] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    places: PlaceRules | None = None

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """All distinct sides of the pictures that are asked for, ascending."""
        return tuple(sorted({self.input_size(name) for name in self.networks}))

    @property
    def region_input_size(self) -> int:
        """Input side of the region network."""
        return self.networks[self.region_network].input_size

    def input_size(self, network: str) -> int:
        """Return the side of the pictures that a network reads: the larger one's, where two read together."""
        read = self.networks[network]
        partner = self.networks[read.partner] if read.partner else read
        return max(read.input_size, partner.input_size)

    def model_for(self, region: str) -> RegionModel | None:
        """Return how a region is read, or None if this bundle does not read it."""
        return self.models.get(region)

    def route(
        self, probabilities: Mapping[str, float], distance: float, stated: Stated, flags: Iterable[Reason]
    ) -> Route:
        """Decide which network reads an image, or why none does.

        Parameters
        ----------
        probabilities, distance
            What the region network says: by region, and how far the picture is from what it knows.
        stated
            What header and manifest say of the image.
        flags
            Of the picture.
        """
        return route(
            probabilities,
            distance,
            self.routing,
            body_part=stated.body_part,
            view=stated.view,
            modality=stated.modality,
            picture=sorted(PICTURE_FLAGS & set(flags)),
            regions=tuple(region for region in self.regions if self.model_for(region)),
            families=self.families,
        )


def _member(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Check one pinned file and return its path."""
    name = str(entry["file"])
    if PurePosixPath(name).name != name or name in {"", ".", ".."}:
        raise BundleError(f"the bundle names a file outside itself: {name!r}")
    path = folder / name
    if not path.is_file():
        raise BundleError(f"the bundle's file {name} is missing")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry["sha256"]:
        raise BundleError(f"the bundle's file {name} was altered: sha256 {found}, not {entry['sha256']}")
    return path


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify every sha256.

    Raises
    ------
    BundleError
        A file is missing or altered, or the manifest does not fit together.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(raw)
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} holds no readable {MANIFEST}: {error}") from error
    if manifest.get("format") not in READABLE_FORMATS:
        known = " or ".join(map(str, sorted(READABLE_FORMATS)))
        raise UnknownFormat(f"bundle format {manifest.get('format')!r} is not {known}")
    try:
        return _assembled(folder, manifest, hashlib.sha256(raw).hexdigest())
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the manifest of {folder.name} is incomplete: {error!r}") from error


def _assembled(folder: Path, manifest: Mapping[str, Any], sha256: str) -> Bundle:
    networks = {
        name: Network(
            name,
            _member(folder, entry),
            entry["sha256"],
            entry["architecture"],
            int(entry["input_size"]),
            int(entry["map_size"]),
            bool(entry.get("mirrored", False)),
            entry.get("head"),
            entry.get("partner", ""),
            tuple(entry.get("weights", (1.0, 0.0))),
        )
        for name, entry in manifest["networks"].items()
    }
    for network in networks.values():
        partner = networks.get(network.partner, network)
        if network.partner and (partner is network or partner.partner):
            raise BundleError(
                f"the partner of network {network.name} is no other plain network of the bundle"
            )
    models = {
        region: RegionModel(
            region,
            entry["network"],
            Platt(**entry["calibration"]),
            Thresholds(**entry["thresholds"]),
            bool(entry["pooled"]),
            *negative_of(manifest, region),
        )
        for region, entry in manifest["models"].items()
    }
    for region, model in models.items():
        if model.network not in networks or region not in manifest["regions"]:
            raise BundleError(
                f"region {region} is read by an unknown network or unknown to the region network"
            )
        if not 0 <= model.thresholds.low <= model.thresholds.high <= 1:
            raise BundleError(f"the thresholds of {region} are not 0 <= low <= high <= 1")
    if manifest["region_network"] not in networks:
        raise BundleError("the region network is not among the networks")
    if "fitted_on" in manifest:
        _member(folder, manifest["fitted_on"])
    if "looks" in manifest:
        _member(folder, manifest["looks"])
    return Bundle(
        folder=folder,
        name=manifest["name"],
        sha256=sha256,
        label_meaning=manifest["label_meaning"],
        regions=tuple(manifest["regions"]),
        models=models,
        routing=RoutingRules(**manifest["routing"]),
        region_network=manifest["region_network"],
        networks=networks,
        reference=_member(folder, manifest["reference"]),
        limits=tuple(manifest["limits"]),
        trained_on=manifest["trained_on"],
        card=_member(folder, manifest["card"]).read_text(),
        manifest=manifest,
        families=manifest.get("families", {}),
        views=tuple(manifest.get("views", ())),
        places=PlaceRules(**manifest["places"]) if manifest.get("places") else None,
    )
