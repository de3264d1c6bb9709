"""Report: say what each study amounts to, and write its PDF once all its images are explained."""

from __future__ import annotations

from sqlalchemy import func

from vocabulary.states import ImageStatus, Stage
from worker.reading.study_reports import REPORTS_AT_ONCE, write_studies
from worker.stages.chunk import Chunk, drop_scratch
from worker.stages.runner import ChunkStage, Outcome, Saving


class Report(ChunkStage[None]):
    """Write study findings and PDFs; the images are done."""

    name = Stage.REPORT

    def compute(self, chunk: Chunk) -> None:
        """Write the studies that are ready, some at a time, each time in a transaction of their own."""
        ids = sorted({image.study_id for image in chunk.images if image.study_id}, key=str)
        for start in range(0, len(ids), REPORTS_AT_ONCE):
            write_studies(ids[start : start + REPORTS_AT_ONCE], chunk.batch)

    def save(self, saving: Saving, result: None) -> bool:
        """End the images."""
        for image in saving.images:
            image.status = ImageStatus.DONE.value
            image.finished_at = func.clock_timestamp()
        return False

    def after(self, chunk: Chunk, result: None, outcome: Outcome, *, goes_on: bool) -> None:
        """Delete the input stack."""
        if outcome is Outcome.SAVED:
            drop_scratch(chunk.lease.scratch)
