"""What a PDF report cost an earlier commit and costs this one: ``python -m bench.report [--before COMMIT]``.

In turns, each in a process of its own, after some reports, with studies that differ in all that studies do.
Only processor time is counted, and the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random

import cv2
import numpy as np

from bench.measure import ROOT, Spread, cpu_timed, machine, publish
from pipeline.report.render import render_report
from pipeline.report.types import BundleCard, ReportImage, StudyReport
from pipeline.types import AttentionRegion, Finding, StudyFacts, Thresholds
from vocabulary.states import ImageStatus, Triage

#: The last commit that laid every report out from nothing.
BEFORE = "4ef4b2f"
RUNS = 30
WIDTH, HEIGHT = 1040, 1280
CUTS = Thresholds(0.2, 0.6)


@cache
def _jpeg(channels: int) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 255, (HEIGHT // 16, WIDTH // 16, channels), np.uint8)
    written, data = cv2.imencode(".jpg", cv2.resize(coarse, (WIDTH, HEIGHT)), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not written:
        raise RuntimeError("OpenCV cannot write JPEG")
    return data.tobytes()


def study(images: int, number: int) -> StudyReport:
    """Return one of many studies: accession, ids, times, patient, region, scores and places are its own."""
    random = Random(number)  # noqa: S311 - made-up studies

    def id_() -> str:
        return str(uuid.UUID(int=random.getrandbits(128), version=4))

    def region() -> AttentionRegion:
        x, y = random.randrange(700), random.randrange(900)
        return AttentionRegion(x, y, random.randrange(60, 300), random.randrange(60, 300), random.random())

    day = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randrange(30_000_000))
    facts = StudyFacts(
        accession=f"RAD-2026-{random.randrange(10**6):06d}",
        study_date=f"{day:%Y%m%d}",
        study_time=f"{day:%H%M%S}",
        laterality=random.choice("LR"),
        view=random.choice(("PA", "AP", "LAT")),
        age_years=random.randrange(18, 90),
    )
    pages, worst = [], Triage.NEGATIVE
    for place in range(1, images + 1):
        probability, part = random.random(), random.choice(("hand", "leg", "shoulder"))
        triage = Triage.POSITIVE if probability >= CUTS.high else Triage.DOUBT
        triage = Triage.NEGATIVE if probability < CUTS.low else triage
        worst = max(worst, triage, key=(Triage.NEGATIVE, Triage.DOUBT, Triage.POSITIVE).index)
        regions = tuple(region() for _ in range(0 if triage is Triage.NEGATIVE else 2))
        sure = 0.9 + random.random() / 10
        pages.append(
            ReportImage(
                number=place,
                image_id=id_(),
                status=ImageStatus.DONE,
                facts=facts,
                width=WIDTH,
                height=HEIGHT,
                finding=Finding(part, sure, {part: sure}, probability, triage, (), regions),
                thresholds=CUTS,
                prevalence=0.17,
                network=f"network-{part}",
                original_jpeg=_jpeg(1),
                overlay_jpeg=_jpeg(3),
            )
        )
    return StudyReport(
        site_name="Bench hospital",
        study_id=id_(),
        version=1,
        created_at=day + timedelta(seconds=random.randrange(10**5)),
        facts=facts,
        triage=worst,
        reasons=(),
        images=tuple(pages),
        bundle=BundleCard("bench", "0" * 64, "fractured", "nothing", ("A limit.", "Another limit.")),
        software_version="0",
    )


def answer() -> None:
    """Read lines ``IMAGES FIRST COUNT``, write that many reports, and say the milliseconds and KiB of one.

    Runs in the folder of either commit; its `pipeline` comes from there, this module from here.
    """
    started = time.perf_counter()
    render_report(study(1, -1))
    print(1000 * (time.perf_counter() - started), flush=True)
    for number in range(-300, -270):
        render_report(study(1, number))  # until what is kept is kept
    gc.collect()  # as the workers do
    gc.freeze()
    gc.set_threshold(50_000)
    for line in sys.stdin:
        images, first, count = map(int, line.split())
        todo, sizes = [study(images, first + n) for n in range(count)], []
        spent = cpu_timed(lambda todo=todo, sizes=sizes: sizes.extend(len(render_report(s)) for s in todo))
        print(1000 * spent / count, sum(sizes) / count / 1024, flush=True)


class Code:
    """The reports of one checkout, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from bench.report import answer; answer()"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = float(self._read())

    def __enter__(self) -> Code:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def reports(self, images: int, first: int, count: int) -> tuple[float, float]:
        """Write so many reports; return the processor milliseconds and the KiB of one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images} {first} {count}\n")
        self._process.stdin.flush()
        spent, size = map(float, self._read().split())
        return spent, size


def main() -> None:
    """Measure studies of one and of three images, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE, help="commit")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    machine_before = machine()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = ["git", "-C", str(ROOT), "archive", arguments.before, "pipeline", "vocabulary"]
        packed = subprocess.run(tree, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        with Code(folder) as old, Code(ROOT) as new:
            for images in (1, 3):
                seen: dict[Code, list[tuple[float, float]]] = {old: [], new: []}
                for turn in range(arguments.rounds):
                    for code in (old, new) if turn % 2 else (new, old):
                        seen[code].append(code.reports(images, RUNS * turn, RUNS))
                before, after = ([ms for ms, _ in seen[code]] for code in (old, new))
                rows[f"a study of {images} image(s)"] = {
                    "before, CPU ms": Spread.of(before),
                    "now, CPU ms": Spread.of(after),
                    "now / before": Spread.of([b / a for a, b in zip(before, after, strict=True)]),
                    "before, KiB": seen[old][0][1],
                    "now, KiB": seen[new][0][1],
                }
            rows["the first of a process, seconds"] = {
                "before, CPU ms": f"{old.first / 1000:.2f} s",
                "now, CPU ms": f"{new.first / 1000:.2f} s",
            }
    publish("report", f"PDF reports, {arguments.before} and now, {RUNS} a round", rows, machine_before)


if __name__ == "__main__":
    main()
