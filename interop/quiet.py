"""Keep the DICOM libraries from logging values that they find malformed: they may identify a patient."""

from __future__ import annotations

import logging
from functools import cache

from pydicom import config
from pynetdicom import _config


@cache
def quieten() -> None:
    """Silence the DICOM libraries' warnings about values in this process: they may identify a patient.

    Without this, pydicom warns of each malformed value with the value itself, and Python prints the warning.
    """
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pydicom", "pynetdicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
