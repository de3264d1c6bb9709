"""Requests that follow from each other's answers: what one address makes is what the next one names.

Schemathesis derives the sequences from the published description; what is deleted has to stay gone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from store.accounts import accounts
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import User
from tests.web.serving import Serving, serving, site_key
from web.openapi import document

__all__ = ["serving", "site_key"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "use_after_free"),
)
#: Sequences, and the seconds after which no more are begun.
SEQUENCES, SECONDS = int(os.environ.get("FRACTUREAI_TEST_SEQUENCES", "60")), 600
#: Starts a look-up at a mail server or a receiver, or takes minutes: not asked.
LEFT_OUT = r"/(test|remove|evaluate)$"


def test_no_sequence_of_requests_breaks_the_api(serving: Serving, tmp_path: Path) -> None:
    with session_scope() as session:
        admin = session.query(User).first()
        key = accounts.create_api_key(session, admin, "sequences", scope=set(Permission))[1]
    (tmp_path / "schemathesis.toml").write_text("")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{serving.url}/api/v1/openapi.json"),
            *("--url", f"{serving.url}/api/v1", "-H", f"Authorization: Bearer {key}"),
            *("--phases", "stateful", "--checks", ",".join(CHECKS), "--max-examples", str(SEQUENCES)),
            *("--max-time", str(SECONDS), "--seed", "1", "--generation-deterministic", "--no-color"),
            *("--exclude-path-regex", LEFT_OUT),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout[-20_000:])
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert int(re.search(r"(\d+) generated", run.stdout)[1]) > len(document()["paths"])
