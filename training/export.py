"""Writing a bundle: weights, reference statistics, card and the manifest that pins them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models import architectures
from models.bundle import FORMAT, MANIFEST, Bundle, load_bundle
from models.scorer import Reference
from pipeline.types import RegionModel, RoutingRules


@dataclass(frozen=True)
class TrainedNetwork:
    """A fitted Keras network and what the manifest says of it."""

    model: Any
    architecture: str
    input_size: int


@dataclass(frozen=True)
class BundleContent:
    """Everything that goes into a bundle.

    Attributes
    ----------
    networks
        Name to network; `region_network` names the one that tells regions.
    card
        Markdown.
    facts
        Further entries of the manifest: training data, split, metrics, overlap hashes.
    """

    name: str
    label_meaning: str
    regions: Sequence[str]
    region_network: str
    networks: Mapping[str, TrainedNetwork]
    models: Mapping[str, RegionModel]
    routing: RoutingRules
    reference: Reference
    limits: Sequence[str]
    trained_on: str
    card: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_bundle(content: BundleContent, folder: Path) -> Bundle:
    """Write a bundle to `folder`, replacing an unfinished one, and read it back verified.

    Raises
    ------
    FileExistsError
        A bundle stands there already: bundles are immutable, a new version is a new name.
    """
    if (folder / MANIFEST).exists():
        raise FileExistsError(f"{folder} holds a bundle already; give the new one a new name")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    networks = {}
    for name, network in content.networks.items():
        path = part / f"{name}.keras"
        network.model.save(path)
        networks[name] = {
            "file": path.name,
            "sha256": _sha256(path),
            "architecture": network.architecture,
            "input_size": network.input_size,
            "map_size": 0 if name == content.region_network else _map_size(network.model),
            "parameters": int(network.model.count_params()),
        }
    content.reference.write(part / "reference.npz")
    (part / "card.md").write_text(content.card)
    manifest = {
        "format": FORMAT,
        "name": content.name,
        "label_meaning": content.label_meaning,
        "regions": list(content.regions),
        "region_network": content.region_network,
        "networks": networks,
        "models": {
            region: {
                "network": model.network,
                "pooled": model.pooled,
                "calibration": asdict(model.calibration),
                "thresholds": asdict(model.thresholds),
            }
            for region, model in content.models.items()
        },
        "routing": asdict(content.routing),
        "reference": {"file": "reference.npz", "sha256": _sha256(part / "reference.npz")},
        "card": {"file": "card.md", "sha256": _sha256(part / "card.md")},
        "limits": list(content.limits),
        "trained_on": content.trained_on,
        **content.facts,
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return load_bundle(folder)


def _map_size(model: Any) -> int:
    return int(model.get_layer(architectures.ACTIVATION).output.shape[1])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
