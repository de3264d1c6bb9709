"""What a data set is: labelled radiographs on disk, who and what they belong to, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float32]


class DatasetError(ValueError):
    """The dataset cannot be used as it is; the message names what is wrong."""


@dataclass(frozen=True)
class Example:
    """One labelled radiograph.

    Attributes
    ----------
    name
        Unique in its data set, and what splits name it by: its path below the data set's root with forward
        slashes, or the image's number where the publisher gives one (FracAtlas).
    path
        Where the file is.
    regions
        Body regions that the picture shows, in lower case.
    positive
        Whether it shows what `Dataset.label_meaning` says.
    group
        Near-duplicates and images of one patient share it; no split divides it.
    sha256
        Of the file as published; empty until somebody has read it.
    polygons
        Outlines of fractures, each float32 (n, 2) of x, y as shares of width and height.
    traits
        What subgroup figures are made by: hardware, multiscan, mixed, views.
    patient
        Empty where the publisher gives none.
    study
        Unique in its data set; its images are read together. Empty where the publisher gives none.
    part
        The part of the data set that the publisher put it in, ``train`` or ``valid``; empty for none.
    """

    name: str
    path: Path
    regions: tuple[str, ...]
    positive: bool
    group: str
    sha256: str
    polygons: tuple[Polygon, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    study: str = ""
    part: str = ""


@dataclass(frozen=True)
class Dataset:
    """Examples, and what was left out and why.

    Attributes
    ----------
    label_meaning
        What a positive means, such as ``"fractured"`` or ``"abnormal"``.
    source
        Citation and licence.
    cautions
        Sentences on what the data cannot teach, for reports and cards.
    shortcuts
        What else than the finding tells positives from negatives in it, for cards.
    """

    name: str
    examples: tuple[Example, ...]
    skipped: Mapping[str, int]
    label_meaning: str = "fractured"
    source: str = ""
    cautions: tuple[str, ...] = ()
    shortcuts: str = ""
