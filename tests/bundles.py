"""An untrained bundle: real networks and a real manifest, made in seconds, that says nothing sensible."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

REGIONS = ["hand", "leg", "hip", "shoulder"]
NAME = "untrained-1"


def write_untrained_bundle(
    folder: Path, name: str = NAME, *, seed: int = 7, size: int = 96, min_probability: float = 0.0
) -> Path:
    """Write a bundle of two small MobileNetV2 with seeded random weights; by default it reads every image."""
    import keras
    import numpy as np

    from models import architectures
    from models.scorer import Reference

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    region = architectures.region_network("mobilenet_v2_0.35", size, len(REGIONS))
    region.save(folder / "region.keras")
    fracture = architectures.fracture_network("mobilenet_v2_0.35", size)
    fracture.save(folder / "pooled.keras")
    width = int(region.get_layer(architectures.FEATURES).output.shape[-1])
    Reference(
        np.zeros(width, np.float32), np.eye(width, 4, dtype=np.float32), np.zeros((1, 4), np.float32), 1
    ).write(folder / "reference.npz")
    (folder / "card.md").write_text("# Untrained\n\nFor tests alone.\n")

    def entry(file: str, **more: object) -> dict[str, object]:
        return {"file": file, "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(), **more}

    map_size = int(fracture.get_layer(architectures.ACTIVATION).output.shape[1])
    network = {"architecture": "mobilenet_v2_0.35", "input_size": size}
    manifest = {
        "format": 2,
        "name": name,
        "label_meaning": "fractured",
        "regions": REGIONS,
        "region_network": "region",
        "networks": {
            "region": entry("region.keras", **network, map_size=0),
            "pooled": entry("pooled.keras", **network, map_size=map_size),
        },
        "models": {
            region_name: {
                "network": "pooled",
                "calibration": {"slope": 1.0, "intercept": 0.0, "prevalence": 0.2},
                "thresholds": {"low": 0.3, "high": 0.6},
                "pooled": region_name in {"hip", "shoulder"},
                "may_say_negative": True,
            }
            for region_name in REGIONS
        },
        "routing": {"min_probability": min_probability, "max_distance": None, "second_region": 0.99},
        "reference": entry("reference.npz"),
        "card": entry("card.md"),
        "limits": ["It is untrained."],
        "trained_on": "nothing",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder
