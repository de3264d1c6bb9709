"""The stages' own code on one process, without queue, database or disk: what the floor is measured with."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from models.bundle import Bundle, load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.decode.picture import decode
from pipeline.explain import attention_regions, body_mask, overlay_jpeg
from pipeline.preprocess import display_jpeg, model_input
from pipeline.report.render import render_report, warm_up
from pipeline.report.types import BundleCard, ReportImage, StudyReport
from pipeline.routing import route
from pipeline.triage import calibrate, triage
from pipeline.types import Finding, Float16Array, Radiograph, RegionModel, StudyFacts, UInt8Array
from vocabulary.states import ImageStatus, Triage

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "models" / "bundles" / "fracatlas-1"
CHUNK = 32
#: Converted networks, kept between benchmarks; a server's are there, too.
CACHE = Path.home() / ".cache" / "fractureai"
NETWORKS = CACHE / "networks"
STAGES = ("decode, preprocess", "region", "fracture, attention", "overlay", "report")
MAX_PIXELS = 100_000_000


@dataclass
class Read:
    """One image on its way."""

    radiograph: Radiograph
    inputs: dict[int, UInt8Array]
    display: bytes
    finding: Finding | None = None
    reader: RegionModel | None = None
    cam: Float16Array | None = None
    overlay: bytes | None = None


@dataclass
class Reader:
    """A bundle with its scorer, and the processor and wall seconds of each stage so far."""

    bundle: Bundle
    scorer: Scorer | None
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @classmethod
    def open(cls, *, threads: int = 1, backend: str = "auto") -> Reader:
        """Open the shipped bundle, everything loaded."""
        bundle = load_bundle(BUNDLE)
        scorer = open_scorer(bundle, threads=threads, backend=backend, cache=NETWORKS)
        scorer.warm_up()
        warm_up()
        return cls(bundle, scorer)

    def _lap(self, stage: str, cpu: float, wall: float) -> None:
        self.cpu[stage] += time.process_time() - cpu
        self.wall[stage] += time.perf_counter() - wall

    def read(self, files: Sequence[bytes], *, reports: bool) -> None:
        """Read a chunk of images as the five stages do, and forget the results."""
        steps = (self.prepare, self.classify, self.detect, self.explain)
        images: list[Read] = []
        for stage, step in zip(STAGES, steps, strict=False):
            cpu, wall = time.process_time(), time.perf_counter()
            images = step(files) if stage == STAGES[0] else step(images)  # type: ignore[operator]
            self._lap(stage, cpu, wall)
        if reports:
            cpu, wall = time.process_time(), time.perf_counter()
            for image in images:
                self.report(image)
            self._lap(STAGES[-1], cpu, wall)

    def prepare(self, files: Sequence[bytes]) -> list[Read]:
        """Decode, gate and scale."""
        images = []
        for data in files:
            radiograph = decode(data, max_pixels=MAX_PIXELS, pseudonymise=str)
            inputs = {size: model_input(radiograph.pixels, size) for size in self.bundle.input_sizes}
            images.append(Read(radiograph, inputs, display_jpeg(radiograph.pixels)))
        return images

    def classify(self, images: list[Read]) -> list[Read]:
        """Tell regions."""
        assert self.scorer is not None
        size = self.bundle.region_input_size
        scores = self.scorer.classify(np.stack([image.inputs[size] for image in images]))
        for image, row, distance in zip(images, scores.probabilities, scores.distances, strict=True):
            probabilities = dict(zip(self.bundle.regions, map(float, row), strict=True))
            way = route(
                probabilities,
                float(distance),
                self.bundle.routing,
                families=self.bundle.families,
                body_part="",
                regions=tuple(r for r in self.bundle.regions if self.bundle.model_for(r)),
            )
            image.reader = None if way.not_assessable else self.bundle.model_for(way.region)
            reasons = (way.not_assessable,) if way.not_assessable else ()
            image.finding = Finding(
                way.region, way.probability, probabilities, None, Triage.NOT_ASSESSABLE, reasons, ()
            )
        return images

    def detect(self, images: list[Read]) -> list[Read]:
        """Read each image by its region's network."""
        assert self.scorer is not None
        groups: dict[str, list[Read]] = defaultdict(list)
        for image in images:
            if image.reader:
                groups[image.reader.network].append(image)
        for network, group in groups.items():
            size = self.bundle.input_size(network)
            scores = self.scorer.detect(network, np.stack([image.inputs[size] for image in group]))
            for image, logit, cam in zip(group, scores.logits, scores.cams, strict=True):
                self.judge(image, float(logit), cam)
        return images

    def judge(self, image: Read, logit: float, cam: Float16Array) -> None:
        """Calibrate and cut."""
        assert image.reader is not None
        assert image.finding is not None
        probability = calibrate(logit, image.reader.calibration)
        said = triage(probability, image.reader.thresholds)
        found = image.finding
        image.cam = cam
        image.finding = Finding(
            found.region,
            found.region_probability,
            found.region_probabilities,
            probability,
            said,
        )

    def explain(self, images: list[Read]) -> list[Read]:
        """Name attention regions and draw maps on the picture that people see, decoded again as there."""
        for image in images:
            if image.cam is not None and image.finding is not None:
                decoded = cv2.imdecode(np.frombuffer(image.display, np.uint8), cv2.IMREAD_GRAYSCALE)
                grey = np.asarray(decoded, np.uint8)
                body, marked = body_mask(grey), image.finding.triage is not Triage.NEGATIVE
                width, height = image.radiograph.width, image.radiograph.height
                if marked:
                    regions = attention_regions(image.cam, width=width, height=height, body=body)
                    image.finding = replace(image.finding, attention_regions=regions)
                image.overlay = overlay_jpeg(grey, image.cam, marked=marked, body=body)
        return images

    def report(self, image: Read) -> bytes:
        """Render the report of a study of this one image."""
        assert image.finding is not None
        facts = StudyFacts(accession="A1", study_date="20260101")
        reader, bundle = image.reader, self.bundle
        page = ReportImage(
            number=1,
            image_id="0" * 32,
            status=ImageStatus.DONE,
            facts=facts,
            width=image.radiograph.width,
            height=image.radiograph.height,
            reason=image.finding.reasons[0] if image.finding.reasons else None,
            finding=image.finding,
            thresholds=reader.thresholds if reader else None,
            prevalence=reader.calibration.prevalence if reader else None,
            network=reader.network if reader else "",
            pooled=reader.pooled if reader else False,
            original_jpeg=image.display,
            overlay_jpeg=image.overlay,
        )
        card = BundleCard(bundle.name, bundle.sha256, bundle.label_meaning, bundle.trained_on, bundle.limits)
        return render_report(
            StudyReport(
                site_name="Bench hospital",
                study_id="0" * 32,
                version=1,
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                facts=facts,
                triage=image.finding.triage,
                reasons=image.finding.reasons,
                images=(page,),
                bundle=card,
                software_version="bench",
            )
        )


def chunks(files: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut a list as the service does."""
    for start in range(0, len(files), CHUNK):
        yield files[start : start + CHUNK]


def _serve() -> None:
    """Work as one of several processes: load, say so, then read the named share each time a line comes in.

    A line is ``FOLDER PART PARTS REPORTS``; the answer is the number of images.
    """
    reader = Reader.open()
    gc.collect()  # as the workers do
    gc.freeze()
    gc.set_threshold(50_000)
    print("ready", flush=True)
    for line in sys.stdin:
        folder, part, parts, reports = line.split()
        paths = sorted(Path(folder).iterdir())[int(part) :: int(parts)]
        for some in chunks([path.read_bytes() for path in paths]):
            reader.read(some, reports=reports == "1")
        print(len(paths), flush=True)


if __name__ == "__main__":
    for name in ("OMP", "OPENBLAS", "OPENCV_FOR"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    _serve()
