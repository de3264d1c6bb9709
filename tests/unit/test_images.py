"""Each image's lock brings all that its processes import: tried with nothing else in sight."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.conftest import ROOT

HERE = Path(sysconfig.get_path("purelib"))
ROLES = {
    "web": ("web.factory", "web.server", "cli.accounts", "cli.fsck", "gunicorn", "redis", "psycopg", "boto3"),
    "read": (
        *(
            "worker.app",
            "worker.tasks",
            "worker.stages",
            "worker.reconcile",
            "interop.gateway",
            "cli.prepare",
        ),
        *(
            "cli.backup",
            "pipeline.report.render",
            "weasyprint",
            "pipeline.decode.picture",
            "worker.results.merged_pdf",
        ),
        *("cli.doctor", "store.results.downloads", "pyarrow.parquet"),
    ),
    "score": ("worker.app", "worker.stages", "models.scorer", "openvino"),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_needs_nothing_that_its_lock_does_not_bring(role: str, tmp_path: Path) -> None:
    lock = (ROOT / f"requirements-{role}.lock").read_text()
    for name in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:  # of another system
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(HERE / top)
    imports = "; ".join(f"import {module}" for module in ROLES[role])
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "FRACTUREAI_DATABASE_URL": "postgresql://x@127.0.0.1/x",
        "FRACTUREAI_BROKER_URL": "redis://127.0.0.1",
        "FRACTUREAI_BLOB_URL": "file:///nowhere",
        "FRACTUREAI_SECRET_KEY": "s" * 32,
    }
    # -S: no site-packages but the links
    done = subprocess.run(
        [sys.executable, "-S", "-c", imports],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
