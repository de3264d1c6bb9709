"""The folder that holds everything of a server on this machine. Standard library only, on any system."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_home() -> Path:
    """Return the folder that holds everything of a server: FRACTUREAI_HOME, or the usual place."""
    if named := os.environ.get("FRACTUREAI_HOME"):
        return Path(named).expanduser().resolve()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "fractureai"
    if os.geteuid() == 0:
        return Path("/var/lib/fractureai")
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "fractureai"
