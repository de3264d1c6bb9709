"""What is not clinical is read only where what knows it has plugged into the stages."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest
from sqlalchemy.orm import Session

from store.base.tables import Batch
from worker.flow import NotReady
from worker.stages import purpose

SERVER = {
    "FRACTUREAI_DATABASE_URL": "postgresql://x@127.0.0.1/x",
    "FRACTUREAI_BROKER_URL": "redis://127.0.0.1",
    "FRACTUREAI_BLOB_URL": "file:///nowhere",
    "FRACTUREAI_SECRET_KEY": "s" * 32,
}


def test_a_clinical_batch_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purpose, "_others", [])
    assert purpose.purpose_of(Session(), Batch(bundle="b1")).is_clinical


def test_a_runs_batch_is_never_read_as_a_clinical_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(purpose.Purpose):
        is_clinical = False

    monkeypatch.setattr(purpose, "_others", [lambda _, batch: None])
    batch = Batch(bundle="b1", run_id=uuid.uuid4())
    with pytest.raises(NotReady):
        purpose.purpose_of(Session(), batch)
    purpose.register(lambda _, batch: Other())
    assert isinstance(purpose.purpose_of(Session(), batch), Other)


@pytest.mark.parametrize("load", ["worker.tasks import _stages; _stages()", "worker import reconcile"])
def test_whoever_ends_batches_has_research_plugged_in(load: str) -> None:
    code = f"from {load}\nfrom store.intake import batch_end\nprint(batch_end._receivers)"
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | SERVER, capture_output=True, text=True, check=True
    )
    assert "after_batch" in process.stdout
