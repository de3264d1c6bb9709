"""The coded frame: checked against the header before memory is taken on its word, then decoded."""

from __future__ import annotations

import struct
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as jpeg_2000_decode
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from pipeline.decode.containers import JPEG_START_OF_FRAME, MAX_JPEG_SCANS, jpeg_segments
from pipeline.decode.gdcm_frames import decode_frame
from pipeline.decode.stripped import strip_jpeg, strip_jpeg_2000
from pipeline.dicom.terms import (
    JPEG_2000_SYNTAXES,
    JPEG_SYNTAXES,
    LOSSY_JPEG_SYNTAXES,
    NATIVE,
    NEEDED,
    ONE_SAMPLE,
    PHOTOMETRICS,
    RLE,
    UID_PATTERN,
)
from pipeline.quality import require_size
from pipeline.types import Reason, Rejected


def require_pixel_module(clean: Dataset, max_pixels: int) -> None:
    """Check the header's claims before memory is taken on their word, and fill in what may be left out."""
    for word, default in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        clean.setdefault(word, default)
    if "BitsStored" not in clean:
        clean.BitsStored = clean.get("BitsAllocated")
    if "HighBit" not in clean and clean.BitsStored:
        clean.HighBit = clean.BitsStored - 1
    numbers = [clean.get(word) for word in NEEDED]
    if not all(isinstance(n, int) for n in numbers):
        raise Rejected(Reason.DICOM_CORRUPT, "incomplete image pixel module")
    samples, rows, columns, allocated, stored, high, representation = cast(list[int], numbers)
    photometric = clean.get("PhotometricInterpretation")
    require_size(columns, rows, max_pixels)
    if (
        photometric not in PHOTOMETRICS
        or samples != (1 if photometric in ONE_SAMPLE else 3)
        or allocated not in {8, 16}
        or not 1 <= stored <= allocated
        or not stored - 1 <= high < allocated
        or representation not in {0, 1}
    ):
        raise Rejected(Reason.DICOM_CORRUPT, "image pixel module that contradicts itself or is not read")


def stored_values(coded: bytes, coded_as: str, clean: Dataset) -> npt.NDArray[Any]:
    """Decode the pixel data and keep them in `clean`, cut to what a decoder needs of them.

    A copy keeps the coding of its upload. Only a compressed frame that does not hold together, or whose
    values have more bits than the header says, is kept uncompressed: those bits may be text.

    Returns
    -------
    numpy.ndarray
        Stored values of shape (rows, columns), or blue-green-red of shape (rows, columns, 3).
    """
    syntax = clean.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        per_pixel = 2 if clean.PhotometricInterpretation == "YBR_FULL_422" else clean.SamplesPerPixel
        length = clean.Rows * clean.Columns * per_pixel * clean.BitsAllocated // 8
        if len(coded) < length:
            raise Rejected(Reason.TRUNCATED, "pixel data shorter than rows times columns")
        frame = _without_unused_bits(coded[:length], clean) + b"\0" * (length % 2)
        clean.add_new("PixelData", "OB" if coded_as == "OB" else "OW", frame)
        # all allocated bits, since pydicom would cut the upper ones of a picture that is stored high
        values = get_decoder(syntax).as_array(clean, index=0, bits_stored=clean.BitsAllocated)[0]
    elif syntax in JPEG_SYNTAXES | JPEG_2000_SYNTAXES or syntax == RLE:
        frame = next(generate_frames(coded, number_of_frames=1))
        stripped: bytes | None
        if syntax == RLE:
            values, stripped = _decode_rle(frame, clean)
        elif syntax in JPEG_2000_SYNTAXES:
            _require_jpeg_2000(frame, clean)
            stripped = strip_jpeg_2000(frame)
            values = jpeg_2000_decode(stripped or frame)
        else:
            stripped = strip_jpeg(frame)
            values = _decode_jpeg(stripped, clean, _require_jpeg(stripped, clean))
        limited = _limited(values, clean)
        if stripped is None or limited is not None:
            values = _keep_uncompressed(values if limited is None else limited, clean)
        else:
            clean.add_new("PixelData", "OB", encapsulate([stripped]))
            clean["PixelData"].is_undefined_length = True
    else:
        raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, syntax if UID_PATTERN.fullmatch(syntax) else "")
    if clean.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, clean)
    if values.shape[:2] != (clean.Rows, clean.Columns) or values.dtype.itemsize > 2:
        raise Rejected(Reason.DICOM_CORRUPT, "decoded to another size than its header says")
    return values[..., ::-1] if values.ndim == 3 else values


def _without_unused_bits(coded: bytes, clean: Dataset) -> bytes:
    """Return native pixel data whose bits beside the stored ones are zero, or the sign."""
    stored, allocated = clean.BitsStored, clean.BitsAllocated
    if stored == allocated:
        return coded
    order = ">" if clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    values = np.frombuffer(coded, f"{order}u{allocated // 8}")
    shift = clean.HighBit + 1 - stored
    if not shift and not clean.PixelRepresentation and int(values.max()) < 1 << stored:
        return coded
    kept = values & (((1 << stored) - 1) << shift)
    if clean.PixelRepresentation and not shift:
        sign = kept >> (stored - 1) & 1
        kept |= sign * ((1 << allocated) - (1 << stored))
    return bytes(kept.astype(values.dtype, copy=False).tobytes())


def _limited(values: npt.NDArray[Any], clean: Dataset) -> npt.NDArray[Any] | None:
    """Return decoded values cut to the stored bits, as the picture uses them; None if there is no need."""
    stored, width = clean.BitsStored, 8 * values.itemsize
    if stored >= width:
        return None
    signed = clean.PixelRepresentation == 1 or values.dtype.kind == "i"
    if not signed:
        limit = (1 << stored) - 1
        return np.minimum(values, limit) if int(values.max()) > limit else None
    plain = values.view(f"u{values.itemsize}")
    kept = plain & ((1 << stored) - 1)
    extended = kept | (kept >> (stored - 1) & 1) * ((1 << width) - (1 << stored))
    return None if bool(((plain == kept) | (plain == extended)).all()) else extended.view(values.dtype)


def _keep_uncompressed(values: npt.NDArray[Any], clean: Dataset) -> npt.NDArray[Any]:
    """Keep decoded values in `clean` without compression, lowest bit first; return them."""
    clean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.HighBit = clean.BitsStored - 1
    if values.ndim == 3:
        clean.PhotometricInterpretation, clean.PlanarConfiguration = "RGB", 0
    words = values.astype(f"<{values.dtype.kind}{clean.BitsAllocated // 8}")
    clean.add_new("PixelData", "OW", words.tobytes() + b"\0" * (words.nbytes % 2))
    return values


def _decode_rle(frame: bytes, clean: Dataset) -> tuple[npt.NDArray[Any], bytes]:
    """Decode RLE Lossless (DICOM PS3.5 annex G): a segment of PackBits for each byte plane, high bytes first.

    Written out here because the decoders at hand either panic on a damaged run or take all the memory that
    a lying one asks for. Returned with the frame anew, without what lies behind the runs that are needed.
    """
    size, depth = clean.Rows * clean.Columns, clean.BitsAllocated // 8
    count, *starts = struct.unpack_from("<16I", frame)
    if count != clean.SamplesPerPixel * depth:
        raise Rejected(Reason.DICOM_CORRUPT, "RLE segments do not match the header")
    ends = [*starts[1:count], len(frame)]
    try:
        unpacked = [_unpack_bits(frame[a:b], size) for a, b in zip(starts, ends, strict=False)]
    except IndexError:
        raise Rejected(Reason.TRUNCATED, "an RLE segment ends before the picture") from None
    planes, runs = zip(*unpacked, strict=True)
    places = np.cumsum([64, *map(len, runs[:-1])]).tolist()
    stripped = b"".join((struct.pack("<16I", count, *places, *[0] * (15 - count)), *runs))
    shape = clean.SamplesPerPixel, depth, clean.Rows, clean.Columns
    high_first = np.frombuffer(b"".join(planes), np.uint8).reshape(shape)
    values = np.ascontiguousarray(high_first.transpose(0, 2, 3, 1)).view(f">u{depth}")[..., 0]
    if clean.SamplesPerPixel == 1:
        return values[0], stripped
    colour = np.ascontiguousarray(values.transpose(1, 2, 0))
    if clean.PhotometricInterpretation.startswith("YBR"):
        return convert_color_space(colour, "YBR_FULL", "RGB"), stripped
    return colour, stripped


def _unpack_bits(coded: bytes, length: int) -> tuple[bytes, bytes]:
    """Undo PackBits up to `length` bytes; IndexError when there are fewer.

    Returns
    -------
    tuple
        The plain bytes, and the runs that make exactly these, padded to an even length.
    """
    plain, runs, position = bytearray(), bytearray(), 0
    while (missing := length - len(plain)) > 0:
        control = coded[position]
        if control == 128:
            position += 1
            continue
        if control < 128:
            n = min(control + 1, missing)
            run = coded[position + 1 : position + 1 + n]
            if len(run) < n:
                raise IndexError
            plain += run
            runs.append(n - 1)
            position += 2 + control
        else:
            n = min(257 - control, missing)
            run = coded[position + 1 : position + 2]
            if not run:
                raise IndexError
            plain += run * n
            runs.append((257 - n) & 255 if n > 1 else 0)
            position += 2
        runs += run
    return bytes(plain), bytes(runs) + b"\0" * (len(runs) % 2)


def _require_jpeg(frame: bytes, clean: Dataset) -> int:
    """Check a JPEG or JPEG-LS stream's size and end against the header; return its precision in bits."""
    scans, precision = 0, 0
    for segment in jpeg_segments(frame):
        scans += segment.marker == 0xDA
        if segment.marker in JPEG_START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", segment.body)
            if (rows, columns, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
                raise Rejected(Reason.DICOM_CORRUPT, "JPEG stream of another size than its header says")
    if not 1 <= scans <= MAX_JPEG_SCANS or not 2 <= precision <= 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG stream without a readable frame, or with too many scans")
    return precision


def _decode_jpeg(frame: bytes, clean: Dataset, precision: int) -> npt.NDArray[Any]:
    syntax, photometric = clean.file_meta.TransferSyntaxUID, clean.PhotometricInterpretation
    shape = clean.Rows, clean.Columns, clean.SamplesPerPixel
    if syntax in LOSSY_JPEG_SYNTAXES and precision == 8:
        if shape[2] == 3 and b"Adobe" not in frame[:1024]:  # say what the header says of the colours
            transform = b"\0" if photometric == "RGB" else b"\1"
            frame = frame[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + transform + frame[2:]
        picture = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise Rejected(Reason.DICOM_CORRUPT, "the decoder gave up")
        return picture if picture.ndim == 2 else picture[..., ::-1]
    if (
        syntax in LOSSY_JPEG_SYNTAXES
    ):  # extended: 12 bits (ITU-T T.81 table B.2), though some writers state 16
        if precision not in {12, 16} or clean.BitsStored != 12:
            raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, f"JPEG Extended of {precision} bits")
        precision = 12
    words = decode_frame(
        frame,
        syntax=syntax,
        rows=shape[0],
        columns=shape[1],
        samples=shape[2],
        precision=precision,
        photometric=photometric,
    )
    values = np.frombuffer(words, "u1" if precision <= 8 else "<u2").reshape(shape)
    if shape[2] == 1:
        return values[..., 0]
    return convert_color_space(values, "YBR_FULL", "RGB") if photometric.startswith("YBR") else values


def _require_jpeg_2000(frame: bytes, clean: Dataset) -> None:
    """Check a JPEG 2000 codestream (SIZ, ITU-T T.800 A.5.1) against the header, and that it has an end."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise Rejected(Reason.DICOM_CORRUPT, "no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    if (bottom - top, right - left, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG 2000 stream of another size than its header says")
    if (depth & 127) + 1 > 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG 2000 stream of more than 16 bits")
    if b"\xff\xd9" not in frame.rstrip(b"\0")[-1024:]:  # some writers pad to a block of theirs
        raise Rejected(Reason.TRUNCATED, "JPEG 2000 stream without its end marker")
