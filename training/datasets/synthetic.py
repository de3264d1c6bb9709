"""Phantoms as examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.types import UInt8Array
from training.datasets.example import Example
from training.phantoms import make_phantom


def phantom_examples(
    regions: Sequence[str], count: int, first_seed: int
) -> tuple[tuple[Example, ...], list[UInt8Array]]:
    """Make `count` phantoms for each region, every second one fractured.

    Returns
    -------
    tuple of Example
        Marked by the trait ``phantom``.
    list of uint8 (height, width)
    """
    examples, pictures = [], []
    for region in regions:
        for seed in range(first_seed, first_seed + count):
            phantom = make_phantom(seed, region, fracture=seed % 2 == 0)
            height, width = phantom.pixels.shape
            outline = np.asarray(phantom.polygon, np.float32).reshape(-1, 2) / np.float32([width, height])
            name = f"phantom-{region}-{seed}"
            examples.append(
                Example(
                    name,
                    Path(name),
                    (region,),
                    phantom.fractured,
                    name,
                    hashlib.sha256(phantom.pixels.tobytes()).hexdigest(),
                    (outline,) if len(outline) else (),
                    {"phantom": "1"},
                )
            )
            pictures.append(phantom.pixels)
    return tuple(examples), pictures
