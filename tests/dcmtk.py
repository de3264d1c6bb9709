"""Holds films in every pair of properties against DCMTK's rendering of the same files.

``python -m tests.dcmtk`` prints how many films were compared and each that is shown otherwise. It needs the
commands of DCMTK (Debian's package ``dcmtk``). Films that it cannot read as they are (JPEG 2000) are given to
it without compression; every fifth grey film is coded by it, too, in JPEG, JPEG-LS and RLE.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from pipeline.decode.picture import decode
from pipeline.types import Rejected
from tests.films import COLOURS, combinations, written

#: Grey levels by which a pixel may differ: DCMTK rounds after each step, and has no LINEAR_EXACT.
TOLERANCE = 2.0
#: The same where a rescale leaves fractions, which it cuts, and after lossy compression.
WIDER_TOLERANCE = 3.0
#: Which of DCMTK's encoders take which films.
ENCODERS: Mapping[str, tuple[list[str], tuple[int, ...]]] = {
    "JPEG Lossless, SV1": (["dcmcjpeg", "+e1"], (8, 10, 12, 15, 16)),
    "JPEG Lossless": (["dcmcjpeg", "+el", "+sv", "4"], (8, 10, 12, 15, 16)),
    "JPEG Baseline": (["dcmcjpeg", "+eb", "+q", "95"], (8,)),
    "JPEG Extended": (["dcmcjpeg", "+ee", "+q", "95"], (12,)),
    "JPEG-LS": (["dcmcjpls", "+el"], (8, 10, 12, 15, 16)),
    "RLE": (["dcmcrle"], (8, 10, 12, 15, 16)),
}
LOSSY = frozenset({"JPEG Baseline", "JPEG Extended"})


def shown_by_dcmtk(folder: Path, data: bytes, p: Mapping[str, object]) -> npt.NDArray[np.float64]:
    """Render a film with DCMTK, 0-255 with bone bright.

    Without a window in the header it is told the one that leaves 0.5% of the values at each end out.
    """
    film, shown = folder / "film.dcm", folder / "film.pnm"
    film.write_bytes(data)
    if p["coded"] == "JPEG-LS":
        _run(["dcmdjpls", film, film])
    voi = str(p["voi"])
    window: list[object] = ["+Wl", 1] if voi == "lut" else ["+Wi", 1] if voi != "none" else _own_window(p)
    colour = p["photometric"] in COLOURS
    command = "dcmj2pnm" if str(p["coded"]).startswith("JPEG ") else "dcm2pnm"
    _run([command, "+opb" if colour else "+op", *([] if colour else window), film, shown])
    picture = cv2.imread(str(shown), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    if picture.ndim == 3:
        return np.asarray(picture[..., ::-1] @ np.array([0.299, 0.587, 0.114]))  # ITU-R BT.601
    return picture.astype(np.float64)


def _own_window(p: Mapping[str, object]) -> list[object]:
    plainest = {**p, "syntax": ExplicitVRLittleEndian, "stored": "lowest bits"}
    film = pydicom.dcmread(io.BytesIO(written(plainest, int(str(p["hand"])))))
    stored = film.pixel_array
    values = apply_modality_lut(stored, film)
    if "PixelPaddingValue" in film:
        values = values[stored != film.PixelPaddingValue]
    low, high = np.percentile(values, (0.5, 99.5))
    return ["+Ww", (low + high) / 2 + 0.5, high - low + 1]


def _run(command: list[object]) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def _coded(folder: Path, data: bytes, encoder: list[str]) -> bytes:
    source, coded = folder / "source.dcm", folder / "coded.dcm"
    source.write_bytes(data)
    _run([*encoder, source, coded])
    return coded.read_bytes()


def films(folder: Path) -> Iterator[tuple[Mapping[str, object], bytes, bytes]]:
    """Yield the films: properties, the file for us, the file for DCMTK."""
    for number, properties in enumerate(combinations()):
        p = {**properties, "hand": number % 4, "coded": "as written"}
        native = {**p, "syntax": ExplicitVRLittleEndian}
        ours = written(p, number % 4)
        yield p, ours, written(native, number % 4) if p["syntax"] == JPEG2000Lossless else ours
        if number % 5 or p["photometric"] in COLOURS or p["stored"] != "lowest bits":
            continue
        for name, (encoder, bits) in ENCODERS.items():
            if p["bits"] not in bits:
                continue
            # before it loses anything, it scales the values, and drops a VOI LUT
            if name in LOSSY and (p["signed"] or p["padding"] or p["voi"] in {"none", "lut"}):
                continue
            coded = _coded(folder, written(native, number % 4), encoder)
            yield {**p, "coded": name}, coded, coded


def compare(p: Mapping[str, object], ours: bytes, theirs: bytes, folder: Path) -> tuple[str, float]:
    """Return how a film is shown beside DCMTK's rendering, and by how many grey levels it is off at most."""
    try:
        expected = shown_by_dcmtk(folder, theirs, p)
    except subprocess.CalledProcessError as error:
        return f"not read by DCMTK: {error.stderr.decode().strip()[:80]}", 0.0
    try:
        found = decode(ours, max_pixels=10**6, pseudonymise=str)
    except Rejected as verdict:
        return f"refused: {verdict.reason.value}", 0.0
    off = np.abs(found.pixels - expected)
    if p["padding"]:
        off[:8] = off[:, :6] = 0  # the margin that `tests.films` fills with it: DCMTK shows it as a value
    fractions = (p["modality"], p["voi"]) == ("rescale", "lut")
    most = WIDER_TOLERANCE if p["coded"] in LOSSY or fractions else TOLERANCE
    worst = float(off.max())
    return ("alike" if worst <= most else "shown otherwise"), worst


def main() -> int:
    """Print the table; the exit status tells whether a film is shown otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for p, ours, theirs in films(folder):
            said, worst = compare(p, ours, theirs, folder)
            counts[str(p["coded"]), said] += 1
            if said != "alike":
                words = ", ".join(str(getattr(value, "name", value)) for value in p.values())
                print(f"{said}: {words}: off by {worst:.1f}", flush=True)
    print("| Coded by | Films | Alike | Otherwise |\n|---|--:|--:|--:|")
    for coded in dict.fromkeys(coded for coded, _ in counts):
        total = sum(n for (c, _), n in counts.items() if c == coded)
        alike = counts[coded, "alike"]
        print(f"| {coded} | {total} | {alike} | {total - alike} |")
    return int(any(said == "shown otherwise" for _, said in counts))


if __name__ == "__main__":
    sys.exit(main())
