"""JPEG Lossless and JPEG-LS frames through GDCM, in a process of its own that a bad stream may abort."""

from __future__ import annotations

import json
import subprocess
import sys

#: Seconds after which a frame is given up; a whole chest film takes one.
TIMEOUT = 60.0
_MEMORY_BESIDE_THE_FRAME = 1 << 30


def decode_frame(
    frame: bytes, *, syntax: str, rows: int, columns: int, samples: int, precision: int, photometric: str
) -> bytes:
    """Decode one frame, pixel by pixel, in 8-bit or (above 8 bits of `precision`) little-endian 16-bit words.

    Raises
    ------
    RuntimeError
        GDCM refused, crashed, or gave another number of bytes than the picture has.
    TimeoutError, MemoryError
        It took longer than `TIMEOUT`; there is no room for another process.
    """
    size = rows * columns * samples * (1 if precision <= 8 else 2)
    wanted = {
        "syntax": syntax,
        "rows": rows,
        "columns": columns,
        "samples": samples,
        "precision": precision,
        "photometric": photometric,
        "memory": 16 * size + _MEMORY_BESIDE_THE_FRAME,
    }
    # -P, or the types.py beside this file would stand in for Python's own
    command = [sys.executable, "-P", __file__, json.dumps(wanted)]
    try:
        done = subprocess.run(command, input=frame, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError("GDCM") from None
    except OSError as error:  # no process to be had
        raise MemoryError(f"GDCM: {error.strerror}") from None
    if done.returncode or len(done.stdout) != size:
        raise RuntimeError(f"GDCM ended with {done.returncode} and {len(done.stdout)} bytes")
    return done.stdout


def _child() -> None:
    import resource

    import gdcm

    wanted = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (wanted["memory"], wanted["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((wanted["columns"], wanted["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(wanted["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if wanted["samples"] > 1:
        image.SetPlanarConfiguration(0)
    syntax = gdcm.TransferSyntax.GetTSType(wanted["syntax"])
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    precision = wanted["precision"]
    allocated = 8 if precision <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(wanted["samples"], allocated, precision, precision - 1, 0))
    # GDCM's wrapper hands bytes over as a string
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    _child()
