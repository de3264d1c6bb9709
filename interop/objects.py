"""Objects that go back to the archive: pictures, structured reports and a PDF of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydicom.sequence import Sequence as DicomSequence

from interop import pictures, structured_reports
from interop.reading import ReadImage, Reading, base, references, written
from vocabulary.dicom import COMPREHENSIVE_SR, ENCAPSULATED_PDF, SECONDARY_CAPTURE


def encapsulated_pdf(reading: Reading, sop_uid: str) -> bytes:
    """Return the study's report as an Encapsulated PDF. Raises `ValueError` where it has none."""
    if reading.pdf is None:
        raise ValueError("the study has no report")
    first = reading.images[0]
    out = base(reading, first, "pdf", ENCAPSULATED_PDF, sop_uid)
    out.Modality, out.ConversionType = "DOC", "WSD"
    out.InstanceNumber = reading.version
    out.AcquisitionDateTime = ""
    out.BurnedInAnnotation = "NO"
    out.DocumentTitle = reading.description
    out.ConceptNameCodeSequence = DicomSequence([])
    out.MIMETypeOfEncapsulatedDocument = "application/pdf"
    out.SourceInstanceSequence = references(reading.images)
    out.add_new("EncapsulatedDocument", "OB", reading.pdf + b"\0" * (len(reading.pdf) % 2))
    out.EncapsulatedDocumentLength = len(reading.pdf)
    return written(out)


#: Kinds of objects, with the class of each.
CLASSES: Mapping[str, str] = {
    "sc": SECONDARY_CAPTURE,
    "summary": SECONDARY_CAPTURE,
    "sr": COMPREHENSIVE_SR,
    "signed": COMPREHENSIVE_SR,
    "pdf": ENCAPSULATED_PDF,
}


def make(reading: Reading, kind: str, sop_class: str, sop_uid: str, images: Sequence[ReadImage]) -> bytes:
    """Return an object of a kind; of `images` the first one is its own, where it has one.

    Raises
    ------
    ValueError
        It cannot be made of this reading.
    """
    makers: Mapping[str, Callable[[], bytes]] = {
        "sc": lambda: pictures.secondary_capture(reading, images[0], sop_uid),
        "summary": lambda: pictures.summary(reading, sop_uid),
        "sr": lambda: structured_reports.structured_report(reading, sop_class, sop_uid),
        "signed": lambda: structured_reports.signed_reading(reading, sop_class, sop_uid),
        "pdf": lambda: encapsulated_pdf(reading, sop_uid),
    }
    return makers[kind]()
