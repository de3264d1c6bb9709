"""The page of settings says what settings.py holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

from settings import Settings
from tests.conftest import ROOT


def test_the_page_is_made_from_the_settings_and_names_each() -> None:
    made = subprocess.run([sys.executable, ROOT / "scripts" / "settings_table.py", "--check"], check=False)
    assert made.returncode == 0, "run python scripts/settings_table.py"
    page = (ROOT / "docs" / "settings.md").read_text()
    for field in fields(Settings):
        assert f"| `FRACTUREAI_{field.name.upper()}` |" in page
