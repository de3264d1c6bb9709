"""The images of one study to one study finding: as bad as its worst image, never the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.triage import may_be_negative
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import worst_of


@dataclass(frozen=True)
class ImageOutcome:
    """How one image of a study ended.

    Attributes
    ----------
    triage, probability
        Of its finding; None when the image was not done, the probability also when it was not assessable.
    reasons
        Why it was not assessed or is flagged.
    """

    status: ImageStatus
    triage: Triage | None = None
    probability: float | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def effective_triage(self) -> Triage:
        """Triage as the study counts it: an image that is not done was not assessed."""
        if self.status is not ImageStatus.DONE or self.triage is None:
            return Triage.NOT_ASSESSABLE
        if self.triage is Triage.NEGATIVE and not may_be_negative(self.reasons):
            return Triage.DOUBT
        return self.triage


@dataclass(frozen=True)
class StudyFinding:
    """What is said of a whole study.

    Attributes
    ----------
    reasons
        Those of the worst image, then STUDY_INCOMPLETE when another image, or one that is not done, was not
        assessed.
    worst
        Index of the image that decides.
    """

    triage: Triage
    reasons: tuple[Reason, ...]
    worst: int


def study_finding(images: Sequence[ImageOutcome]) -> StudyFinding:
    """Return the study's finding: positive > doubt > not_assessable > negative.

    *Negative* needs every image done and assessed. Among equals the most probable image decides, then the
    first. Copies (identical bytes twice in one study) are left out by the caller.

    Raises
    ------
    ValueError
        There is no image.
    """
    if not images:
        raise ValueError("a study has at least one image")

    worst = worst_of([(image.effective_triage, image.probability) for image in images])
    decided = images[worst]
    missing = [image for image in images if image.effective_triage is Triage.NOT_ASSESSABLE]
    # the only image, done but not readable, says itself why
    alone = len(images) == 1 and decided.status is ImageStatus.DONE
    reasons = decided.reasons
    if missing and not alone and Reason.STUDY_INCOMPLETE not in reasons:
        reasons = (*reasons, Reason.STUDY_INCOMPLETE)
    return StudyFinding(decided.effective_triage, reasons, worst)
