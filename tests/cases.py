"""Reads a folder of awkward files with the shipped bundle and prints how each was read beside what is right.

``python -m tests.cases FOLDER``; the folder holds ``expected.csv`` (file, right) and ``00_control.png``, the
picture that most of its files show. The exit status is the number of files that are not read right, 100 at
most.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.decode import decode
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate, may_be_negative, triage
from pipeline.types import Rejected, Skipped, UInt8Array
from training.experiment import ROOT
from vocabulary.reasons import Reason
from vocabulary.states import Triage
from web.intake.archives import Limits, open_members

BUNDLE = ROOT / "models" / "bundles" / "fracatlas-4"
CONTROL = "00_control.png"
#: Mean grey levels by which a picture may differ from the control's, as the network gets both.
TOLERANCE = 4.0
_SIDE = 224


@dataclass(frozen=True)
class Outcome:
    """How one file was read: its picture, or why there is none."""

    pixels: UInt8Array | None = None
    flags: tuple[Reason, ...] = ()
    refused: Reason | None = None
    skipped: bool = False
    detail: str = ""
    triage: Triage | None = None
    probability: float | None = None


class Reader:
    """The worker's way from bytes to triage on one process, without queue and database."""

    def __init__(self, bundle: Path = BUNDLE) -> None:
        self.bundle = load_bundle(bundle)
        self.scorer: Scorer = open_scorer(self.bundle)

    def read(self, data: bytes) -> Outcome:
        """Decode, gate and score one file."""
        try:
            found = decode(data, max_pixels=100_000_000, pseudonymise=str)
        except Skipped as verdict:
            return Outcome(skipped=True, detail=verdict.reason.value)
        except Rejected as verdict:
            return Outcome(refused=verdict.reason, detail=verdict.detail)
        said = self.judge(found.pixels, found.flags, found.facts.body_part)
        return replace(said, detail=", ".join(f"{s.code.value} {s.detail}".strip() for s in found.rendering))

    def judge(self, pixels: UInt8Array, flags: tuple[Reason, ...] = (), body_part: str = "") -> Outcome:
        """Score a decoded picture."""
        bundle = self.bundle
        scores = self.scorer.classify(model_input(pixels, bundle.region_input_size)[None])
        way = route(
            dict(zip(bundle.regions, map(float, scores.probabilities[0]), strict=True)),
            float(scores.distances[0]),
            bundle.routing,
            body_part=body_part,
            regions=tuple(bundle.models),
            picture=flags,
            families=bundle.families,
        )
        flags = way.flags
        if way.not_assessable is not None:
            return Outcome(pixels, (*flags, way.not_assessable), triage=Triage.NOT_ASSESSABLE)
        model = bundle.models[way.region]
        logits = self.scorer.detect(
            model.network, model_input(pixels, bundle.input_size(model.network))[None]
        ).logits
        probability = calibrate(float(logits[0]), model.calibration)
        said = triage(probability, model.thresholds, never_negative=not may_be_negative(flags))
        return Outcome(pixels, flags, triage=said, probability=probability)


def difference(pixels: UInt8Array, control: UInt8Array) -> float:
    """Mean grey levels between two pictures as the network gets them, each in its own range.

    Which part of the grey values a window leaves is the maker's choice; the levels are compared after a
    straight line has been laid through them, so long as it rises.
    """
    ours, theirs = (model_input(p, _SIDE).astype(np.float64).ravel() for p in (pixels, control))
    slope, offset = np.polyfit(ours, theirs, 1) if ours.std() > 1 else (0.0, 0.0)
    if not 0.5 <= slope <= 2.0:
        return float(np.abs(ours - theirs).mean())
    return float(np.abs(ours * slope + offset - theirs).mean())


def right(expected: str, outcome: Outcome, control: UInt8Array) -> bool:
    """Tell whether an outcome is what `expected` says."""
    pixels = outcome.pixels
    if pixels is not None and "half size" in expected:
        pixels = np.asarray(cv2.resize(pixels, control.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    shown = pixels is not None and difference(pixels, control) <= TOLERANCE
    turned = outcome.pixels is not None and (
        difference(np.rot90(outcome.pixels).copy(), control) <= TOLERANCE
        or difference(np.rot90(outcome.pixels, -1).copy(), control) <= TOLERANCE
    )
    refused = outcome.refused is not None
    unread = outcome.triage is Triage.NOT_ASSESSABLE
    negative = outcome.triage is Triage.NEGATIVE
    if negative:
        return False  # the picture of a fracture
    if expected == "refuse":
        return refused
    if expected == "dicom_no_pixels":
        return outcome.refused is Reason.DICOM_NO_PIXELS
    if expected == "other":
        return outcome.pixels is not None
    if expected.startswith("no grey values") or expected == "not assessable or flagged":
        return refused or unread or bool(outcome.flags)
    if expected == "rot or as coded":
        return shown or turned
    if expected == "base or truncated":
        return shown or outcome.refused is Reason.TRUNCATED
    if expected == "values beyond BitsStored are masked by the standard":
        return outcome.pixels is not None or refused
    if "VOI LUT" in expected or expected.startswith("shape INVERSE"):
        return outcome.pixels is not None
    return (
        (shown and not expected.startswith(("flagged", "first frame")))
        or ("refusal" in expected and refused)
        or ("flagged" in expected and bool(outcome.flags))
    )


def said(outcome: Outcome, control: UInt8Array) -> str:
    """Return an outcome in one line."""
    if outcome.skipped:
        return f"skipped: {outcome.detail}"
    if outcome.refused is not None:
        return f"refused: {outcome.refused.value} ({outcome.detail})"
    assert outcome.pixels is not None
    height, width = outcome.pixels.shape
    probability = "" if outcome.probability is None else f" {outcome.probability:.2f}"
    flags = "".join(f" +{flag.value}" for flag in outcome.flags)
    assert outcome.triage is not None
    return (
        f"{outcome.triage.value}{probability} {width}x{height} "
        f"off by {difference(outcome.pixels, control):.1f}{flags} [{outcome.detail}]"
    )


def archive_line(data: bytes, expected: str, reader: Reader) -> tuple[bool, str]:
    """Read every member of a ZIP; tell whether they came out as expected, and how."""
    limits = Limits(members=100, total_bytes=1 << 28, member_bytes=1 << 28, ratio=200)
    read = skipped = refused = 0
    told: list[str] = []
    for member in open_members(io.BytesIO(data), limits):
        if member.reader is None:
            refused += 1
            told.append(f"{member.path}: {member.reason.value if member.reason else ''}")
            continue
        outcome = reader.read(b"".join(iter(lambda m=member.reader: m.read(1 << 20), b"")))
        if outcome.triage is Triage.NEGATIVE:
            return False, f"{member.path}: negative"
        read, skipped = read + (outcome.pixels is not None), skipped + outcome.skipped
        refused += outcome.refused is not None
        how = outcome.triage or outcome.refused
        told.append(f"{member.path}: {how.value if how else outcome.detail}")
    counts = {
        "both members read": (2, 0, 0),
        "1 read, DICOMDIR and SR skipped": (1, 2, refused),  # and the viewer's own files refused
        "1 member or clear refusal": (1, 0, 0),
        "2 clear refusals": (0, 0, 2),
    }
    wanted = counts.get(expected, (read, skipped, refused))
    return (read, skipped, refused) == wanted, "; ".join(told)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--wrong", action="store_true", help="only what is not right")
    parser.add_argument("--only", default="", help="only files whose name holds this")
    options = parser.parse_args()
    reader = Reader(options.bundle)
    control = cv2.imread(str(options.folder / CONTROL), cv2.IMREAD_GRAYSCALE)
    assert control is not None
    control = np.asarray(control, np.uint8)
    wrong = seen = 0
    with (options.folder / "expected.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["file"].endswith(".csv")]
    for row in rows:
        if options.only not in row["file"]:
            continue
        data = (options.folder / row["file"]).read_bytes()
        if row["file"].endswith(".zip"):
            good, how = archive_line(data, row["right"], reader)
        else:
            outcome = reader.read(data)
            good, how = right(row["right"], outcome, control), said(outcome, control)
        wrong, seen = wrong + (not good), seen + 1
        if not (options.wrong and good):
            print(f"{'ok   ' if good else 'WRONG'} {row['file']:56} {how}")
            if not good:
                print(f"      {'':56} right: {row['right']}")
    print(
        f"{seen - wrong} of {seen} are right; manifests are matched in tests/unit/test_manifest_matching.py"
    )
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
