"""The coded frame: checked against the header before memory is taken on its word, then decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as jpeg_2000_decode
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from pipeline.decode.complaints import codecs, reports_damage
from pipeline.decode.containers import JPEG_START_OF_FRAME, MAX_JPEG_SCANS, jpeg_segments
from pipeline.decode.gdcm_frames import decode_frame
from pipeline.decode.stripped import strip_jpeg, strip_jpeg_2000, with_transform
from pipeline.dicom.stream import (
    MAX_BEYOND,
    MIN_BEYOND,
    by_plane,
    colour_of,
    cut_native,
    has_other_sign,
    is_grey,
    is_transposed,
    locate,
    put_right,
)
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
from pipeline.types import Rejected, RenderingStep
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode


def require_pixel_module(clean: Dataset, max_pixels: int) -> None:
    """Check the header's claims before memory is taken on their word, and fill in what may be left out."""
    for word, default in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        clean.setdefault(word, default)
    if "BitsStored" not in clean:
        high = clean.get("HighBit")
        clean.BitsStored = high + 1 if isinstance(high, int) else clean.get("BitsAllocated")
    if "HighBit" not in clean and clean.BitsStored:
        clean.HighBit = clean.BitsStored - 1
    numbers = [clean.get(word) for word in NEEDED]
    if not all(isinstance(n, int) for n in numbers):
        raise Rejected(Reason.DICOM_CORRUPT, "incomplete image pixel module")
    if "PhotometricInterpretation" not in clean:
        raise Rejected(Reason.DICOM_NO_PHOTOMETRIC)
    samples, rows, columns, allocated, stored, high, representation = cast(list[int], numbers)
    photometric = clean.get("PhotometricInterpretation")
    require_size(columns, rows, max_pixels)
    if allocated not in {8, 16} or samples not in {1, 3} or photometric not in PHOTOMETRICS:
        raise Rejected(Reason.DICOM_PIXEL_FORMAT, f"{allocated} bits, {samples} samples, {photometric}")
    if (photometric == "PALETTE COLOR") if samples == 3 else (photometric not in ONE_SAMPLE):
        raise Rejected(Reason.DICOM_CONTRADICTION, f"{samples} samples, {photometric}")
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated or representation not in {0, 1}:
        raise Rejected(Reason.DICOM_CORRUPT, "image pixel module that contradicts itself or is not read")


@dataclass(frozen=True)
class Decoded:
    """Stored values (rows, columns), or blue-green-red (rows, columns, 3), and how they came about."""

    values: npt.NDArray[Any]
    flags: tuple[Reason, ...] = ()
    steps: tuple[RenderingStep, ...] = ()


def stored_values(value: bytes, coded_as: str, clean: Dataset) -> Decoded:
    """Decode the pixel data and keep them in `clean`, cut to what a decoder needs of them.

    A copy keeps the coding of its upload, named as it is. Only a compressed frame that does not hold
    together, or whose values have more bits than the header says, is kept uncompressed: those bits may be
    text. Where the stream and the header disagree, `pipeline.dicom.stream` decides.
    """
    pixels = clean.Rows * clean.Columns
    length = pixels * clean.SamplesPerPixel * clean.BitsAllocated // 8
    subsampled = clean.PhotometricInterpretation == "YBR_FULL_422" and len(value) < length
    if subsampled and clean.file_meta.TransferSyntaxUID in NATIVE:
        length = 2 * pixels * clean.BitsAllocated // 8
    stream, steps = locate(value, clean.file_meta.TransferSyntaxUID, length)
    clean.file_meta.TransferSyntaxUID = stream.syntax
    flags: tuple[Reason, ...] = ()
    if stream.native:
        coded, flags, more = cut_native(stream.coded, length, length // clean.Rows)
        steps += more
        if clean.HighBit == clean.BitsStored - 1:
            order = ">" if stream.syntax == ExplicitVRBigEndian else "<"
            words = np.frombuffer(coded, f"{order}u{clean.BitsAllocated // 8}")
            words, odd, more = put_right(
                words.astype(words.dtype.newbyteorder("=")),
                clean.BitsStored,
                signed=clean.PixelRepresentation == 1,
                grey=clean.SamplesPerPixel == 1,
            )
            flags, steps = flags + odd, steps + more
            coded = words.astype(order + "u2").tobytes() if more else coded
        elif _beyond_below(coded, clean, stream.syntax) > MAX_BEYOND:
            flags += (Reason.HEADER_CONTRADICTS_PICTURE,)
        kept = _without_unused_bits(coded, clean)
        clean.add_new("PixelData", "OB" if coded_as == "OB" else "OW", kept + b"\0" * (length % 2))
        if clean.SamplesPerPixel == 3 and not subsampled:
            planes, arranged = _native_planes(kept, clean)
            values, more = _settled(planes, clean)
            more = arranged + more
            steps += more
            values = _keep_uncompressed(values, clean) if more else values
        else:
            # all allocated bits, since pydicom would cut the upper ones of a picture that is stored high
            values = get_decoder(stream.syntax).as_array(clean, index=0, bits_stored=clean.BitsAllocated)[0]
    else:
        codecs.heard()
        frame = _decode_frame(stream.coded, stream.syntax, clean)
        values = frame.values
        steps += frame.steps
        if frame.damaged or reports_damage(codecs.heard(), frame.kept or b""):
            flags = (Reason.DAMAGED_PICTURE_DATA,)
        low = clean.HighBit == clean.BitsStored - 1  # stored bits begin at the lowest
        if stream.syntax == RLE and low and values.ndim == 2 and values.dtype == np.uint16:
            # some writers put the low bytes first
            signed = clean.PixelRepresentation == 1
            values, odd, more = put_right(values, clean.BitsStored, signed=signed, grey=True)
            frame = replace(frame, steps=(*frame.steps, *more))
            flags, steps = flags + (odd if more else ()), steps + more
        # RLE codes words, and knows nothing of what is stored in them
        if (low or stream.syntax != RLE) and _believe_depth(values, frame.precision, clean):
            steps.append(RenderingStep(RenderingCode.DEPTH_FROM_STREAM, str(frame.precision)))
            flags += (Reason.HEADER_CONTRADICTS_PICTURE,)
        stated = clean.PixelRepresentation == 1
        contradicted = frame.signed not in {None, stated} and values.ndim == 2
        if contradicted and has_other_sign(values, clean.BitsStored, signed=stated):
            clean.PixelRepresentation = int(not stated)
            word = "without a sign" if stated else "with a sign"
            steps.append(RenderingStep(RenderingCode.SIGN_FROM_STREAM, word))
            flags += (Reason.HEADER_CONTRADICTS_PICTURE,)
        limited = _limited(values, clean)
        if frame.kept is None or limited is not None or frame.steps:
            values = _keep_uncompressed(values if limited is None else limited, clean)
        else:
            clean.add_new("PixelData", "OB", encapsulate([frame.kept]))
            clean["PixelData"].is_undefined_length = True
    if clean.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, clean)
    if values.shape[:2] != (clean.Rows, clean.Columns) or values.dtype.itemsize > 2:
        raise Rejected(Reason.DICOM_CONTRADICTION, "decoded to another size than its header says")
    if values.ndim == 2 and (stream.native or stream.syntax == RLE) and is_transposed(values):
        raise Rejected(Reason.DICOM_CONTRADICTION, "rows and columns exchanged")
    return Decoded(values[..., ::-1] if values.ndim == 3 else values, flags, tuple(steps))


@dataclass(frozen=True)
class _Frame:
    """Decoded values of one coded frame.

    Attributes
    ----------
    kept
        What a decoder needs of the frame; None where it does not hold together.
    precision
        Bits a value, as the frame states them.
    steps
        What its colours are, where the header says otherwise.
    damaged
        The coded data do not end where they should.
    signed
        Whether the frame states that its values have a sign; None where its coding states nothing of that.
    """

    values: npt.NDArray[Any]
    kept: bytes | None
    precision: int
    steps: tuple[RenderingStep, ...] = ()
    damaged: bool = False
    signed: bool | None = None


def _decode_frame(frame: bytes, syntax: UID, clean: Dataset) -> _Frame:
    if syntax == RLE:
        planes, runs, whole = _decode_rle(frame, clean)
        return _with_colours(_Frame(planes, runs, clean.BitsAllocated, damaged=not whole), clean)
    if syntax in JPEG_2000_SYNTAXES:
        precision, signed = _require_jpeg_2000(frame, clean)
        stream = strip_jpeg_2000(frame)
        values = jpeg_2000_decode(stream or frame)
        found = _Frame(values, stream, precision, damaged=stream is None, signed=signed)
        if clean.PhotometricInterpretation in {"YBR_ICT", "YBR_RCT"}:
            return found  # the stream's own transform has been undone
        return _with_colours(found, clean)
    if syntax in JPEG_SYNTAXES:
        kept = strip_jpeg(frame)
        precision = _require_jpeg(kept, clean)
        if syntax in LOSSY_JPEG_SYNTAXES and precision == 8:
            values, steps = _decode_lossy(kept, clean)
            return _Frame(values, kept, precision, tuple(steps))
        return _with_colours(_Frame(_decode_gdcm(kept, clean, precision), kept, precision), clean)
    raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, syntax if UID_PATTERN.fullmatch(syntax) else "")


def _with_colours(frame: _Frame, clean: Dataset) -> _Frame:
    if frame.values.ndim == 2:
        return frame
    values, steps = _settled(frame.values, clean)
    return replace(frame, values=values, steps=tuple(steps))


def _settled(planes: npt.NDArray[Any], clean: Dataset) -> tuple[npt.NDArray[Any], list[RenderingStep]]:
    """Turn three planes as coded into red-green-blue; see `pipeline.dicom.stream.colour_of`."""
    label = clean.PhotometricInterpretation
    if planes.dtype != np.uint8:
        return planes, []
    found = colour_of(planes, label)
    if label in ONE_SAMPLE and found != "RGB":
        raise Rejected(Reason.DICOM_CONTRADICTION, "three samples of a single colour")
    if label in ONE_SAMPLE and not is_grey(planes):
        raise Rejected(Reason.DICOM_CONTRADICTION, "three samples of a single colour")
    told = label in ONE_SAMPLE or (found == "YBR") != label.startswith("YBR")
    steps = [RenderingStep(RenderingCode.COLOUR_FROM_STREAM, found)] if told else []
    return (convert_color_space(planes, "YBR_FULL", "RGB") if found == "YBR" else planes), steps


def _native_planes(coded: bytes, clean: Dataset) -> tuple[npt.NDArray[Any], list[RenderingStep]]:
    """Return three planes as coded; where they are grey in the other arrangement, it is that."""
    order = ">" if clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    flat = np.frombuffer(coded, f"{order}u{clean.BitsAllocated // 8}")
    by_pixel = flat.reshape(clean.Rows, clean.Columns, 3)
    planes = flat.reshape(3, clean.Rows, clean.Columns).transpose(1, 2, 0)
    stated, other = (planes, by_pixel) if clean.get("PlanarConfiguration") == 1 else (by_pixel, planes)
    if clean.BitsAllocated == 8 and by_plane(stated, other):
        step = RenderingStep(RenderingCode.COLOUR_FROM_STREAM, "by pixel" if stated is planes else "by plane")
        return np.ascontiguousarray(other), [step]
    return np.ascontiguousarray(stated), []


def _believe_depth(values: npt.NDArray[Any], precision: int, clean: Dataset) -> bool:
    """Take over the stream's precision where many values need it; a lossy coder's few overshoots do not."""
    stored = clean.BitsStored
    if precision <= stored or clean.PixelRepresentation == 1 or values.dtype.kind == "i":
        return False
    beyond = np.count_nonzero(values > (1 << stored) - 1) / values.size
    if beyond <= MIN_BEYOND:
        return False
    clean.BitsStored, clean.HighBit = precision, precision - 1
    clean.BitsAllocated = 8 if precision <= 8 else 16
    return True


def _beyond_below(coded: bytes, clean: Dataset, syntax: UID) -> float:
    """Share of native values with bits below the stored ones: High Bit, or Bits Stored, is wrong then."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    words = np.frombuffer(coded, f"{order}u{clean.BitsAllocated // 8}")
    below = (1 << clean.HighBit + 1 - clean.BitsStored) - 1
    return np.count_nonzero(words & below) / max(words.size, 1)


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


def _decode_rle(frame: bytes, clean: Dataset) -> tuple[npt.NDArray[Any], bytes, bool]:
    """Decode RLE Lossless (DICOM PS3.5 annex G): a segment of PackBits for each byte plane, high bytes first.

    Written out here because the decoders at hand either panic on a damaged run or take all the memory that
    a lying one asks for.

    Returns
    -------
    tuple
        The values, the frame anew, without what lies behind the runs that are needed, and whether nothing but
        padding does.
    """
    size, depth = clean.Rows * clean.Columns, clean.BitsAllocated // 8
    count, *starts = struct.unpack_from("<16I", frame)
    if count != clean.SamplesPerPixel * depth:
        raise Rejected(Reason.DICOM_CONTRADICTION, "RLE segments of another number than its header says")
    ends = [*starts[1:count], len(frame)]
    try:
        unpacked = [_unpack_bits(frame[a:b], size) for a, b in zip(starts, ends, strict=False)]
    except IndexError:
        raise Rejected(Reason.TRUNCATED, "an RLE segment ends before the picture") from None
    planes, runs, whole = zip(*unpacked, strict=True)
    places = np.cumsum([64, *map(len, runs[:-1])]).tolist()
    stripped = b"".join((struct.pack("<16I", count, *places, *[0] * (15 - count)), *runs))
    shape = clean.SamplesPerPixel, depth, clean.Rows, clean.Columns
    high_first = np.frombuffer(b"".join(planes), np.uint8).reshape(shape)
    values = (
        np.ascontiguousarray(high_first.transpose(0, 2, 3, 1)).view(f">u{depth}")[..., 0].astype(f"u{depth}")
    )
    if clean.SamplesPerPixel == 1:
        return values[0], stripped, all(whole)
    return np.ascontiguousarray(values.transpose(1, 2, 0)), stripped, all(whole)


def _unpack_bits(coded: bytes, length: int) -> tuple[bytes, bytes, bool]:
    """Undo PackBits up to `length` bytes; IndexError when there are fewer.

    Returns
    -------
    tuple
        The plain bytes; the runs that make exactly these, padded to an even length; whether the last run
        ends with them, and nothing but zeros or empty runs follow.
    """
    plain, last, position = bytearray(), 0, 0
    while len(plain) < length:
        last, control = position, coded[position]
        if control < 128:
            position += 2 + control
            plain += coded[last + 1 : position]
        elif control > 128:
            position += 2
            plain += coded[last + 1 : position] * (257 - control)
        else:
            position += 1
    surplus = len(plain) - length
    runs = coded[:position]
    if whole := not surplus and position <= len(coded):
        whole = not coded[position:].strip(b"\0\x80")
    elif coded[last] < 128:
        literal = coded[last + 1 : position]
        literal = literal[: len(literal) - surplus]
        runs = coded[:last] + bytes([len(literal) - 1]) + literal
    else:
        n = 257 - coded[last] - surplus
        runs = coded[:last] + bytes([(257 - n) & 255 if n > 1 else 0, coded[last + 1]])
    return bytes(plain[:length]), runs + b"\0" * (len(runs) % 2), whole


def _require_jpeg(frame: bytes, clean: Dataset) -> int:
    """Check a JPEG or JPEG-LS stream's size and end against the header; return its precision in bits."""
    scans, precision = 0, 0
    for segment in jpeg_segments(frame):
        scans += segment.marker == 0xDA
        if segment.marker in JPEG_START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", segment.body)
            if (rows, columns, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
                raise Rejected(Reason.DICOM_CONTRADICTION, "JPEG stream of another size than its header says")
    if not 1 <= scans <= MAX_JPEG_SCANS or not 2 <= precision <= 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG stream without a readable frame, or with too many scans")
    return precision


def _decode_lossy(frame: bytes, clean: Dataset) -> tuple[npt.NDArray[Any], list[RenderingStep]]:
    """Decode lossy JPEG of 8 bits; of colours that stay, the other reading is tried: grey settles it."""
    if clean.SamplesPerPixel == 1:
        return _opencv(frame), []
    label = clean.PhotometricInterpretation
    stated = frame
    if b"Adobe" not in frame[:1024]:  # say what the header says of the colours
        stated = with_transform(frame, 0 if label == "RGB" else 1)
    picture = _opencv(stated)[..., ::-1]
    if is_grey(picture):
        return picture, []
    for transform, name in ((0, "RGB"), (1, "YBR")):
        other = _opencv(with_transform(frame, transform))[..., ::-1]
        if is_grey(other):
            return other, [RenderingStep(RenderingCode.COLOUR_FROM_STREAM, name)]
    return picture, []


def _opencv(frame: bytes) -> npt.NDArray[Any]:
    picture = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise Rejected(Reason.DICOM_CORRUPT, "the decoder gave up")
    return picture


def _decode_gdcm(frame: bytes, clean: Dataset, precision: int) -> npt.NDArray[Any]:
    """Decode lossless JPEG, JPEG-LS or JPEG Extended of 12 bits; colours stay as coded."""
    shape = clean.Rows, clean.Columns, clean.SamplesPerPixel
    if clean.file_meta.TransferSyntaxUID in LOSSY_JPEG_SYNTAXES:
        # extended: 12 bits (ITU-T T.81 table B.2), though some writers state 16
        if precision != 12 and (precision != 16 or clean.BitsStored != 12):
            raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, f"JPEG Extended of {precision} bits")
        precision = 12
    words = decode_frame(
        frame,
        syntax=clean.file_meta.TransferSyntaxUID,
        rows=shape[0],
        columns=shape[1],
        samples=shape[2],
        precision=precision,
        photometric=clean.PhotometricInterpretation if shape[2] == 1 else "RGB",
    )
    values = np.frombuffer(words, "u1" if precision <= 8 else "<u2").reshape(shape)
    return values[..., 0] if shape[2] == 1 else values


def _require_jpeg_2000(frame: bytes, clean: Dataset) -> tuple[int, bool]:
    """Check a JPEG 2000 codestream (SIZ, ITU-T T.800 A.5.1) against the header, and that it has an end.

    Returns
    -------
    tuple
        Its precision in bits, and whether its values have a sign.
    """
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise Rejected(Reason.DICOM_CORRUPT, "no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    if (bottom - top, right - left, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
        raise Rejected(Reason.DICOM_CONTRADICTION, "JPEG 2000 stream of another size than its header says")
    if (depth & 127) + 1 > 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG 2000 stream of more than 16 bits")
    if b"\xff\xd9" not in frame.rstrip(b"\0\xff")[-1024:]:  # padded by whatever length
        raise Rejected(Reason.TRUNCATED, "JPEG 2000 stream without its end marker")
    return int(depth & 127) + 1, bool(depth & 128)
