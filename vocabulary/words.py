"""How findings are called in pages, reports and tables alike, in the bundle's own word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from vocabulary.anatomy import PARTS
from vocabulary.reasons import Reason
from vocabulary.states import TRIAGE_SEVERITY, Answer, Triage

NOTICE = "AI output, to be verified by a clinician"

#: The noun for a bundle's label; a label that is not listed is its own noun.
_NOUNS = {"fractured": "fracture", "abnormal": "abnormality"}

TRIAGE_WORDS = {
    Triage.POSITIVE: "Positive",
    Triage.DOUBT: "In doubt",
    Triage.NOT_ASSESSABLE: "Not assessable",
    Triage.NEGATIVE: "Negative",
}

#: Shapes that tell the triages apart in greyscale and to the colour-blind.
GLYPHS = {Triage.POSITIVE: "▲", Triage.DOUBT: "◆", Triage.NOT_ASSESSABLE: "□", Triage.NEGATIVE: "○"}


class Tone(StrEnum):
    """How grave something looks: page, print and terminal each give it a colour of theirs."""

    ALARM = "alarm"
    CAUTION = "caution"
    UNREAD = "unread"
    CALM = "calm"


TONES = {
    Triage.POSITIVE: Tone.ALARM,
    Triage.DOUBT: Tone.CAUTION,
    Triage.NOT_ASSESSABLE: Tone.UNREAD,
    Triage.NEGATIVE: Tone.CALM,
}

#: Under this age, in years, a patient counts as a child.
ADULT = 18


def worst_of(readings: Sequence[tuple[Triage | None, float | None]]) -> int:
    """Return the index of the image that decides a study, of (triage, probability) in the images' order.

    An image without a triage was not assessed. Among equals the most probable decides, then the first.
    """

    def severity(index: int) -> tuple[int, float]:
        triage, probability = readings[index]
        known = probability if probability is not None else -1.0
        return TRIAGE_SEVERITY[triage or Triage.NOT_ASSESSABLE], known

    return max(range(len(readings)), key=severity)


def shown_flags(
    stored: Iterable[str],
    *,
    reason: str | None,
    region: str | None,
    age_years: int | None,
    study_shared: bool,
) -> tuple[Reason, ...]:
    """Return what a person must know of an image that was read: its own flags, its patient's, its study's.

    Parameters
    ----------
    stored
        The image's own flags.
    reason, region
        Why it is not assessed, and the region that the network took it for. Whether a film is inverted can be
        told of limbs; a chest that is not read need not look like one.
    age_years
        The patient's age; None when it is not known.
    study_shared
        Whether images of another patient or accession number came under the study's identifier.
    """
    flags = [Reason(code) for code in stored]
    if reason == Reason.REGION_UNSUPPORTED and region not in PARTS and Reason.PERHAPS_INVERTED in flags:
        flags.remove(Reason.PERHAPS_INVERTED)
    if age_years is not None and age_years < ADULT:
        flags.append(Reason.NOT_VALIDATED_IN_CHILDREN)
    if study_shared:
        flags.append(Reason.STUDY_IDENTITY_CONFLICT)
    return tuple(dict.fromkeys(flags))


def noun(label_meaning: str) -> str:
    """Return what the bundle looks for, as a noun: ``"fractured"`` gives ``"fracture"``."""
    return _NOUNS.get(label_meaning, label_meaning)


def with_article(label_meaning: str) -> str:
    """Return the noun with its article: ``"a fracture"``, ``"an abnormality"``."""
    thing = noun(label_meaning)
    return f"{'an' if thing[:1].lower() in tuple('aeiou') else 'a'} {thing}"


def headline(triage: Triage, label_meaning: str, *, partly_read: bool = False) -> str:
    """Return the finding in one line, in the bundle's own word.

    Parameters
    ----------
    partly_read
        Of a study that is not assessable though some of its images were read.
    """
    thing = noun(label_meaning)
    if triage is Triage.POSITIVE:
        return f"{thing[:1].upper()}{thing[1:]} suspected by AI"
    if triage is Triage.NEGATIVE:
        return f"No {thing} suspected by AI"
    if triage is Triage.DOUBT:
        return f"In doubt: AI cannot tell whether {with_article(label_meaning)} is present"
    return "Not fully read by AI" if partly_read else "Not read by AI"


def finding_words(triage: str | None, label_meaning: str) -> str:
    """Return the finding in short words, for a table's cell; empty where nothing was assessed."""
    thing = noun(label_meaning)
    if triage == Triage.POSITIVE:
        return f"{thing} suspected"
    if triage == Triage.DOUBT:
        return f"{thing} in doubt"
    if triage == Triage.NEGATIVE:
        return f"no {thing} suspected"
    return ""


def scale_place(probability: float, low: float, high: float) -> float:
    """Return where a probability stands on a scale, 0-1, whose cuts stand at a third and at two thirds.

    Between them it is linear: cuts of 3 and 15% would else lie in a corner.
    """
    if probability < low:
        return probability / low / 3
    if probability < high:
        return (1 + (probability - low) / (high - low)) / 3
    return (2 + (probability - high) / max(1 - high, 1e-9)) / 3


def percents(values: Sequence[float]) -> list[str]:
    """Format shares (0-1) as percentages, with as many decimals (0 to 3) as keep unequal ones apart.

    The ends are never rounded to certainty: 0.9999 is ``"> 99%"``.
    """
    return [f"{text}%" for text in _hundredths(values)]


def _hundredths(values: Sequence[float]) -> list[str]:
    texts: list[str] = []
    for digits in range(4):
        texts = [hundredths(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def hundredths(value: float, digits: int = 0) -> str:
    """Return a share (0-1) in hundredths, never rounded to certainty."""
    step = 10.0**-digits
    if 0 < 100 * value < step:
        return f"< {step:.{digits}f}"
    if 100 - step < 100 * value < 100:
        return f"> {100 - step:.{digits}f}"
    return f"{100 * value:.{digits}f}"


def odds_sentence(
    probability: float, low: float, high: float, triage: Triage | str | None, label_meaning: str
) -> str:
    """Say what a calibrated probability means, and where the cuts are that made the finding of it.

    ``16 of 100 such images show a fracture; flagged from 15.``
    """
    said, from_low, from_high = _hundredths((probability, low, high))
    number = said.replace("< ", "fewer than ").replace("> ", "more than ")
    shows = "shows" if number == "1" else "show"
    words = f"{number} of 100 such images {shows} {with_article(label_meaning)}"
    words = words[:1].upper() + words[1:]
    if probability >= high:
        return f"{words}; flagged from {from_high}."
    if probability >= low:
        return f"{words}; in doubt from {from_low}, flagged from {from_high}."
    if triage == Triage.DOUBT:
        return f"{words}; below the cut of {from_low}, but no negative is said here."
    return f"{words}; in doubt only from {from_low}."


def answer_words(answer: Answer, label_meaning: str) -> str:
    """Return a reader's answer in the bundle's own word."""
    thing = noun(label_meaning)
    return {
        Answer.PRESENT: f"{thing[:1].upper()}{thing[1:]} present",
        Answer.ABSENT: f"No {thing}",
        Answer.UNCERTAIN: f"Uncertain whether {with_article(label_meaning)} is present",
        Answer.UNREADABLE: "Unreadable",
    }[answer]
