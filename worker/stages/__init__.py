"""The way of a chunk: prepare, classify, detect, explain, report; and `finish`, the end of a batch."""

from typing import Any

from store.queue.work import Lease
from vocabulary.states import Stage
from worker.stages import finish
from worker.stages.classify import Classify
from worker.stages.detect import Detect
from worker.stages.explain import Explain
from worker.stages.prepare import Prepare
from worker.stages.report import Report
from worker.stages.runner import ChunkStage, run_stage
from worker.stages.warm_up import warm_up

__all__ = ["CHUNK_STAGES", "finish", "run", "warm_up"]

CHUNK_STAGES: dict[Stage, ChunkStage[Any]] = {
    stage.name: stage for stage in (Prepare(), Classify(), Detect(), Explain(), Report())
}


def run(lease: Lease) -> bool:
    """Run the stage at which a chunk is; return whether the chain goes on."""
    if lease.stage is None:
        raise ValueError("the unit has no stages")
    return run_stage(CHUNK_STAGES[lease.stage], lease)
