"""A run over a data set on a whole server that is killed twice: nothing lost, nothing scored for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rescore import rescore
from training.tiny import build_tiny_bundle


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_run_outlives_its_worker_and_its_server_and_gives_the_figures_of_evaluate(home: Path) -> None:
    folder = home / "rescore"
    folder.mkdir(mode=0o711)
    bundles = [folder / "tiny-a", folder / "tiny-b"]
    for epochs, path in enumerate(bundles, 1):
        build_tiny_bundle(path, epochs=epochs, per_region=8)
    seen = rescore(folder, 300, bundles)
    assert seen["status"] == "done"
    assert seen["counts"]["done"] == 300
    wanted = 2 * seen["distinct"]
    # at most what was in flight at each of the two kills went through twice: two chunks of 32, two bundles
    for passes in seen["forward_passes"].values():
        assert wanted <= passes <= wanted + 2 * 2 * 2 * 32
    for path in bundles:
        assert seen[f"largest difference from `fractureai evaluate`, {path.name}"] < 1e-5
