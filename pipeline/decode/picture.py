"""A file of any format to a `Radiograph`; strangers' files only in the sandbox (`pipeline.decode.decode`)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.decode.complaints import codecs, reports_damage
from pipeline.decode.containers import (
    TIFF_GREYS,
    TIFF_RGB,
    Container,
    describe,
    gif_pictures,
)
from pipeline.decode.stripped import strip_jpeg, strips_hold, unpack_png, with_transform
from pipeline.depth import FullDepth, Window
from pipeline.dicom.reader import decode_dicom
from pipeline.dicom.stream import colour_of, is_grey
from pipeline.quality import Graded, elongated, grade, require_radiograph, require_size
from pipeline.types import Radiograph, Rejected, RenderingStep, StudyFacts
from pipeline.window import colour8, flatten, grey8, percentile_range
from vocabulary.media import SNIFF_BYTES, sniff
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

#: Ratio of a pixel's sides up to which it counts as square.
MAX_ASPECT_ERROR = 0.02


def decode(
    data: bytes,
    *,
    max_pixels: int,
    pseudonymise: Callable[[str], str],
    refuse_burned_in: bool = False,
    at_full_depth: bool = False,
) -> Radiograph:
    """Decode and pseudonymise an uploaded file.

    `stored` of the result is what may be kept: the same coded picture without metadata (JPEG, PNG), a
    lossless PNG of it (everything else, and whatever had to be turned upright), or the cleaned DICOM
    object. `pixels` are decoded from those very bytes wherever the format allows it.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Width times height above which the picture is refused before it is decoded.
    pseudonymise
        Turns ``issuer|PatientID``, or the hash of a copy that an earlier version made, into the site's hash.
    refuse_burned_in
        Refuse DICOM objects whose header says that patient data are burned into the picture, instead of
        flagging them.
    at_full_depth
        Give the PNG of `pipeline.depth.FullDepth` as `stored`, instead of what may be kept.

    Raises
    ------
    Rejected
        The input is unusable.
    Skipped
        A valid DICOM object without a picture.
    """
    if not data:
        raise Rejected(Reason.EMPTY_FILE)
    media_type = sniff(data[:SNIFF_BYTES])
    if media_type == "application/dicom":
        return decode_dicom(
            data,
            max_pixels=max_pixels,
            pseudonymise=pseudonymise,
            refuse_burned_in=refuse_burned_in,
            at_full_depth=at_full_depth,
        )
    if media_type is None:
        if data[:6] in {b"GIF87a", b"GIF89a"} and gif_pictures(data[: 1 << 24]) > 1:
            raise Rejected(Reason.ANIMATED, "animated GIF")
        raise Rejected(Reason.NOT_AN_IMAGE, "unknown first bytes")
    return _decode_plain(data, describe(data, media_type), max_pixels, at_full_depth=at_full_depth)


def _decode_plain(data: bytes, container: Container, max_pixels: int, *, at_full_depth: bool) -> Radiograph:
    if container.pictures > 1:
        raise Rejected(Reason.ANIMATED, container.media_type)
    require_size(container.width, container.height, max_pixels)
    clean, unpacked = container.clean, None
    if container.media_type == "image/jpeg":
        clean = strip_jpeg(data)
    elif container.media_type == "image/png" and container.coded:
        unpacked = unpack_png(container.coded)
        clean = clean if unpacked else None
    coded = unpacked or clean or container.coded or data
    codecs.heard()
    picture = _opencv(coded)
    damaged = (
        reports_damage(codecs.heard(), coded)
        or container.damaged
        or (container.media_type == "image/png" and not unpacked)
        or not strips_hold(data, container.deflated, container.unpacked_bytes)
    )
    coloured = ""
    if container.photometric:
        picture, coloured = _settled_tiff(picture, coded, *container.photometric)
    elif container.media_type == "image/jpeg" and clean and picture.ndim == 3 and picture.shape[2] == 3:
        picture, clean, coloured = _settled(picture, clean)
    if set(picture.shape[:2]) != {container.width, container.height}:
        raise Rejected(Reason.CORRUPT, "decoded to another size than its header says")
    if container.inverted:
        picture = np.invert(picture)
    on_black = container.media_type == "image/tiff" and not container.straight_alpha
    if on_black and picture.dtype == np.uint8 and picture.ndim == 3:
        picture = picture[..., :3]  # its colours lie on black already
    upright = turn_upright(picture, container.orientation)
    if at_full_depth:
        media_type, stored = "image/png", b""
    elif clean is None or container.orientation != 1:
        media_type, stored = "image/png", cv2.imencode(".png", upright)[1].tobytes()
    else:
        media_type, stored = container.media_type, clean
    shown, hidden_by_alpha = flatten(upright)
    pixels = grey8(shown)
    graded = grade(pixels, require_radiograph(colour8(shown) if shown.ndim == 3 else pixels))
    if at_full_depth:
        stored = _at_full_depth(shown, graded).png()
    height, width = pixels.shape
    flags = list(graded.flags)
    if damaged:
        flags.append(Reason.DAMAGED_PICTURE_DATA)
    if _ends_in_fill(picture, container):
        flags.append(Reason.PARTIAL_PICTURE)
    if abs(container.pixel_aspect - 1) > MAX_ASPECT_ERROR:
        flags.append(Reason.NON_SQUARE_PIXELS)
    flags += elongated(pixels)
    steps = []
    if hidden_by_alpha:
        steps.append(RenderingStep(RenderingCode.ALPHA_IGNORED))
    if coloured:
        steps.append(RenderingStep(RenderingCode.COLOUR_FROM_STREAM, coloured))
    if shown.ndim == 3:
        steps.append(RenderingStep(RenderingCode.COLOUR_TO_GREY))
    code = RenderingCode.VALUES_AS_CODED if shown.dtype == np.uint8 else RenderingCode.PERCENTILE_WINDOW
    steps.append(RenderingStep(code))
    if container.orientation != 1:
        steps.append(RenderingStep(RenderingCode.ORIENTATION, container.orientation_from))
    rendering = (*steps, *graded.steps)
    return Radiograph(graded.pixels, width, height, StudyFacts(), media_type, stored, tuple(flags), rendering)


def _at_full_depth(shown: npt.NDArray[Any], graded: Graded) -> FullDepth:
    """Return a picture's own grey values; those of 8 bits as they were graded."""
    if shown.dtype == np.uint8:
        return FullDepth(graded.pixels, 8, (Window("As the AI read it", 0.0, 255.0),))
    values = cv2.cvtColor(shown, cv2.COLOR_BGR2GRAY) if shown.ndim == 3 else shown
    low, high = percentile_range(values)
    windows = Window("As the AI read it", low, high), Window("All values", 0.0, 65535.0)
    deep = FullDepth(np.asarray(values, np.uint16), 16, windows)
    return deep.inverted() if Reason.INVERTED_PICTURE in graded.flags else deep


def _settled(picture: npt.NDArray[Any], stream: bytes) -> tuple[npt.NDArray[Any], bytes, str]:
    """Return a JPEG's picture, its stream, and how its colours are coded where its mark says otherwise.

    A picture that has colours as it is marked, and none in the other reading, is marked wrongly.
    """
    if is_grey(picture):
        return picture, stream, ""
    for transform, name in ((0, "RGB"), (1, "YBR")):
        marked = with_transform(stream, transform)
        if is_grey(other := _opencv(marked)):
            return other, marked, name
    return picture, stream, ""


def _settled_tiff(
    picture: npt.NDArray[Any], coded: bytes, stated: int, place: int, order: str
) -> tuple[npt.NDArray[Any], str]:
    """Return a TIFF's picture, and how its three samples are coded where they are not what it states.

    Parameters
    ----------
    stated, place, order
        Photometric Interpretation, where it stands in `coded`, and in which byte order.

    Raises
    ------
    Rejected
        TIFF_PIXEL_FORMAT: three samples that are called one grey and are not.
    """

    def read_as(photometric: int) -> npt.NDArray[Any] | None:
        try:
            return _opencv(coded[:place] + struct.pack(f"{order}H", photometric) + coded[place + 2 :])
        except Rejected:
            return None

    if stated in TIFF_GREYS:
        colours = read_as(TIFF_RGB)
        if colours is None or colours.ndim != 3 or not is_grey(colours[..., :3]):
            raise Rejected(Reason.TIFF_PIXEL_FORMAT, f"photometric {stated} of colours")
        return picture, ""
    if picture.ndim != 3 or picture.dtype != np.uint8 or is_grey(picture[..., :3]):
        return picture, ""
    as_coded = picture if stated == TIFF_RGB else read_as(TIFF_RGB)
    if as_coded is None or as_coded.ndim != 3:
        return picture, ""
    if is_grey(as_coded[..., :3]):
        return as_coded, "RGB"
    if stated == TIFF_RGB and colour_of(as_coded[..., 2::-1], "RGB") == "YBR":
        return np.ascontiguousarray(as_coded[..., 2]), "YBR"
    return picture, ""


def _opencv(coded: bytes) -> npt.NDArray[Any]:
    try:
        picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError("OpenCV") from None
        picture = None
    if picture is None or picture.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise Rejected(Reason.CORRUPT, "the decoder gave up")
    return picture


def turn_upright(picture: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation (1-8) to an array of shape (h, w) or (h, w, channels)."""
    if orientation in {5, 6, 7, 8}:
        picture = np.swapaxes(picture, 0, 1)
    if orientation in {3, 4, 7, 8}:
        picture = picture[::-1]
    if orientation in {2, 3, 6, 7}:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _ends_in_fill(picture: npt.NDArray[Any], container: Container) -> bool:
    """Tell whether a JPEG ends in the even grey 128 that decoders put for blocks they never received.

    Such a file was cut, decoded by somebody who did not notice, and saved again: it has an end of its own.
    """
    return (
        container.media_type == "image/jpeg"
        and bool((picture[-8:, -8:] == 128).all())
        and not (picture[:8, :8] == 128).all()
    )
