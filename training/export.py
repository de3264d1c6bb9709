"""Writing a bundle: weights, reference statistics, card and the manifest that pins them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import architectures  # first: it chooses the backend of keras
from models.bundle import FORMAT, MANIFEST, Bundle, Network, load_bundle
from models.fitted_on import digests_of, looks_of, written
from models.scorer import Reference
from pipeline.types import PlaceRules, RegionModel, RoutingRules

#: What `training.reading_bundle` adds to a manifest.
_FACTS = ("command", "joined", "split", "figures")


@dataclass(frozen=True)
class TrainedNetwork:
    """A fitted Keras network and what the manifest says of it.

    `heads` names its fracture outputs where it has several: each is a network of the bundle, and all share
    the file.
    """

    model: Any
    architecture: str
    input_size: int
    mirrored: bool = False
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class BundleContent:
    """Everything that goes into a bundle.

    Attributes
    ----------
    networks
        Name to network; `region_network` names the one that tells regions.
    kept
        Networks of other bundles, whose files are taken over as they are; heads of one file share it.
    partners
        By network: its partner and the weights of both logits, see `models.bundle.Network`.
    card
        Markdown.
    fitted_on
        sha256 of the images that networks, calibration and thresholds were fitted on.
    looks
        By sha256, the look of each of them (`pipeline.lookalikes`), by which copies of them are known.
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
    fitted_on: Sequence[str]
    looks: Mapping[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    views: Sequence[str] = ()
    places: PlaceRules | None = None
    kept: Mapping[str, Network] = field(default_factory=dict)
    partners: Mapping[str, tuple[str, tuple[float, float]]] = field(default_factory=dict)


def taken_over(old: Bundle, name: str) -> BundleContent:
    """Return what a bundle of another name holds when all is as in an older one, its networks' files too."""
    return BundleContent(
        name=name,
        label_meaning=old.label_meaning,
        regions=old.regions,
        region_network=old.region_network,
        networks={},
        models=old.models,
        routing=old.routing,
        reference=Reference.read(old.reference),
        limits=old.limits,
        trained_on=old.trained_on,
        card=old.card,
        fitted_on=sorted(digests_of(old)),
        looks=looks_of(old),
        facts={key: old.manifest[key] for key in _FACTS if key in old.manifest},
        families=old.families,
        views=old.views,
        places=old.places,
        kept=old.networks,
        partners={n.name: (n.partner, n.weights) for n in old.networks.values() if n.partner},
    )


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
    networks: dict[str, dict[str, Any]] = {}
    for name, network in content.networks.items():
        path = part / f"{name}.keras"
        save_compact(network.model, path)
        entry = {
            "file": path.name,
            "sha256": _sha256(path),
            "architecture": network.architecture,
            "input_size": network.input_size,
            "map_size": _map_size(network.model),
            "mirrored": network.mirrored,
            "parameters": int(network.model.count_params()),
        }
        networks[name] = entry
        for number, head in enumerate(network.heads):
            networks[head] = {**entry, "head": number}
    files: dict[str, str] = {}
    for name, kept in content.kept.items():
        if kept.sha256 not in files:
            files[kept.sha256] = f"{name}.keras"
            shutil.copyfile(kept.path, part / f"{name}.keras")
        networks[name] = {
            "file": files[kept.sha256],
            "sha256": kept.sha256,
            "architecture": kept.architecture,
            "input_size": kept.input_size,
            "map_size": kept.map_size,
            "mirrored": kept.mirrored,
        }
        if kept.head is not None:
            networks[name]["head"] = kept.head
    for name, (partner, weights) in content.partners.items():
        networks[name] |= {"partner": partner, "weights": list(weights)}
    content.reference.write(part / "reference.npz")
    (part / "card.md").write_text(content.card)
    (part / "fitted_on.txt").write_text("".join(f"{digest[:12]}\n" for digest in sorted(content.fitted_on)))
    (part / "looks.bin").write_bytes(written(content.looks.items()))
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
                "may_say_negative": model.may_say_negative,
                "evidence": asdict(model.evidence) if model.evidence else None,
            }
            for region, model in content.models.items()
        },
        "families": dict(content.families),
        "views": list(content.views),
        "places": asdict(content.places) if content.places else None,
        "routing": asdict(content.routing),
        "reference": {"file": "reference.npz", "sha256": _sha256(part / "reference.npz")},
        "fitted_on": {"file": "fitted_on.txt", "sha256": _sha256(part / "fitted_on.txt")},
        "looks": {"file": "looks.bin", "sha256": _sha256(part / "looks.bin")},
        "card": {"file": "card.md", "sha256": _sha256(part / "card.md")},
        "limits": list(content.limits),
        "trained_on": content.trained_on,
        **content.facts,
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return load_bundle(folder)


def save_compact(model: Any, path: Path) -> None:
    """Save a network with its weights rounded to 12 significant bits, deflated.

    The file shrinks by a third, the weights change by at most 0.02%; figures are measured on what is saved.
    """
    for layer in model.layers:
        layer.set_weights([_rounded(weights) for weights in layer.get_weights()])
    stored = path.with_suffix(".stored.keras")
    # a fresh model of the same graph: one that was fitted would drag its optimizer along
    keras.Model(model.input, model.output, name=model.name).save(stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out,
    ):
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name == "metadata.json":
                data = re.sub(rb'"date_saved": "[^"]*"', b'"date_saved": ""', data)
            if name == "config.json":
                data = _without_addresses(data)
            out.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)
    stored.unlink()


def _without_addresses(config: bytes) -> bytes:
    """Replace the addresses by which Keras names shared objects: they would differ in every build."""
    seen: dict[bytes, int] = {}
    pattern = rb'(?<="shared_object_id": )\d+'
    return re.sub(pattern, lambda match: str(seen.setdefault(match[0], len(seen))).encode(), config)


def _rounded(weights: Any) -> Any:
    if weights.dtype != np.float32:
        return weights
    bits = np.ascontiguousarray(weights).view(np.uint32)
    return ((bits + np.uint32(0x800)) & np.uint32(0xFFFFF000)).view(np.float32).reshape(weights.shape)


def _map_size(model: Any) -> int:
    """Return the side of a network's attention map; 0 for one that only tells regions."""
    if architectures.LOCAL not in model.output:
        return 0
    return int(model.get_layer(architectures.ACTIVATION).output.shape[1])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
