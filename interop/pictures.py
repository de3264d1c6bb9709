"""Secondary Captures: the attention map of an image, and a summary page of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset

from interop.reading import ReadImage, Reading, base, references, written
from settings import VERSION
from vocabulary.anatomy import part_words
from vocabulary.dicom import MANUFACTURER, SECONDARY_CAPTURE
from vocabulary.words import NOTICE, TRIAGE_WORDS

#: Pixels of width at least, so that the banner is legible.
MIN_WIDTH = 720
Picture = np.ndarray[Any, np.dtype[np.uint8]]


def _result_text(reading: Reading, image: ReadImage) -> str:
    """Return an image's result as text."""
    said = f"{TRIAGE_WORDS[image.triage] if image.triage else 'Not read'} for {reading.noun}"
    if image.probability is not None:
        said += f", probability {image.probability:.2f}"
    side = {"L": "left ", "R": "right "}.get(image.laterality, "")
    return f"{said}. {side}{part_words(image.region)}".strip()


def banner(reading: Reading, image: ReadImage) -> list[str]:
    """Return the lines that are burned into an image's Secondary Capture."""
    return [
        f"{NOTICE.upper()}. NOT FOR DIAGNOSIS.",
        f"Image {image.number}: {_result_text(reading, image)}",
        f"{MANUFACTURER} {VERSION}, {reading.bundle}, version {reading.version}. Colour shows where the model"
        " looked, not a fracture.",
    ]


def draw_picture(reading: Reading, image: ReadImage) -> Picture:
    """Return the picture with its banner above it: red-green-blue, uint8 of shape (height, width, 3)."""
    picture = cv2.imdecode(np.frombuffer(image.picture, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("the stored picture cannot be decoded")
    lines = banner(reading, image)
    widest = max(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0] for line in lines)
    width = max(picture.shape[1], MIN_WIDTH)
    scale = min(width / (widest + 20), 1.6)
    step = round(34 * scale) + 2
    strip = np.zeros((step * len(lines) + step // 2, width, 3), np.uint8)
    for n, line in enumerate(lines):
        place = (round(8 * scale), step * (n + 1) - step // 6)
        cv2.putText(strip, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    below = np.zeros((picture.shape[0], width, 3), np.uint8)
    below[:, : picture.shape[1]] = picture
    return np.ascontiguousarray(np.vstack([strip, below])[..., ::-1])


def secondary_capture(reading: Reading, image: ReadImage, sop_uid: str) -> bytes:
    """Return the Secondary Capture of one image: the attention map, and in its pixels what it is."""
    out = base(reading, image, "sc", SECONDARY_CAPTURE, sop_uid)
    pixels = draw_picture(reading, image)
    out.InstanceNumber = 1000 * reading.version + image.number
    out.DerivationDescription = "Attention map drawn over the radiograph, with a banner"
    out.Laterality = image.laterality
    out.SourceImageSequence = references([image])
    _set_pixels(out, pixels)
    return written(out)


def _set_pixels(out: Dataset, pixels: Picture) -> None:
    """Write a picture into an object, and that it is one drawn by a workstation."""
    out.Modality, out.ConversionType = "OT", "WSD"
    out.ImageType = ["DERIVED", "SECONDARY"]
    out.PatientOrientation = ""
    out.BurnedInAnnotation, out.RecognizableVisualFeatures = "NO", "NO"
    out.SamplesPerPixel, out.PhotometricInterpretation, out.PlanarConfiguration = 3, "RGB", 0
    out.Rows, out.Columns = pixels.shape[:2]
    out.BitsAllocated = out.BitsStored = 8
    out.HighBit, out.PixelRepresentation = 7, 0
    data = pixels.tobytes()
    out.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))


#: Of a summary page, in pixels.
PAGE_WIDTH, PAGE_MARGIN, PAGE_STEP = 1240, 48, 40
#: Images of which the page shows a small picture, side by side; of others it has the line alone.
SHOWN, SHOWN_HEIGHT = 6, 420


def _line(page: Picture, text: str, x: int, y: int, scale: float = 0.8, *, bold: bool = False) -> None:
    weight = 2 if bold else 1
    cv2.putText(page, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), weight, cv2.LINE_AA)


def _small_pictures(images: Sequence[ReadImage]) -> Picture:
    """Return the first images side by side, each with its number."""
    width = (PAGE_WIDTH - 2 * PAGE_MARGIN) // 3
    rows = -(-min(len(images), SHOWN) // 3)
    out = np.full((rows * (SHOWN_HEIGHT + PAGE_STEP), PAGE_WIDTH, 3), 255, np.uint8)
    for n, image in enumerate(images[:SHOWN]):
        picture = cv2.imdecode(np.frombuffer(image.picture, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError("the stored picture cannot be decoded")
        fit = min((width - 16) / picture.shape[1], SHOWN_HEIGHT / picture.shape[0])
        size = max(1, round(picture.shape[1] * fit)), max(1, round(picture.shape[0] * fit))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        x, y = PAGE_MARGIN + n % 3 * width, n // 3 * (SHOWN_HEIGHT + PAGE_STEP)
        out[y + PAGE_STEP : y + PAGE_STEP + size[1], x : x + size[0]] = small
        _line(out, f"Image {image.number}", x, y + PAGE_STEP - 12, 0.7)
    return out


def draw_summary(reading: Reading) -> Picture:
    """Return a page that says what a study amounts to: red-green-blue, uint8 of shape (height, width, 3)."""
    lines = [f"Image {image.number}: {_result_text(reading, image)}" for image in reading.images]
    head = np.full((6 * PAGE_STEP, PAGE_WIDTH, 3), 255, np.uint8)
    _line(head, f"{NOTICE.upper()}. NOT FOR DIAGNOSIS.", PAGE_MARGIN, PAGE_STEP + 10, 0.9, bold=True)
    said = f"Study: {TRIAGE_WORDS[reading.triage]} for {reading.noun}"
    _line(head, said, PAGE_MARGIN, 3 * PAGE_STEP, 1.3, bold=True)
    images = f"{len(lines)} image" + ("s" if len(lines) != 1 else "")
    made = f"{images}, read {reading.made_at:%Y-%m-%d %H:%M} UTC by {MANUFACTURER} {VERSION}"
    made += f", {reading.bundle}, version {reading.version}"
    _line(head, made, PAGE_MARGIN, 4 * PAGE_STEP + 10)
    _line(head, "Colour shows where the model looked, not a fracture.", PAGE_MARGIN, 5 * PAGE_STEP + 10)
    table = np.full(((len(lines) + 1) * PAGE_STEP, PAGE_WIDTH, 3), 255, np.uint8)
    for n, line in enumerate(lines):
        _line(table, line, PAGE_MARGIN, (n + 1) * PAGE_STEP)
    return np.ascontiguousarray(np.vstack([head, table, _small_pictures(reading.images)])[..., ::-1])


def summary(reading: Reading, sop_uid: str) -> bytes:
    """Return the Secondary Capture of a page that sums the study up."""
    out = base(reading, reading.images[0], "summary", SECONDARY_CAPTURE, sop_uid)
    out.InstanceNumber = reading.version
    out.DerivationDescription = "Summary of what the AI says of the study"
    sides = {image.laterality for image in reading.images}
    out.Laterality = sides.pop() if len(sides) == 1 else ""
    out.SourceImageSequence = references(reading.images)
    _set_pixels(out, draw_summary(reading))
    return written(out)
