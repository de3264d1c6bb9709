"""The words of the reading: what travels between the layers, as enums and frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vocabulary.reasons import Reason
from vocabulary.rendering import RENDERING, RenderingCode
from vocabulary.states import Triage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    UInt8Array = npt.NDArray[np.uint8]
    Float16Array = npt.NDArray[np.float16]
    Float32Array = npt.NDArray[np.float32]
else:  # the web process shares these words and has no NumPy; the sandbox's wire asks for each field's type
    UInt8Array = Float16Array = Float32Array = Any


class Rejected(Exception):
    """The input is unusable.

    Parameters
    ----------
    reason
        The stable code.
    detail
        Technical words for the operator's log; never holds file names or patient data.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class Skipped(Exception):
    """The file is valid but holds nothing to read (DICOMDIR, SR, PR, KO); counted, not failed."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class StudyFacts:
    """What is kept of a header or a manifest row: pseudonymised, enough to file a report.

    Attributes
    ----------
    study_date, study_time
        DICOM DA (``YYYYMMDD``) and TM strings, or empty.
    laterality
        ``"L"``, ``"R"``, ``"B"`` or empty when not stated.
    age_years
        Whole years; 90 stands for 90 and more. None when unknown.
    patient_hash
        Hex keyed hash of issuer and PatientID under the site's key, or empty.
    body_part
        BodyPartExamined (0018,0015) as in the header, upper case, or empty.
    modality
        Modality (0008,0060), or empty.
    """

    accession: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    study_date: str = ""
    study_time: str = ""
    body_part: str = ""
    laterality: str = ""
    view: str = ""
    age_years: int | None = None
    patient_hash: str = ""
    modality: str = ""


@dataclass(frozen=True)
class RenderingStep:
    """One step on the way from a file's values to the picture.

    Attributes
    ----------
    detail
        A number, a coding or a keyword of the standard; never a value of the file.
    """

    code: RenderingCode
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The step as a sentence for a person."""
        return RENDERING[self.code].format(self.detail)


@dataclass(frozen=True)
class Radiograph:
    """A decoded image, ready to be shown and read.

    Attributes
    ----------
    pixels
        uint8 array of shape (height, width), 0-255, bone bright, upright (EXIF honoured), never mirrored.
    width, height
        Size in pixels of the original, equal to `pixels`' shape: the frame of attention regions.
    facts
        What the header said; empty for plain images.
    media_type
        Of `stored`: ``image/jpeg``, ``image/png``, ``application/dicom`` ...
    stored
        The pseudonymised bytes to keep instead of the upload.
    flags
        Reasons that a person must know though the image was read.
    rendering
        How the grey values came about, in order.
    """

    pixels: UInt8Array
    width: int
    height: int
    facts: StudyFacts
    media_type: str
    stored: bytes
    flags: tuple[Reason, ...] = ()
    rendering: tuple[RenderingStep, ...] = ()


@dataclass(frozen=True)
class Thresholds:
    """Two operating points on the calibrated probability: below `low` negative, from `high` up positive."""

    low: float
    high: float


@dataclass(frozen=True)
class Platt:
    """Calibration ``p = sigmoid(slope * logit + intercept)`` (Platt 1999).

    `prevalence` is the share of fractured images it was fitted at.
    """

    slope: float
    intercept: float
    prevalence: float


@dataclass(frozen=True)
class SensitivityEvidence:
    """What a region's *negative* rests on: fractures that no weight or threshold was fitted on.

    Attributes
    ----------
    fractures, found
        How many there were, and how many of them the low threshold found.
    lower
        Lower end of the 95% interval of found / fractures (Wilson).
    family_lower
        The same over the region's whole family; None where the region stands alone.
    """

    fractures: int
    found: int
    lower: float
    family_lower: float | None = None


@dataclass(frozen=True)
class RegionModel:
    """How one region is read: by which network, calibrated and cut how.

    Attributes
    ----------
    pooled
        Whether the network serves several regions.
    may_say_negative
        Whether a reading below the low threshold is *negative*; else it is *doubt*.
    evidence
        What that rests on; None in a bundle that does not say.
    """

    region: str
    network: str
    calibration: Platt
    thresholds: Thresholds
    pooled: bool
    may_say_negative: bool = False
    evidence: SensitivityEvidence | None = None


@dataclass(frozen=True)
class PlaceRules:
    """From which score on a suspected place is drawn, and from which it counts as positive.

    Scores are 0-1. `smallest` is the least share of the picture's longer side that a place of an evidence map
    spans. `film` and `evidence` make the score of a box that a network draws, see
    `pipeline.boxes.drawn_places`.
    """

    shown: float
    strong: float
    smallest: float = 0.02
    film: float = 0.0
    evidence: float = 0.0


@dataclass(frozen=True)
class RoutingRules:
    """When an image is read, and when it is not.

    Attributes
    ----------
    min_probability
        Below this for the top region: `Reason.REGION_UNSURE`.
    max_distance
        Feature distance above this: `Reason.UNFAMILIAR_IMAGE`. None switches the test off.
    second_region
        A second region at or above this probability flags `Reason.SEVERAL_REGIONS`.
    across_families
        Only a second region of another family counts, and probabilities are compared by family: a film of a
        forearm shows the wrist too.
    max_foreign
        A region that nothing reads, such as ``other``, at or above this probability:
        `Reason.REGION_UNSUPPORTED`. None: `second_region`.
    """

    min_probability: float
    max_distance: float | None
    second_region: float
    across_families: bool = False
    max_foreign: float | None = None


@dataclass(frozen=True)
class Route:
    """Where an image goes: the region, or why it is not assessed.

    `region` is the most probable one even when the image is not assessable; `not_assessable` then says why.
    `flags` force at least *doubt*: such an image is never negative.
    """

    region: str
    probability: float
    not_assessable: Reason | None
    flags: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class AttentionRegion:
    """Where the model looked, in original pixels; never a fracture box.

    `x`, `y` is the top left corner; `score` is the mean of the heat map inside, 0-1.
    """

    x: int
    y: int
    width: int
    height: int
    score: float


@dataclass(frozen=True)
class SuspectedBox:
    """Where a bundle that has earned it suspects a fracture, in original pixels.

    `x`, `y` is the top left corner; `score` is how sure the network is of it, 0-1; `strong` says whether it
    reaches `PlaceRules.strong`.
    """

    x: int
    y: int
    width: int
    height: int
    score: float
    strong: bool


@dataclass(frozen=True)
class Finding:
    """What one bundle says of one image.

    `probability` is calibrated, 0-1, and None when the image is not assessable. Regions and places are empty
    on a negative.
    """

    region: str
    region_probability: float
    region_probabilities: Mapping[str, float]
    probability: float | None
    triage: Triage
    reasons: tuple[Reason, ...] = ()
    attention_regions: tuple[AttentionRegion, ...] = field(default=())
    suspected_places: tuple[SuspectedBox, ...] = field(default=())
