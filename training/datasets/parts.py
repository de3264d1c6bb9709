"""Which body parts a radiograph shows: what two readers saw, as shares between 0 and 1."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.types import Float32Array
from vocabulary.anatomy import PARTS as BODY_PARTS

#: As a radiographer names them, in the order of the networks' outputs.
PARTS = (
    "hand", "wrist", "forearm", "elbow", "humerus", "shoulder",
    "hip", "femur", "knee", "lower_leg", "ankle", "foot",
)  # fmt: skip
FAMILY: Mapping[str, str] = {part: BODY_PARTS[part].family for part in PARTS}
#: The readers' letters; g (upper limb), d (two exposures), x (unclear) and c (trunk) name no part.
_LETTERS = dict(zip("hwfeusptklao", PARTS, strict=True))


@dataclass(frozen=True)
class PartsInView:
    """Of one film.

    Attributes
    ----------
    main
        float32 (12,): each part's share of the readers' votes for the main subject; 0 where nobody named one.
    view
        float32 (12,): 1 where both readers saw the part, one half where one did.
    agreed
        The main subject that both readers named; empty where they differ or named no part.
    """

    main: Float32Array
    view: Float32Array
    agreed: str


def read_parts(path: Path) -> dict[str, PartsInView]:
    """Read `parts.csv`: image_id, main, in_view, maybe, reader_a, reader_b."""
    found = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            main = np.zeros(len(PARTS), np.float32)
            for letters in (row["reader_a"], row["reader_b"]):
                # the first letter that names a part: trunk beside a shoulder is no subject of ours
                named = [_LETTERS[letter] for letter in letters if letter in _LETTERS]
                if named:
                    main[PARTS.index(named[0])] += 1
            both, one = row["in_view"].split(), row["maybe"].split()
            view = np.array([1.0 if p in both else 0.5 if p in one else 0.0 for p in PARTS], np.float32)
            agreed = row["main"] if row["main"] in PARTS else ""
            found[row["image_id"]] = PartsInView(main / max(main.sum(), 1), view, agreed)
    return found
