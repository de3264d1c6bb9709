"""How long a PDF report takes in one process: ``python -m bench.report``."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np

from bench.measure import Spread, cpu_timed, machine, publish
from pipeline.report.render import render_report
from pipeline.report.types import BundleCard, ReportImage, StudyReport
from pipeline.types import AttentionRegion, Finding, StudyFacts, Thresholds
from vocabulary.states import ImageStatus, Triage

RUNS = 30
WIDTH, HEIGHT = 1040, 1280


def _jpeg(channels: int) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 255, (HEIGHT // 16, WIDTH // 16, channels), np.uint8)
    written, data = cv2.imencode(".jpg", cv2.resize(coarse, (WIDTH, HEIGHT)), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not written:
        raise RuntimeError("OpenCV cannot write JPEG")
    return data.tobytes()


def _study(images: int) -> StudyReport:
    facts = StudyFacts(accession="A1", study_date="20260101", laterality="L", view="PA", age_years=40)
    regions = (AttentionRegion(300, 400, 200, 150, 0.8), AttentionRegion(600, 700, 90, 120, 0.5))
    finding = Finding("hand", 0.99, {"hand": 0.99}, 0.9, Triage.POSITIVE, (), regions)
    original, overlay = _jpeg(1), _jpeg(3)
    return StudyReport(
        site_name="Bench hospital",
        study_id="00000000-0000-4000-8000-000000000000",
        version=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        facts=facts,
        triage=Triage.POSITIVE,
        reasons=(),
        images=tuple(
            ReportImage(
                number=number,
                image_id=f"image-{number}",
                status=ImageStatus.DONE,
                facts=facts,
                width=WIDTH,
                height=HEIGHT,
                finding=finding,
                thresholds=Thresholds(0.2, 0.6),
                prevalence=0.17,
                network="network",
                original_jpeg=original,
                overlay_jpeg=overlay,
            )
            for number in range(1, images + 1)
        ),
        bundle=BundleCard("bench", "0" * 64, "fractured", "nothing", ("A limit.", "Another limit.")),
        software_version="0",
    )


def main() -> None:
    """Print processor milliseconds and bytes a report, for studies of one and of three images."""
    before = machine()
    gc.collect()  # as the workers do
    gc.freeze()
    gc.set_threshold(50_000)
    rows: dict[str, dict[str, Any]] = {}
    for images in (1, 3):
        study = _study(images)
        started = time.perf_counter()
        size = len(render_report(study))
        first = time.perf_counter() - started
        times = [1000 * cpu_timed(lambda study=study: render_report(study)) for _ in range(RUNS)]
        rows[f"a study of {images} image(s)"] = {
            "CPU ms": Spread.of(times),
            "goal": "40" if images == 1 else "",
            "first call, ms": 1000 * first,
            "KiB": size / 1024,
        }
    publish("report", f"PDF reports in one process, {RUNS} of each", rows, before)


if __name__ == "__main__":
    main()
