"""Films that are read positive, made worse step by step: how each is read then. None may come out negative.

``python -m bench.doses FOLDER [--films 200] [--only WORD ...]`` prints a table. Each change goes through a
file: a plain export or a DICOM object with such a header, decoded, gated and scored as the worker does. Every
body part is judged as if it had earned its *negative*. With ``--unflagged`` only films are scored that no
flag keeps from *negative*; the others are counted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.decode.picture import decode
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate, may_be_negative, triage
from pipeline.types import Radiograph, Rejected, Route, UInt8Array
from vocabulary.reasons import Reason
from vocabulary.states import Triage

ROOT = Path(__file__).resolve().parent.parent
_CHUNK = 32
_CR = "1.2.840.10008.5.1.4.1.1.1"


def plain(pixels: UInt8Array) -> bytes:
    """Export a picture as a PNG."""
    return bytes(cv2.imencode(".png", pixels)[1])


def dicom(pixels: UInt8Array, **header: object) -> bytes:
    """Write a picture as a CR object of 12 bits."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = _CR, "1.2.3"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.WindowCenter, film.WindowWidth = 2048, 4096
    film.PixelData = (pixels.astype("<u2") * 16).tobytes()
    for word, value in header.items():
        setattr(film, word, value)
    file = BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def squashed(pixels: UInt8Array, *, across: bool) -> bytes:
    """Halve one side, and say so in the header."""
    half = pixels[:, ::2] if across else pixels[::2]
    return dicom(np.ascontiguousarray(half), PixelSpacing=[0.1, 0.2] if across else [0.2, 0.1])


def changes() -> dict[str, Callable[[UInt8Array], bytes]]:
    """Return what is done to a film, by name."""
    found: dict[str, Callable[[UInt8Array], bytes]] = {"as it is": plain}
    for times in (1.5, 2, 2.5, 3, 4, 8, 16):
        found[f"darker, {times} times"] = lambda p, t=times: plain((p / t).astype(np.uint8))
    for times in (1.5, 2, 2.5, 3, 4, 8, 16):
        found[f"window wider, {times} times, from 0"] = lambda p, t=times: dicom(
            p, WindowCenter=2048 * t, WindowWidth=4096 * t
        )
        found[f"window wider, {times} times, centred"] = lambda p, t=times: dicom(p, WindowWidth=4096 * t)
    for times in (2, 4, 8, 32):
        found[f"window narrower, {times} times"] = lambda p, t=times: dicom(p, WindowWidth=4096 / t)
        found[f"brighter, {times} times"] = lambda p, t=times: plain(
            np.minimum(p.astype(np.int32) * t, 255).astype(np.uint8)
        )
    found["inverted export"] = lambda p: plain(np.invert(p))
    found["inverted object"] = lambda p: dicom(np.invert(p))
    found["inverted export, in a black frame"] = lambda p: plain(np.pad(np.invert(p), 20))
    for times in (2, 4, 8):
        found[f"darker, {times} times, in a white frame"] = lambda p, t=times: plain(
            np.pad((p / t).astype(np.uint8), 20, constant_values=255)
        )
    found["black and white"] = lambda p: plain(np.where(p > p.mean(), 255, 0).astype(np.uint8))
    found["cut: half of the rows stated"] = lambda p: dicom(p, Rows=p.shape[0] // 2)
    found["cut: file ends at half"] = lambda p: dicom(p)[: p.size]
    found["squashed in width, stated"] = lambda p: squashed(p, across=True)
    found["squashed in height, stated"] = lambda p: squashed(p, across=False)
    for side, across in (("width", True), ("height", False)):
        for times in (1.25, 1.5, 2):
            found[f"squashed in {side}, {times} times, not stated"] = lambda p, t=times, a=across: plain(
                cv2.resize(p, None, fx=1 / t if a else 1, fy=1 if a else 1 / t, interpolation=cv2.INTER_AREA)
            )
    return found


def read(scorer: Scorer, files: Sequence[bytes], *, unflagged: bool = False) -> list[str]:
    """Return how each file is read: a triage, ``refused``, or ``flagged`` where those are not scored."""
    said: list[str] = ["refused"] * len(files)
    films: list[tuple[int, Radiograph]] = []
    for number, data in enumerate(files):
        try:
            found = decode(data, max_pixels=10**8, pseudonymise=str)
        except Rejected:
            continue
        if unflagged and Reason.TOO_LITTLE_CONTRAST in found.flags:
            said[number] = Triage.NOT_ASSESSABLE.value
        elif unflagged and not may_be_negative(found.flags):
            said[number] = "flagged"
        else:
            films.append((number, found))
    for start in range(0, len(films), _CHUNK):
        judge(scorer, films[start : start + _CHUNK], said)
    return said


def ways(scorer: Scorer, films: Sequence[Radiograph]) -> list[Route]:
    """Return by which model each film is read, if at all; the header's word on the body part is not asked."""
    bundle = scorer.bundle
    scores = scorer.classify(np.stack([model_input(film.pixels, bundle.region_input_size) for film in films]))
    return [
        route(
            dict(zip(bundle.regions, map(float, row), strict=True)),
            float(distance),
            bundle.routing,
            body_part="",
            regions=tuple(bundle.models),
            picture=film.flags,
            families=bundle.families,
        )
        for row, distance, film in zip(scores.probabilities, scores.distances, films, strict=True)
    ]


def judge(scorer: Scorer, films: Sequence[tuple[int, Radiograph]], said: list[str]) -> None:
    """Write into `said` how films are read, each at its number."""
    bundle = scorer.bundle
    groups: defaultdict[str, list[tuple[int, Radiograph, Route]]] = defaultdict(list)
    for way, (number, film) in zip(ways(scorer, [film for _, film in films]), films, strict=True):
        if way.not_assessable is not None:
            said[number] = Triage.NOT_ASSESSABLE.value
            continue
        groups[bundle.models[way.region].network].append((number, film, way))
    for network, group in groups.items():
        size = bundle.input_size(network)
        stack = np.stack([model_input(film.pixels, size) for _, film, _ in group])
        for logit, (number, _, way) in zip(scorer.detect(network, stack).logits, group, strict=True):
            model = bundle.models[way.region]
            allowed = may_be_negative(way.flags)
            probability = calibrate(float(logit), model.calibration)
            said[number] = triage(probability, model.thresholds, never_negative=not allowed).value


def main() -> int:
    """Print the table; the exit status tells whether a film came out negative."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="images/ and manifest.csv of FracAtlas")
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "bundles" / "fracatlas-3")
    parser.add_argument("--only", nargs="*", default=[""], help="only changes whose name begins so")
    parser.add_argument("--unflagged", action="store_true", help="score only what carries no flag")
    options = parser.parse_args()
    scorer = open_scorer(load_bundle(options.bundle))
    with (options.folder / "manifest.csv").open(newline="") as file:
        names = [row["image_id"] for row in csv.DictReader(file) if row["label"] == "fractured"]
    films: list[UInt8Array] = []
    for start in range(0, len(names), _CHUNK):
        if len(films) >= options.films:
            break
        paths = [options.folder / "images" / name for name in names[start : start + _CHUNK]]
        said = read(scorer, [path.read_bytes() for path in paths])
        found = [path for path, how in zip(paths, said, strict=True) if how == Triage.POSITIVE.value]
        films += [np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8) for path in found]
    films = films[: options.films]
    columns = ["positive", "doubt", "not_assessable", "refused", "negative"]
    if options.unflagged:
        columns.insert(2, "flagged")
    print(f"| {len(films)} positive films of `{scorer.bundle.name}` |", " | ".join(columns), "|")
    print("|---|" + "--:|" * len(columns))
    negatives = 0
    for name, change in changes().items():
        if not name.startswith(tuple(options.only)):
            continue
        counts = Counter(read(scorer, [change(film) for film in films], unflagged=options.unflagged))
        negatives += counts["negative"]
        print(f"| {name} |", " | ".join(str(counts[column]) for column in columns), "|", flush=True)
    print(f"{negatives} negative")
    return int(negatives > 0)


if __name__ == "__main__":
    sys.exit(main())
