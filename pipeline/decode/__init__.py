"""Decoding: the bytes of an uploaded file to a `Radiograph`, or to the reason why it is refused.

`decode` does it in a confined process (`sandbox.py`, `child.py`, `confine.py`); in there, `picture.py` reads
files of every format. Nothing that decodes is imported here.
"""

from pipeline.decode.sandbox import Limits, Sandbox, Stopped, decode, sandbox

__all__ = ["Limits", "Sandbox", "Stopped", "decode", "sandbox"]
