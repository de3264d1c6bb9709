"""DICOM films in every pair of properties, each with the picture that an independent reader makes of it."""

from __future__ import annotations

import io
import itertools
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from phantoms.film import make_phantom

#: What a film may be. Pairs that cannot be together are left out by `possible`.
PROPERTIES: Mapping[str, tuple[object, ...]] = {
    "syntax": (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ),
    "bits": (8, 10, 12, 15, 16),
    "signed": (False, True),
    "photometric": ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "PALETTE COLOR"),
    "modality": ("none", "rescale", "lut"),
    "voi": ("none", "window", "two windows", "exact", "sigmoid", "lut"),
    "padding": (False, True),
    "shape": ("upright", "wide", "odd"),
    "stored": ("lowest bits", "highest bits"),
}
_PLAIN: Mapping[str, object] = {name: values[0] for name, values in PROPERTIES.items()} | {
    "photometric": "MONOCHROME2"
}
SIZES = {"upright": (160, 120), "wide": (120, 160), "odd": (131, 97)}
COLOURS = frozenset({"RGB", "YBR_FULL", "PALETTE COLOR"})


@dataclass(frozen=True)
class Film:
    """A film's properties, its file, and how bright each pixel is to be shown."""

    properties: Mapping[str, object]
    data: bytes
    expected: npt.NDArray[np.float64]

    @property
    def name(self) -> str:
        """The properties in one line."""
        return ", ".join(str(getattr(value, "name", value)) for value in self.properties.values())


def possible(p: Mapping[str, object]) -> bool:
    """Tell whether a film can have these properties together."""
    native = p["syntax"] not in {RLELossless, JPEG2000Lossless}
    if p["photometric"] in COLOURS:
        plain = p["modality"] == "none" and p["voi"] == "none" and not p["padding"] and not p["signed"]
        return plain and p["bits"] == 8 and p["stored"] == "lowest bits" and p["syntax"] != JPEG2000Lossless
    if p["stored"] == "highest bits" and (p["bits"] in {8, 16} or not native):
        return False
    # a LUT of more than 65,535 entries, or of a signed range, is another test's
    return not (p["signed"] and (p["modality"] == "lut" or p["bits"] == 8))


def combinations(seed: int = 0) -> list[dict[str, object]]:
    """Return films so that every possible pair of properties stands in one of them at least."""
    names = list(PROPERTIES)
    pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in PROPERTIES[a]
        for y in PROPERTIES[b]
    }
    rng, chosen, missing = random.Random(seed), [], set(pairs)
    for pair in sorted(pairs, key=str) + [()] * 300:
        if pair and (pair not in missing or len(missing) == 0):
            continue
        if not pair and len(chosen) >= 300:
            break
        for attempt in range(200):
            others = {name: rng.choice(values) for name, values in PROPERTIES.items()}
            film = (others if attempt else _PLAIN | {"shape": others["shape"]}) | dict(pair)
            if possible(film) and film not in chosen:
                missing -= set(itertools.combinations(film.items(), 2))
                chosen.append(film)
                break
    return chosen


def films(seed: int = 0) -> Iterator[Film]:
    """Yield the films of `combinations`."""
    for number, properties in enumerate(combinations(seed)):
        yield make(properties, number % 4)


def make(p: Mapping[str, object], which: int) -> Film:
    """Make one film; `which` of a few hands it shows."""
    # pydicom reads neither High Bit (PS3.5, 8.1.1) nor, in implicit data, the sign of a VOI LUT's first value
    # where a rescale has made the values signed (PS3.3, C.11.2.1.1): it is shown the film without these
    plainest = {**p, "syntax": ExplicitVRLittleEndian, "stored": "lowest bits"}
    return Film(p, written(p, which), independent(written(plainest, which)))


def written(p: Mapping[str, object], which: int) -> bytes:
    """Write one film."""
    rows, columns = SIZES[str(p["shape"])]
    shown = cv2.resize(_hand(which), (columns, rows), interpolation=cv2.INTER_AREA)
    film = _header(p, rows, columns)
    draw = _colours if p["photometric"] in COLOURS else _greys
    frame = draw(film, p, shown)
    _code(film, p, frame)
    file = io.BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


@cache
def _hand(which: int) -> npt.NDArray[np.uint8]:
    hand = make_phantom(which + 2, "hand").pixels
    noise = np.random.default_rng(which).normal(0, 6, hand.shape)  # a film's ground is never even
    return np.clip(hand + noise, 0, 255).astype(np.uint8)


def _header(p: Mapping[str, object], rows: int, columns: int) -> Dataset:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = p["syntax"]
    film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    film.Rows, film.Columns, film.PhotometricInterpretation = rows, columns, p["photometric"]
    film.SamplesPerPixel = 3 if p["photometric"] in {"RGB", "YBR_FULL"} else 1
    bits = int(str(p["bits"]))
    film.BitsStored, film.BitsAllocated = bits, 8 if bits == 8 else 16
    film.HighBit = 15 if p["stored"] == "highest bits" else bits - 1
    film.PixelRepresentation = int(bool(p["signed"]))
    return film


def _colours(film: Dataset, p: Mapping[str, object], shown: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if p["photometric"] == "PALETTE COLOR":
        for channel in ("Red", "Green", "Blue"):
            setattr(film, f"{channel}PaletteColorLookupTableDescriptor", [256, 0, 8])
            table = (
                bytes(255 - n for n in range(256))
                if channel != "Blue"
                else bytes(255 - n * 9 // 10 for n in range(256))
            )
            setattr(film, f"{channel}PaletteColorLookupTableData", table)
        return 255 - shown
    film.PlanarConfiguration = 0
    tinted = np.dstack([shown, shown, (shown * 0.85).astype(np.uint8)])
    return tinted if p["photometric"] == "RGB" else np.asarray(convert_color_space(tinted, "RGB", "YBR_FULL"))


def _greys(film: Dataset, p: Mapping[str, object], shown: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
    bits = film.BitsStored
    top = (1 << bits) - 1
    bright = 255 - shown if p["photometric"] == "MONOCHROME1" else shown
    if p["modality"] == "lut":
        bright = 255 - bright  # the LUT turns it back
    values = np.rint(bright * (top * 0.9 / 255) + top * 0.05).astype(np.int64)
    low = -(1 << bits - 1) if p["signed"] else 0
    if p["padding"]:
        values[:8] = values[:, :6] = top if p["photometric"] == "MONOCHROME2" else 0
        film.add_new("PixelPaddingValue", "SS" if p["signed"] else "US", int(values[0, 0]) + low)
    values += low
    slope, intercept, span = 1.0, 0.0, (low, low + top)
    if p["modality"] == "rescale":
        slope, intercept = 0.5, -100.0
        film.RescaleSlope, film.RescaleIntercept = slope, intercept
        span = (low * slope + intercept, (low + top) * slope + intercept)
    elif p["modality"] == "lut":
        film.ModalityLUTSequence = [_lut(np.arange(top, -1, -1), 0, 16, modality=True)]
        span = (0, top)
    _window(film, str(p["voi"]), *span)
    words = values.astype(np.int16 if p["signed"] else np.uint16)
    return words.astype(words.dtype.str.replace("2", "1")) if bits == 8 else words


def _window(film: Dataset, voi: str, low: float, high: float) -> None:
    centre, width = (low + high + 1) / 2, (high - low) * (0.6 if voi == "sigmoid" else 0.95)
    if voi in {"window", "exact", "sigmoid"}:
        film.WindowCenter, film.WindowWidth = centre, width
    if voi == "two windows":
        film.WindowCenter, film.WindowWidth = [centre, centre * 1.1], [width, width * 0.5]
    if voi in {"exact", "sigmoid"}:
        film.VOILUTFunction = "LINEAR_EXACT" if voi == "exact" else "SIGMOID"
    if voi == "lut":
        first, count = int(np.ceil(low)), min(int(high - low) + 1, 65535)
        film.VOILUTSequence = [_lut(np.linspace(0, 4095, count).astype(int), first, 12)]


def _lut(table: npt.NDArray[np.int64], first: int, bits: int, *, modality: bool = False) -> Dataset:
    item = Dataset()
    signed = "SS" if first < 0 else "US"
    item.add_new("LUTDescriptor", signed, [len(table) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(table, "<u2").tobytes())
    if modality:
        item.ModalityLUTType = "US"
    return item


def _code(film: Dataset, p: Mapping[str, object], frame: npt.NDArray[np.generic]) -> None:
    syntax = p["syntax"]
    if p["stored"] == "highest bits":
        frame = (frame.view(np.uint16) << (16 - film.BitsStored)).view(frame.dtype)
    if syntax == JPEG2000Lossless:
        coded = bytes(encode_jpeg_2000(frame, bits_stored=film.BitsStored, photometric_interpretation=2))
        film.PixelData = encapsulate([coded])
    elif syntax == RLELossless:
        film.PixelData = frame.tobytes()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        return
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        data = frame.astype(frame.dtype.newbyteorder(order)).tobytes()
        film.PixelData = data + bytes(len(data) % 2)
        if syntax == ExplicitVRBigEndian:
            for word in ("ModalityLUTSequence", "VOILUTSequence"):
                for item in film.get(word) or ():
                    item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    film["PixelData"].VR = "OB" if syntax == JPEG2000Lossless or frame.itemsize == 1 else "OW"
    film["PixelData"].is_undefined_length = syntax == JPEG2000Lossless


def independent(data: bytes) -> npt.NDArray[np.float64]:
    """Render a film as pydicom's own functions do, 0-255 with bone bright; padding is black."""
    film = pydicom.dcmread(io.BytesIO(data))
    values = film.pixel_array
    if film.PhotometricInterpretation in COLOURS:
        if film.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, film)
        return np.asarray(values @ np.array([0.299, 0.587, 0.114]))  # ITU-R BT.601
    padding = (
        values == film.PixelPaddingValue if "PixelPaddingValue" in film else np.zeros(values.shape, bool)
    )
    modality = apply_modality_lut(values, film)
    if "WindowWidth" in film or "VOILUTSequence" in film:
        with warnings.catch_warnings():
            # a rescale may leave fractions, and who compares allows for what pydicom then cuts
            warnings.filterwarnings("ignore", "Applying a VOI LUT on a float input array")
            grey = _scaled(np.asarray(apply_voi_lut(modality, film), float), film)
    else:
        low, high = np.percentile(modality[~padding], (0.5, 99.5))
        grey = np.clip((modality.astype(float) - low) / (high - low), 0, 1) * 255
    if film.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return np.where(padding, 0.0, grey)


def _scaled(shown: npt.NDArray[np.float64], film: Dataset) -> npt.NDArray[np.float64]:
    """Bring what pydicom returns, in the range of the values that went in, to 0-255."""
    if "VOILUTSequence" in film:
        return shown / 4095 * 255
    if "ModalityLUTSequence" in film:
        return shown / 65535 * 255
    low = -(1 << film.BitsStored - 1) if film.PixelRepresentation else 0
    high = low + (1 << film.BitsStored) - 1
    slope, intercept = float(film.get("RescaleSlope", 1)), float(film.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    return (shown - low) / (high - low) * 255
