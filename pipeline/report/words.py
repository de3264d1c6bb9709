"""What the report says, in words: only what was computed, never a clinical fact of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.report.types import Mark, ReportImage, StudyReport
from pipeline.types import StudyFacts
from vocabulary.anatomy import part_words
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage
from vocabulary.times import moment, study_day
from vocabulary.words import ADULT, GLYPHS, TONES, TRIAGE_WORDS, Tone, headline, odds_sentence, worst_of

_LATERALITY = {"L": "Left", "R": "Right", "B": "Both sides"}
_STATUS = {ImageStatus.REJECTED: "Rejected", ImageStatus.FAILED: "Failed", ImageStatus.CANCELLED: "Cancelled"}


def study_headline(report: StudyReport) -> str:
    """Return the headline of the whole study."""
    return headline(
        report.triage, report.bundle.label_meaning, partly_read=any(was_read(i) for i in report.images)
    )


def was_read(image: ReportImage) -> bool:
    """Tell whether the image has a finding with a probability."""
    return image.finding is not None and image.finding.probability is not None


def deciding_image(report: StudyReport) -> ReportImage:
    """Return the image that decides the study: the worst, among equals the most probable, then the first."""
    return report.images[
        worst_of(
            [(i.finding.triage, i.finding.probability) if i.finding else (None, None) for i in report.images]
        )
    ]


def version_line(report: StudyReport) -> str:
    """Say what the version has to do with the earlier ones; empty for a first one."""
    if report.version == 1 and report.earlier is None:
        return ""
    words = f"Version {report.version}, {'signed' if report.signature else 'not signed'}."
    before = report.earlier
    if before is None:
        return f"{words} It replaces version {report.version - 1}."
    of = f" of {before.bundle}" if before.bundle != report.bundle.name else ""
    words += (
        f" {before.reader} signed version {before.version}{of} on"
        f" {moment(before.signed_at, zone=report.time_zone)}; it is kept."
    )
    if not before.amended:
        return words
    if report.signature:
        return f"{words} This version amends it."
    return f"{words} The study has changed since: to be read again."


def mark_words(mark: Mark) -> str:
    """Say where a reader marked an image."""
    size = f", {mark.width} × {mark.height}" if mark.width or mark.height else ""
    return f"Marked on image {mark.number} at left {mark.x}, top {mark.y}{size} (pixels of the original)."


def odds(image: ReportImage, label_meaning: str) -> str:
    """Say what the probability means, and where the cuts are; empty where the image was not read."""
    finding, cuts = image.finding, image.thresholds
    if finding is None or finding.probability is None or cuts is None:
        return ""
    return odds_sentence(finding.probability, cuts.low, cuts.high, finding.triage, label_meaning)


def part(image: ReportImage) -> str:
    """Return the image's part for a person, with its family where that is another word."""
    if image.finding is None:
        return ""
    name = part_words(image.finding.region).capitalize()
    return f"{name}, of the {image.family}" if image.family not in ("", image.finding.region) else name


def about_evidence(image: ReportImage, label_meaning: str) -> str:
    """Return what the bundle has shown for the image's part, and why it says no negative."""
    if image.evidence is None or image.finding is None:
        return ""
    said = image.evidence.sentence(label_meaning), image.evidence.about_negative(image.finding.triage)
    return " ".join(filter(None, said))


def notes(image: ReportImage, first: Sequence[Reason] = ()) -> tuple[Reason, ...]:
    """Return `first`, then every reason and flag of the image, once each."""
    found = [*first, *([image.reason] if image.reason else [])]
    if image.finding:
        found += image.finding.reasons
    found += image.flags
    if image.pooled and was_read(image):
        found.append(Reason.POOLED_MODEL)
    return tuple(dict.fromkeys(found))


def age(years: int | None) -> str:
    """Return the age as a person would say it; 90 stands for 90 and more."""
    if years is None:
        return "Not stated"
    if years < 1:
        return "Under 1 year"
    return "90 years or more" if years >= 90 else f"{years} year{'s' if years > 1 else ''}"


def youngest(report: StudyReport) -> int | None:
    """Return the lowest age that the study or any image of it states, in years."""
    ages = [f.age_years for f in (report.facts, *(i.facts for i in report.images)) if f.age_years is not None]
    return min(ages, default=None)


def children_note(years: int | None) -> str:
    """Warn where the patient is, or may be, a child; empty for adults."""
    if years is None:
        return "Age not stated. The AI is not validated in children (under 18 years)."
    return "Not validated in children: the patient is under 18 years of age." if years < ADULT else ""


def laterality(code: str) -> str:
    """Return the side in words."""
    return _LATERALITY.get(code, code or "Not stated")


def sides(report: StudyReport) -> str:
    """Return the side of every image that was decoded, else of the study."""
    return _stated(report, lambda facts: laterality(facts.laterality))


def views(report: StudyReport) -> str:
    """Return the view of every image that was decoded, else of the study."""
    return _stated(report, lambda facts: facts.view or "Not stated")


def _stated(report: StudyReport, word: Callable[[StudyFacts], str]) -> str:
    of_images = dict.fromkeys(word(image.facts) for image in report.images if image.finding)
    return ", ".join(of_images) if set(of_images) - {"Not stated"} else word(report.facts)


def date(facts: StudyFacts) -> str:
    """Return the study date as ``YYYY-MM-DD``, with the time where known; malformed dates as they stand."""
    text = study_day(facts.study_date)
    time = re.match(r"(\d\d)(\d\d)", facts.study_time)
    return (f"{text} {time[1]}:{time[2]}" if text and time else text) or "Not stated"


def short(identifier: str) -> str:
    """Return the first characters of an id or a hash: enough to find it by."""
    return identifier[:12]


def triage_word(triage: Triage) -> str:
    """Return the triage as a word."""
    return TRIAGE_WORDS[triage]


def glyph(triage: Triage) -> str:
    """Return the triage's shape."""
    return GLYPHS[triage]


def tone(triage: Triage) -> Tone:
    """Return how grave the triage looks."""
    return TONES[triage]


def status_word(status: ImageStatus) -> str:
    """Return why the image has no finding, in a word."""
    return _STATUS.get(status, "Not finished")


def dicom_uid(text: str) -> str:
    """Return a DICOM UID, or nothing: a study id out of a manifest or a folder may hold a name."""
    return text if re.fullmatch(r"[0-9.]{5,64}", text) else ""
