"""Structured reports (TID 1500): a bundle's findings on a study, and a reader's signed answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID

from interop.reading import (
    ALWAYS,
    MODEL_NAME,
    SERIES,
    ReadImage,
    Reading,
    Signature,
    copy_identity,
    stamp,
    writable,
    written,
)
from pipeline.types import AttentionRegion
from vocabulary.anatomy import PARTS
from vocabulary.dicom import COMPREHENSIVE_3D_SR, FINDING_CODES, MANUFACTURER, derived_uid
from vocabulary.states import Answer, Triage
from vocabulary.words import TRIAGE_WORDS

SCHEME = "99FRACTUREAI"
_SIDES = {"L": Code("7771000", "SCT", "Left"), "R": Code("24028007", "SCT", "Right")}
_FINDINGS = {label: Code(code, "SCT", meaning) for label, (code, meaning) in FINDING_CODES.items()}
_ANSWERS = {
    Answer.PRESENT: Code("52101004", "SCT", "Present"),
    Answer.ABSENT: Code("2667000", "SCT", "Absent"),
    Answer.UNCERTAIN: Code("42425007", "SCT", "Equivocal"),
    Answer.UNREADABLE: Code("UNREADABLE", SCHEME, "Not readable"),
}
_NO_UNITS = Code("1", "UCUM", "no units")
_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
ATTENTION = Code("ATTENTION", SCHEME, "Attention region: where the model looked, not a fracture")


def _own_code(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


def _evidence(image: ReadImage) -> Dataset:
    """Return the source image as highdicom expects it: its UIDs, and no patient data."""
    source, out = image.source(), Dataset()
    for word in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality"):
        setattr(out, word, source.get(word, ""))
    for tag, vr in ALWAYS.items():
        out.add_new(tag, vr, "")
    return out


def _finding_of(reading: Reading) -> Code:
    word = reading.label_meaning
    return _FINDINGS.get(word, _own_code(word.upper()[:16], word))


def _sites(image: ReadImage) -> list[Any] | None:
    from highdicom import sr

    part = PARTS.get(image.region)
    if part is None:
        return None
    return [sr.FindingSite(Code(part.code, "SCT", part.meaning), laterality=_SIDES.get(image.laterality))]


def _outline(x: int, y: int, width: int, height: int) -> Any:
    """Return the closed polyline around a box, in pixels: corners as (column, row)."""
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    return np.array(corners, dtype=float)


def _attention(image: ReadImage, region: AttentionRegion) -> Any:
    """Return an attention region as a measurement: its mean map value and its outline."""
    from highdicom import sr

    source = image.source()
    return sr.Measurement(
        name=ATTENTION,
        value=round(float(region.score), 4),
        unit=_NO_UNITS,
        referenced_coordinates=[
            sr.CoordinatesForMeasurement(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=_outline(region.x, region.y, region.width, region.height),
                source_image=sr.SourceImageForRegion(str(source.SOPClassUID), str(source.SOPInstanceUID)),
            )
        ],
    )


def _group(reading: Reading, image: ReadImage) -> Any:
    """Return the measurement group of one image (TID 1501)."""
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
    measurements = []
    if image.probability is not None:
        measurements = [
            sr.Measurement(
                name=_own_code("PROBABILITY", f"Calibrated probability of {reading.noun}"),
                value=round(float(image.probability), 6),
                unit=_NO_UNITS,
            )
        ]
    measurements += [_attention(image, region) for region in image.attention]
    said = image.triage or Triage.NOT_ASSESSABLE
    source = image.source()
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid("tracking", reading.study_uid, reading.bundle_hash, image.sop_uid),
            identifier=f"Image {image.number}",
        ),
        finding_type=_finding_of(reading),
        algorithm_id=algorithm,
        finding_sites=_sites(image),
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


def structured_report(reading: Reading, sop_class: str, sop_uid: str) -> bytes:
    """Return what the bundle says of a study: unverified, preliminary.

    Parameters
    ----------
    sop_class
        Comprehensive SR, or Comprehensive 3D SR.
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
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[_group(reading, image) for image in reading.images],
        title=_TITLE,
    )
    out = _document(reading, "sr", sop_class, sop_uid, content[0], reading.made_at)
    out.PreliminaryFlag, out.VerificationFlag = "PRELIMINARY", "UNVERIFIED"
    return written(out)


def _document(
    reading: Reading, kind: str, sop_class: str, sop_uid: str, content: Dataset, at: datetime
) -> Dataset:
    from highdicom import sr

    made = sr.Comprehensive3DSR if sop_class == COMPREHENSIVE_3D_SR else sr.ComprehensiveSR
    out: Dataset = made(
        evidence=[_evidence(image) for image in reading.images],
        content=content,
        series_number=SERIES[kind],
        series_instance_uid=reading.series_uid(kind),
        sop_instance_uid=sop_uid,
        instance_number=reading.version,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=reading.description,
    )
    copy_identity(out, reading.images[0])
    stamp(out, reading, at)
    for equipment in out.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = f"{at:%Y%m%d%H%M%S}+0000"
    if reading.earlier is not None:
        out.PredecessorDocumentsSequence = _predecessor(reading, kind, *reading.earlier)
    return out


def _predecessor(reading: Reading, kind: str, sop_class: str, sop_uid: str) -> DicomSequence:
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = UID(sop_class), UID(sop_uid)
    series.SeriesInstanceUID = UID(reading.series_uid(kind))
    series.ReferencedSOPSequence = DicomSequence([instance])
    study.StudyInstanceUID = UID(reading.study_uid)
    study.ReferencedSeriesSequence = DicomSequence([series])
    return DicomSequence([study])


# what a person signed


def _answer_group(reading: Reading, signature: Signature, images: Sequence[ReadImage]) -> Any:
    """Return a reader's answer: on the place that they marked, else of the study's images."""
    from highdicom import sr

    marked = next((i for i in images if signature.place and i.number == signature.place[0]), None)
    said: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=derived_uid("signed", reading.study_uid, reading.bundle_hash, f"{signature.signed_at}"),
            identifier=f"Image {marked.number}" if marked else "Study",
        ),
        "finding_type": _finding_of(reading),
        "finding_sites": _sites(marked or images[0]),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(
                _own_code("ANSWER", f"Answer of a reader: {reading.noun}"), _ANSWERS[signature.answer]
            ),
            sr.QualitativeEvaluation(
                _own_code("AI_TRIAGE", "Triage by AI that the reader saw"),
                _own_code(reading.triage.value.upper(), TRIAGE_WORDS[reading.triage]),
            ),
        ],
    }
    if marked is None or signature.place is None:
        sources = [
            sr.SourceImageForMeasurementGroup(str(s.SOPClassUID), str(s.SOPInstanceUID))
            for s in (image.source() for image in images)
        ]
        return sr.MeasurementsAndQualitativeEvaluations(**said, source_images=sources)
    _, x, y, width, height = signature.place
    point = not width and not height
    source = marked.source()
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        **said,
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POINT if point else sr.GraphicTypeValues.POLYLINE,
            graphic_data=np.array([[x, y]], dtype=float) if point else _outline(x, y, width, height),
            source_image=sr.SourceImageForRegion(str(source.SOPClassUID), str(source.SOPInstanceUID)),
        ),
    )


def signed_reading(reading: Reading, sop_class: str, sop_uid: str) -> bytes:
    """Return what a reader signed of a study: verified by them, and final.

    Raises
    ------
    ValueError
        Nobody has signed it.
    """
    from highdicom import sr

    signature = reading.signature
    if signature is None:
        raise ValueError("nobody has signed this version")
    first = reading.images[0]
    name = writable(signature.reader, first, 62).replace("^", " ").replace("=", " ") + "^"  # one component
    organization = writable(signature.organization, first, 64)
    observer = sr.ObserverContext(
        observer_type=sr.CodedConcept("121006", "DCM", "Person"),
        observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(
            name=name, organization_name=organization
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[_answer_group(reading, signature, reading.images)],
        title=_TITLE,
    )
    if comment := writable(signature.comment, first) if signature.comment.strip() else "":
        evaluations = sr.ContainerContentItem(
            name=Code("C0034375", "UMLS", "Qualitative Evaluations"),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        evaluations.ContentSequence = sr.ContentSequence(
            [
                sr.TextContentItem(
                    name=Code("121106", "DCM", "Comment"),
                    value=comment,
                    relationship_type=sr.RelationshipTypeValues.CONTAINS,
                )
            ]
        )
        report[0].ContentSequence.append(evaluations)
    out = _document(reading, "signed", sop_class, sop_uid, report[0], signature.signed_at)
    out.PreliminaryFlag, out.VerificationFlag = "FINAL", "VERIFIED"
    verified = Dataset()
    verified.VerifyingObserverName = name
    verified.VerifyingOrganization = organization
    verified.VerificationDateTime = f"{signature.signed_at:%Y%m%d%H%M%S}+0000"
    verified.VerifyingObserverIdentificationCodeSequence = DicomSequence([])
    out.VerifyingObserverSequence = DicomSequence([verified])
    out.SeriesDescription = f"Signed reading of {reading.noun}, with {reading.bundle}"[:64]
    return written(out)
