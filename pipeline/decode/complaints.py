"""Warnings that codecs write about damaged data.

libjpeg, libtiff and GDCM go on where a scan breaks off or holds no code that they know, and tell it on
standard error alone: the rest of the picture is grey, or garbage.
"""

from __future__ import annotations

import os
import re

import cv2

_STANDARD_ERROR = 2
_MOST = 1 << 16
#: Of libtiff: any error but in what lists the pictures, and what codings only warn of.
_DAMAGE = re.compile(
    rb"Corrupt JPEG data|Premature end|TIFF_Error (?!.*[Dd]irectory)|TIFF_Warning .*(?:Decode|JPEGLib)"
)
#: libjpeg met bytes behind the last block that belongs there.
_SURPLUS = re.compile(rb"Corrupt JPEG data: (\d+) extraneous bytes before marker")


class Listener:
    """Where codecs complain: this process's standard error, once it is kept in memory."""

    def __init__(self) -> None:
        self._listens = False

    def start(self) -> None:
        """Keep what this process writes to standard error from now on."""
        memory = os.memfd_create("standard error")
        os.dup2(memory, _STANDARD_ERROR)
        os.close(memory)
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)  # what libtiff says goes there
        self._listens = True

    def heard(self) -> bytes:
        """Return what was written since the last time; nothing where it is not kept."""
        if not self._listens:
            return b""
        written = os.pread(_STANDARD_ERROR, _MOST, 0)
        os.ftruncate(_STANDARD_ERROR, 0)
        os.lseek(_STANDARD_ERROR, 0, os.SEEK_SET)
        return written


#: That of this process.
codecs = Listener()


def reports_damage(written: bytes, coded: bytes) -> bool:
    """Tell whether a codec found picture data damaged.

    Parameters
    ----------
    written
        By the codec, to standard error.
    coded
        What it was given. Zeros between the last block and the end of a JPEG are padding.
    """
    if found := _SURPLUS.search(written):
        data = coded[: coded.rfind(b"\xff\xd9")]
        padding = len(data) - len(data.rstrip(b"\0"))
        return int(found[1]) > padding + 1  # the last block may end in the first of them
    return _DAMAGE.search(written) is not None
