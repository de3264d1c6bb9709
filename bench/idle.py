"""Workers whose stages compute nothing: ``celery -A bench.idle``; what is left is bookkeeping.

Bytes are fetched, opened, kept and deleted as ever, rows are written as ever; no picture is decoded, no
network asked, nothing drawn. With ``FRACTUREAI_IDLE_MS=prepare=20,detect=60`` a stage sleeps so long for each
image instead, which takes no processor: many workers of a known speed on one machine. For
`bench.control_plane` and `bench.simulate` alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.scorer import FractureScores, RegionScores
from pipeline.explain import Attention
from pipeline.report import render
from pipeline.types import Radiograph, StudyFacts
from vocabulary.states import Stage
from worker import app as worker_app
from worker import stages
from worker.app import app
from worker.stages import classify, detect, explain, prepare

__all__ = ["app"]
SIDE = 320
GRID = 8
#: About as long as the real ones, so that the blob store has as much to do.
DISPLAY, OVERLAY, HEAT, REPORT = (bytes(1024 * kib) for kib in (24, 30, 4, 75))


#: Seconds an image by stage.
SLEEP = {
    name: float(ms) / 1000
    for name, ms in (each.split("=") for each in os.environ.get("FRACTUREAI_IDLE_MS", "").split(",") if each)
}


def _pass_time(stage: Stage, images: int = 1) -> None:
    if seconds := SLEEP.get(stage):
        time.sleep(seconds * images)


def _decode(data: bytes, **_: Any) -> Radiograph:
    _pass_time(Stage.PREPARE)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    return Radiograph(pixels, SIDE, SIDE, StudyFacts(), "image/jpeg", data)


class _Scorer:
    def __init__(self, bundle: Bundle) -> None:
        self.regions = len(bundle.regions)

    def classify(self, stack: Any) -> RegionScores:
        _pass_time(Stage.CLASSIFY, len(stack))
        rows = np.zeros((len(stack), self.regions), np.float32)
        rows[:, 0] = 1
        return RegionScores(rows, np.zeros(len(stack), np.float32), np.zeros((len(stack), 0), np.float32))

    def detect(self, _network: str, stack: Any) -> FractureScores:
        _pass_time(Stage.DETECT, len(stack))
        n, none = len(stack), np.zeros(len(stack), np.float32)
        maps = np.ones((n, GRID, GRID), np.float16)
        return FractureScores(
            none, maps, none, np.zeros((n, 0, 0), np.float16), np.zeros((n, 0, 0, 5), np.float32)
        )


BLANK = np.zeros((SIDE, SIDE), np.uint8)


def _overlay(*_: Any, **__: Any) -> bytes:
    _pass_time(Stage.EXPLAIN)
    return OVERLAY


def _report(_document: Any) -> bytes:
    _pass_time(Stage.REPORT)
    return REPORT


@contextmanager
def _scorer_of(bundle: Bundle, _precision: str) -> Iterator[_Scorer]:
    yield _Scorer(bundle)


def compute_nothing() -> None:
    """Put what computes nothing where the stages call what computes."""
    worker_app.NICENESS = 0  # there is no reading that others would have to be let in before
    replaced: dict[Any, dict[str, Any]] = {
        prepare: {
            "decode": _decode,
            "display_jpeg": lambda _pixels: DISPLAY,
            "model_input": lambda _pixels, size: np.zeros((size, size), np.uint8),
        },
        classify: {"scorer_of": _scorer_of},
        detect: {"scorer_of": _scorer_of},
        explain: {
            "locate_attention": lambda *_, **__: Attention(BLANK, BLANK, marked=True),
            "overlay_jpeg": _overlay,
            "heat_png": lambda *_, **__: HEAT,
        },
        render: {"render_report": _report},
        stages: {"warm_up": lambda _queues: None},
    }
    for module, names in replaced.items():
        for name, value in names.items():
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            setattr(module, name, value)


compute_nothing()
