"""A DICOM file to a Radiograph and a pseudonymised copy."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy.typing as npt
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset

from pipeline.depth import FullDepth, Window
from pipeline.dicom.deidentify import allowed_copy, keep_facts, write_copy
from pipeline.dicom.frames import require_pixel_module, stored_values
from pipeline.dicom.header import (
    element_text,
    element_values,
    is_own_object,
    open_object,
    study_facts,
)
from pipeline.dicom.render import full_depth, render
from pipeline.dicom.repair import flag_unreadable, repair_pixel_values
from pipeline.dicom.shape import spacing, square
from pipeline.dicom.terms import (
    PICTURELESS_CLASSES,
    PIXEL_DATA,
    READABLE_CLASSES,
    UID_PATTERN,
)
from pipeline.quality import grade, require_radiograph
from pipeline.types import Radiograph, Rejected, RenderingStep, Skipped, StudyFacts, UInt8Array
from pipeline.window import colour8, grey8
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

_T = TypeVar("_T")


@contextlib.contextmanager
def silent_pydicom() -> Iterator[None]:
    """Read and write values as they are, without a word: what pydicom quotes may be a patient's."""
    log, settings = logging.getLogger("pydicom"), config.settings
    before = log.disabled, settings.reading_validation_mode, settings.writing_validation_mode
    log.disabled = True
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled, settings.reading_validation_mode, settings.writing_validation_mode = before


def decode_dicom(
    data: bytes,
    *,
    max_pixels: int,
    pseudonymise: Callable[[str], str],
    refuse_burned_in: bool,
    at_full_depth: bool = False,
) -> Radiograph:
    """Decode and clean a DICOM object; parameters and errors as `pipeline.decode.picture.decode`."""
    with silent_pydicom():
        read = _guarded(_read, data, max_pixels, refuse_burned_in)
        pixels, facts, identity, clean, flags, steps, values = read
        height, width = pixels.shape
        if at_full_depth:
            deep = _guarded(_at_full_depth, values, pixels, clean, flags)
            return Radiograph(pixels, width, height, facts, "image/png", deep.png(), flags, steps)
        patient_hash = pseudonymise(identity) if identity else facts.patient_hash
        stored = _guarded(write_copy, clean, patient_hash, hashlib.sha256(data).hexdigest())
    facts = replace(facts, patient_hash=patient_hash)
    return Radiograph(pixels, width, height, facts, "application/dicom", stored, flags, steps)


def _guarded(step: Callable[..., _T], *arguments: object) -> _T:
    """Run a step over a stranger's bytes: whatever pydicom and the decoders throw becomes DICOM_CORRUPT."""
    try:
        return step(*arguments)
    # a file cannot make these: memory ran out, or the sandbox kept something from the decoder that it needs
    except (Rejected, Skipped, MemoryError, ImportError, PermissionError):
        raise
    except Exception as error:
        failure = type(error).__name__
    # raised out here, without the cause: its words may quote the header
    raise Rejected(Reason.DICOM_CORRUPT, failure)


def _read(
    data: bytes, max_pixels: int, refuse_burned_in: bool
) -> tuple[
    UInt8Array, StudyFacts, str, Dataset, tuple[Reason, ...], tuple[RenderingStep, ...], npt.NDArray[Any]
]:
    raw, syntax, ends_well = open_object(data, max_pixels)
    if is_own_object(raw):
        raise Skipped(Reason.MADE_HERE)
    flags, steps = repair_pixel_values(raw)
    clean = allowed_copy(raw)
    more_flags, more_steps = flag_unreadable(raw, clean)
    flags, steps = flags + more_flags, steps + more_steps
    if "SOPClassUID" not in clean:
        clean.SOPClassUID = element_text(raw.file_meta, "MediaStorageSOPClassUID", UID_PATTERN)
    if clean.SOPClassUID:
        _require_class(clean.SOPClassUID)
    coded: bytes | None = raw.get("PixelData")
    if not coded and raw.get("BitsAllocated") in {32, 64}:
        raise Rejected(Reason.DICOM_PIXEL_FORMAT, "pixel data in floats")  # PS3.3, C.7.6.24
    if not coded:
        raise Rejected(Reason.DICOM_NO_PIXELS if coded is None else Reason.TRUNCATED, "no pixel data")
    if not clean.SOPClassUID:
        raise Rejected(Reason.DICOM_UNSUPPORTED_CLASS, "no SOP class")
    facts, identity = study_facts(raw)
    keep_facts(clean, facts)
    if (clean.get("NumberOfFrames") or 1) > 1:
        raise Rejected(Reason.DICOM_MULTIFRAME)
    burned_in = clean.get("BurnedInAnnotation") == "YES"
    if burned_in and refuse_burned_in:
        raise Rejected(Reason.BURNED_IN_ANNOTATION)
    require_pixel_module(clean, max_pixels)
    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = syntax
    decoded = stored_values(coded, raw[PIXEL_DATA].VR, clean)
    values = decoded.values
    flags += () if ends_well else (Reason.DAMAGED_PICTURE_DATA,)
    flags += decoded.flags + ((Reason.BURNED_IN_FLAG,) if burned_in else ())
    if values.ndim == 3:
        pixels, seen = grey8(values), colour8(values)
        rendered = [RenderingStep(RenderingCode.COLOUR_TO_GREY)]
    else:
        pixels, more, rendered = render(values, clean)
        flags, seen = flags + more, pixels
    graded = grade(pixels, require_radiograph(seen))
    shaped = square(graded.pixels, clean)
    steps += [*decoded.steps, *rendered, *graded.steps, *shaped.steps]
    flags = tuple(dict.fromkeys(flags + graded.flags + shaped.flags))
    return shaped.pixels, facts, identity, clean, flags, tuple(steps), values


def _at_full_depth(
    values: npt.NDArray[Any], pixels: UInt8Array, clean: Dataset, flags: tuple[Reason, ...]
) -> FullDepth:
    """Return the values behind a picture; one in colour has no more than its 8 bits."""
    sides, plane = spacing(clean)
    orientation = tuple(str(letters) for letters in element_values(clean, "PatientOrientation"))
    if values.ndim == 3:
        deep = FullDepth(pixels, 8, (Window("As the AI read it", 0.0, 255.0),))
    else:
        deep = full_depth(values, clean)
        if Reason.INVERTED_PICTURE in flags:
            deep = deep.inverted()
        deep = replace(deep, values=square(deep.values, clean).pixels)
    return replace(deep, spacing=sides, plane=plane, orientation=orientation if len(orientation) == 2 else ())


def _require_class(sop_class: str) -> None:
    if sop_class.startswith(PICTURELESS_CLASSES):
        raise Skipped(Reason.DICOM_NOT_AN_IMAGE, sop_class)
    if sop_class not in READABLE_CLASSES:
        raise Rejected(Reason.DICOM_UNSUPPORTED_CLASS, sop_class)
