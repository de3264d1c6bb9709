"""Objects that go back to the archive: a Secondary Capture an image, a structured report and a PDF a study.

Each carries the patient and the study of its source byte by byte, as its envelope has them. The same reading
gives the same bytes, whenever it is made: nothing in it comes from the clock or from chance.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cv2
import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from settings import VERSION
from vocabulary.anatomy import PARTS, part_words
from vocabulary.dicom import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENCAPSULATED_PDF,
    IMPLEMENTATION_UID,
    MANUFACTURER,
    SECONDARY_CAPTURE,
    derived_uid,
)
from vocabulary.states import Triage
from vocabulary.words import NOTICE, TRIAGE_WORDS

# pydicom and highdicom quote the values they complain about: they may be a patient's
for _name in ("pydicom", "highdicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
config.settings.writing_validation_mode = config.IGNORE
config.settings.reading_validation_mode = config.IGNORE

#: Series of ours come after those of modalities: a viewer hangs the radiograph first.
FIRST_SERIES = 9001
#: Series numbers by kind.
SERIES = {"sc": FIRST_SERIES, "sr": FIRST_SERIES + 1, "pdf": FIRST_SERIES + 2}
MODEL_NAME = "FractureAI batch reader"
SCHEME = "99FRACTUREAI"
#: Copied from the source byte by byte: character set, study, patient.
_COPIED = (
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080090, 0x00081030,
    0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000D, 0x00200010,
)  # fmt: skip
#: Those of them that every object has, be they empty (type 2).
_ALWAYS: Mapping[int, str] = {
    0x00080020: "DA", 0x00080030: "TM", 0x00080050: "SH", 0x00080090: "PN", 0x00100010: "PN",
    0x00100020: "LO", 0x00100030: "DA", 0x00100040: "CS", 0x00200010: "SH",
}  # fmt: skip
_SIDES = {"L": Code("7771000", "SCT", "Left"), "R": Code("24028007", "SCT", "Right")}
_FINDINGS = {
    "fractured": Code("72704001", "SCT", "Fracture"),
    "abnormal": Code("263654008", "SCT", "Abnormal"),
}
#: Of a picture with a banner, in pixels: what stands in it has to be read.
NARROWEST = 720
_NO_UNITS = Code("1", "UCUM", "no units")


@dataclass(frozen=True)
class ReadImage:
    """One image of a study, and what was said of it.

    Attributes
    ----------
    identity
        What its envelope holds: a data set in Explicit VR Little Endian.
    picture
        JPEG with the attention map, or without where none was drawn.
    low, high
        The thresholds of its triage.
    """

    number: int
    identity: bytes
    picture: bytes
    sop_uid: str
    region: str = ""
    laterality: str = ""
    triage: Triage | None = None
    probability: float | None = None
    low: float | None = None
    high: float | None = None

    def source(self) -> Dataset:
        """Return the elements of its envelope, not yet parsed."""
        return read_dataset(io.BytesIO(self.identity), is_implicit_VR=False, is_little_endian=True)


@dataclass(frozen=True)
class Reading:
    """A version of a study's finding.

    Attributes
    ----------
    bundle_hash
        SHA-256 of the bundle's manifest: two bundles of one name are two algorithms.
    made_at
        When it was found, in UTC: the content time of every object.
    earlier
        SOP class and instance of the version that it replaces, by kind.
    """

    study_uid: str
    bundle: str
    bundle_hash: str
    label_meaning: str
    version: int
    triage: Triage
    made_at: datetime
    images: tuple[ReadImage, ...]
    pdf: bytes | None = None
    earlier: Mapping[str, tuple[str, str]] | None = None

    @property
    def description(self) -> str:
        """Of each series: what made it, and that it is no diagnosis."""
        return f"AI {_noun(self)} {self.bundle} - NOT FOR DIAGNOSIS"[:64]

    def series_uid(self, kind: str) -> str:
        """Return the UID of the series of a kind: one for all versions by this bundle."""
        return derived_uid("series", self.study_uid, self.bundle_hash, kind)


def _noun(reading: Reading) -> str:
    nouns = {"fractured": "fracture", "abnormal": "abnormality"}
    return nouns.get(reading.label_meaning, reading.label_meaning)


def _base(reading: Reading, image: ReadImage, kind: str, sop_class: str, sop_uid: str) -> Dataset:
    """Return what every object of ours has: patient and study of the source, series and equipment of ours."""
    out = Dataset()
    out.SOPClassUID, out.SOPInstanceUID = UID(sop_class), UID(sop_uid)
    _copy_identity(out, image)
    out.SeriesInstanceUID = UID(reading.series_uid(kind))
    out.SeriesNumber, out.SeriesDescription = SERIES[kind], reading.description
    _stamp(out, reading)
    return out


def _copy_identity(out: Dataset, image: ReadImage) -> None:
    """Put the source's patient and study into an object, byte by byte."""
    source = image.source()
    for tag in _COPIED:
        if Tag(tag) in out:
            del out[tag]
        if Tag(tag) in source:
            out[tag] = source.get_item(tag)  # as it came: pydicom decodes nothing
        elif tag in _ALWAYS:
            out.add_new(tag, _ALWAYS[tag], "")


def _stamp(out: Dataset, reading: Reading) -> None:
    """Write the equipment and the times."""
    date, time = f"{reading.made_at:%Y%m%d}", f"{reading.made_at:%H%M%S.%f}"
    out.Manufacturer, out.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    out.SoftwareVersions, out.DeviceSerialNumber = [VERSION, reading.bundle], reading.bundle_hash[:16]
    out.ContentDate, out.ContentTime = date, time
    out.InstanceCreationDate, out.InstanceCreationTime = date, time
    out.SeriesDate, out.SeriesTime = date, time
    out.InstanceCreatorUID = UID(IMPLEMENTATION_UID)
    out.TimezoneOffsetFromUTC = "+0000"


def _written(out: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = out.SOPClassUID, out.SOPInstanceUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    out.file_meta = meta
    file = io.BytesIO()
    out.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _of_source(out: Dataset, image: ReadImage) -> None:
    """Refer to the source image."""
    source, reference = image.source(), Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    out.SourceImageSequence = DicomSequence([reference])


# pictures


def banner(reading: Reading, image: ReadImage) -> list[str]:
    """Return what stands in the pixels of an image's Secondary Capture."""
    said = TRIAGE_WORDS[image.triage] if image.triage else "Not read"
    if image.probability is not None:
        said += f", probability {image.probability:.2f}"
    part = part_words(image.region)
    side = {"L": "left ", "R": "right "}.get(image.laterality, "")
    return [
        f"{NOTICE.upper()}. NOT FOR DIAGNOSIS.",
        f"Image {image.number}: {said} for {_noun(reading)}. {side}{part}".strip(),
        f"{MANUFACTURER} {VERSION}, {reading.bundle}, version {reading.version}. Colour shows where the model"
        " looked, not a fracture.",
    ]


def draw_picture(reading: Reading, image: ReadImage) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the picture with its banner above it: red-green-blue, uint8 of shape (height, width, 3)."""
    picture = cv2.imdecode(np.frombuffer(image.picture, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("the stored picture cannot be decoded")
    lines = banner(reading, image)
    widest = max(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0] for line in lines)
    width = max(picture.shape[1], NARROWEST)
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
    out = _base(reading, image, "sc", SECONDARY_CAPTURE, sop_uid)
    pixels = draw_picture(reading, image)
    out.Modality, out.ConversionType = "OT", "WSD"
    out.InstanceNumber = 1000 * reading.version + image.number
    out.ImageType = ["DERIVED", "SECONDARY"]
    out.PatientOrientation = ""
    out.BurnedInAnnotation, out.RecognizableVisualFeatures = "NO", "NO"
    out.DerivationDescription = "Attention map drawn over the radiograph, with a banner"
    if image.laterality:
        out.Laterality = image.laterality
    out.SamplesPerPixel, out.PhotometricInterpretation, out.PlanarConfiguration = 3, "RGB", 0
    out.Rows, out.Columns = pixels.shape[:2]
    out.BitsAllocated = out.BitsStored = 8
    out.HighBit, out.PixelRepresentation = 7, 0
    _of_source(out, image)
    data = pixels.tobytes()
    out.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    return _written(out)


# PDF


def encapsulated_pdf(reading: Reading, sop_uid: str) -> bytes:
    """Return the study's report as an Encapsulated PDF. Raises `ValueError` where it has none."""
    if reading.pdf is None:
        raise ValueError("the study has no report")
    first = reading.images[0]
    out = _base(reading, first, "pdf", ENCAPSULATED_PDF, sop_uid)
    out.Modality, out.ConversionType = "DOC", "WSD"
    out.InstanceNumber = reading.version
    out.AcquisitionDateTime = ""
    out.BurnedInAnnotation = "NO"
    out.DocumentTitle = reading.description
    out.ConceptNameCodeSequence = DicomSequence([])
    out.MIMETypeOfEncapsulatedDocument = "application/pdf"
    references = []
    for image in reading.images:
        source, reference = image.source(), Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        references.append(reference)
    out.SourceInstanceSequence = DicomSequence(references)
    out.add_new("EncapsulatedDocument", "OB", reading.pdf + b"\0" * (len(reading.pdf) % 2))
    out.EncapsulatedDocumentLength = len(reading.pdf)
    return _written(out)


# structured report


def _own_code(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


def _evidence(image: ReadImage) -> Dataset:
    """Return the source as highdicom wants it: with its UIDs, and without its patient, whom it never sees."""
    source, out = image.source(), Dataset()
    for word in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality"):
        setattr(out, word, source.get(word, ""))
    for tag, vr in _ALWAYS.items():
        out.add_new(tag, vr, "")
    return out


def _group(reading: Reading, image: ReadImage) -> Any:
    """Return what is said of one image (TID 1501)."""
    from highdicom import sr

    algorithm = sr.AlgorithmIdentification(
        name=reading.bundle,
        version=reading.bundle_hash,
        family=Code("123109", "DCM", "Artificial Intelligence"),
        manufacturer=MANUFACTURER,
        parameters=[
            f"{name} threshold {value:.6f}"
            for name, value in (("low", image.low), ("high", image.high))
            if value is not None
        ]
        or None,
    )
    sites = []
    part = PARTS.get(image.region)
    if part is not None:
        sites = [
            sr.FindingSite(Code(part.code, "SCT", part.meaning), laterality=_SIDES.get(image.laterality))
        ]
    measurements = []
    if image.probability is not None:
        measurements = [
            sr.Measurement(
                name=_own_code("PROBABILITY", f"Calibrated probability of {_noun(reading)}"),
                value=round(float(image.probability), 6),
                unit=_NO_UNITS,
            )
        ]
    said = image.triage or Triage.NOT_ASSESSABLE
    source = image.source()
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid("tracking", reading.study_uid, reading.bundle_hash, image.sop_uid),
            identifier=f"Image {image.number}",
        ),
        finding_type=_FINDINGS.get(
            reading.label_meaning, _own_code(reading.label_meaning.upper()[:16], reading.label_meaning)
        ),
        algorithm_id=algorithm,
        finding_sites=sites or None,
        measurements=measurements or None,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                _own_code("TRIAGE", "Triage by AI"),
                _own_code(said.value.upper(), TRIAGE_WORDS[said]),
            )
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(str(source.SOPClassUID), str(source.SOPInstanceUID))
        ],
    )


def structured_report(reading: Reading, sop_uid: str, *, three_dimensional: bool = False) -> bytes:
    """Return the study's reading as a measurement report (TID 1500): unverified, preliminary.

    Parameters
    ----------
    three_dimensional
        As Comprehensive 3D SR, for peers that take it.
    """
    from highdicom import sr

    observer = sr.ObserverContext(
        observer_type=sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", reading.bundle_hash),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=reading.bundle_hash[:16],
        ),
    )
    groups = [_group(reading, image) for image in reading.images]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=Code("126000", "DCM", "Imaging Measurement Report"),
    )
    kind = sr.Comprehensive3DSR if three_dimensional else sr.ComprehensiveSR
    out: Dataset = kind(
        evidence=[_evidence(image) for image in reading.images],
        content=content[0],
        series_number=SERIES["sr"],
        series_instance_uid=reading.series_uid("sr"),
        sop_instance_uid=sop_uid,
        instance_number=reading.version,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=reading.description,
    )
    _copy_identity(out, reading.images[0])
    _stamp(out, reading)
    for equipment in out.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = f"{reading.made_at:%Y%m%d%H%M%S}+0000"
    out.PreliminaryFlag, out.VerificationFlag = "PRELIMINARY", "UNVERIFIED"
    if reading.earlier and "sr" in reading.earlier:
        out.PredecessorDocumentsSequence = _predecessor(reading, *reading.earlier["sr"])
    return _written(out)


def _predecessor(reading: Reading, sop_class: str, sop_uid: str) -> DicomSequence:
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = UID(sop_class), UID(sop_uid)
    series.SeriesInstanceUID = UID(reading.series_uid("sr"))
    series.ReferencedSOPSequence = DicomSequence([instance])
    study.StudyInstanceUID = UID(reading.study_uid)
    study.ReferencedSeriesSequence = DicomSequence([series])
    return DicomSequence([study])


#: Kinds of objects, with the class of each.
CLASSES: Mapping[str, str] = {"sc": SECONDARY_CAPTURE, "sr": COMPREHENSIVE_SR, "pdf": ENCAPSULATED_PDF}
OTHER_SR = COMPREHENSIVE_3D_SR


def make(reading: Reading, kind: str, sop_uid: str, images: Sequence[ReadImage]) -> bytes:
    """Return an object of a kind; of `images` the first one is its own, where it has one.

    Raises
    ------
    ValueError
        It cannot be made of this reading.
    """
    if kind == "sc":
        return secondary_capture(reading, images[0], sop_uid)
    if kind == "sr":
        return structured_report(reading, sop_uid)
    if kind == "pdf":
        return encapsulated_pdf(reading, sop_uid)
    raise ValueError(f"no such kind: {kind}")
