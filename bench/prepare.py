"""What the sandbox costs an image in `prepare`: ``python -m bench.prepare``.

Decoding, scaling and the display copy, as the stage does them, with the decoder in this process and in the
sandbox, in turns. Processor time is this process's and, for the sandbox, the child's; the clock says what a
worker waits for.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import cv2
import numpy as np
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from bench.measure import Spread, machine, publish
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.decode import picture, sandbox
from pipeline.preprocess import display_jpeg, model_input
from pipeline.types import Radiograph

MAX_PIXELS = 100_000_000
INPUT_SIZE = 320


def files() -> dict[str, bytes]:
    """Return a phantom in the usual formats and sizes."""
    small, film = make_phantom(1, "hand", size=(512, 400)), make_phantom(2, "hand", size=(2500, 2048))
    dicom = encode_phantom(film, "dicom")
    return {
        "PNG, 512 x 400": encode_phantom(small),
        "PNG, 2500 x 2048": encode_phantom(film),
        "JPEG, 512 x 400": encode_phantom(small, "jpeg"),
        "JPEG, 2500 x 2048": encode_phantom(film, "jpeg"),
        "DICOM, 2500 x 2048": dicom,
        "DICOM, RLE": _compressed(dicom, RLELossless),
        "DICOM, JPEG 2000": _compressed(dicom, JPEG2000Lossless),
    }


def _compressed(data: bytes, syntax: str) -> bytes:
    dataset, out = dcmread(io.BytesIO(data)), io.BytesIO()
    if syntax == JPEG2000Lossless:  # pydicom has no encoder of it
        boxed = cv2.imencode(".jp2", dataset.pixel_array)[1].tobytes()
        dataset.PixelData = encapsulate([boxed[boxed.index(b"\xff\x4f\xff\x51") :]])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(out)
    return out.getvalue()


def _prepare(radiograph: Radiograph) -> None:
    model_input(radiograph.pixels, INPUT_SIZE)
    display_jpeg(radiograph.pixels)


def _here(data: bytes) -> float:
    _prepare(picture.decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "0" * 64))
    return 0.0


def _confined(owner: str) -> Callable[[bytes], float]:
    """Return the step in the sandbox; it returns the processor time of the child so far."""

    def step(data: bytes) -> float:
        own = sandbox()
        _prepare(own.decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "0" * 64, owner=owner))
        return own.child_cpu_time()

    return step


def _measured(step: Callable[[bytes], float], data: bytes, images: int) -> tuple[float, float]:
    """Return milliseconds of processor time and on the clock, an image of a chunk."""
    cpu, clock, child = time.process_time(), time.perf_counter(), 0.0
    for _ in range(images):
        child = step(data)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return 1000 * (cpu + child) / images, 1000 * clock / images


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=32, help="images of a chunk")
    arguments = parser.parse_args()
    before = machine()
    cv2.setNumThreads(1)
    sandbox().warm_up()
    rows = {}
    for name, data in files().items():
        seen: dict[str, list[float]] = {"here": [], "sandbox": [], "here, clock": [], "sandbox, clock": []}
        for number in range(arguments.rounds):
            for way, step in (("here", _here), ("sandbox", _confined(f"{name} {number}"))):
                cpu, clock = _measured(step, data, arguments.images)
                seen[way].append(cpu)
                seen[f"{way}, clock"].append(clock)
        more = np.subtract(seen["sandbox"], seen["here"])
        rows[name] = {
            "CPU ms": Spread.of(seen["here"]),
            "in the sandbox": Spread.of(seen["sandbox"]),
            "more, CPU ms": Spread.of([float(value) for value in more]),
            "more, %": Spread.of([float(v) for v in 100 * more / np.array(seen["here"])]),
            "clock ms": Spread.of(seen["here, clock"]),
            "in the sandbox, clock ms": Spread.of(seen["sandbox, clock"]),
        }
    publish("prepare", "An image in prepare", rows, before)


if __name__ == "__main__":
    main()
