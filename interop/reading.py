"""What all DICOM objects of a reading share: patient and study copied byte by byte, our equipment.

The same reading always gives the same bytes: nothing comes from the clock or from chance.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from interop.quiet import quieten
from pipeline.types import AttentionRegion
from settings import VERSION
from store.reading.reported import Reported, ReportedImage
from vocabulary.dicom import IMPLEMENTATION_UID, MANUFACTURER, derived_uid
from vocabulary.states import Answer

#: Series numbers by kind: higher than a modality's, so that a viewer hangs the radiograph first.
SERIES = {"sc": 9001, "sr": 9002, "pdf": 9003, "summary": 9004, "signed": 9005}
MODEL_NAME = "FractureAI batch reader"
#: Copied from the source byte by byte: character set, study, patient.
_COPIED = (
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080090, 0x00081030,
    0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000D, 0x00200010,
)  # fmt: skip
#: Those of them that every object must have, even empty (type 2).
ALWAYS: Mapping[int, str] = {
    0x00080020: "DA", 0x00080030: "TM", 0x00080050: "SH", 0x00080090: "PN", 0x00100010: "PN",
    0x00100020: "LO", 0x00100030: "DA", 0x00100040: "CS", 0x00200010: "SH",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReadImage(ReportedImage):
    """One image of a study, with its result.

    Attributes
    ----------
    identity
        What its envelope holds: a data set in Explicit VR Little Endian.
    picture
        JPEG with the attention map, or without where none was drawn.
    low, high
        The thresholds of its triage.
    attention
        Where the model looked, in pixels of the image.
    """

    identity: bytes
    picture: bytes
    low: float | None = None
    high: float | None = None
    attention: tuple[AttentionRegion, ...] = ()

    def source(self) -> Dataset:
        """Return the elements of its envelope, not yet parsed; each object that is made begins with it."""
        quieten()
        return read_dataset(io.BytesIO(self.identity), is_implicit_VR=False, is_little_endian=True)


@dataclass(frozen=True)
class Signature:
    """What a reader said of the study and signed.

    Attributes
    ----------
    place
        Number of an image, and a box in its pixels (x, y, width, height); a point where it has no size.
    organization
        Where they read.
    """

    reader: str
    organization: str
    signed_at: datetime
    answer: Answer
    comment: str = ""
    place: tuple[int, int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Reading(Reported):
    """A version of a study's finding; it is made at a time in UTC, the content time of every object.

    Attributes
    ----------
    earlier
        SOP class and instance of the report that it replaces.
    """

    images: Sequence[ReadImage]
    signature: Signature | None = None
    earlier: tuple[str, str] | None = None

    @property
    def description(self) -> str:
        """Of each series: what made it, and that it is no diagnosis."""
        return f"AI {self.noun} {self.bundle} - NOT FOR DIAGNOSIS"[:64]

    def series_uid(self, kind: str) -> str:
        """Return the UID of the series of a kind: one for all versions by this bundle."""
        return derived_uid("series", self.study_uid, self.bundle_hash, kind)


def base(reading: Reading, image: ReadImage, kind: str, sop_class: str, sop_uid: str) -> Dataset:
    """Return what every object of ours has: patient and study of the source, series and equipment of ours."""
    out = Dataset()
    out.SOPClassUID, out.SOPInstanceUID = UID(sop_class), UID(sop_uid)
    copy_identity(out, image)
    out.SeriesInstanceUID = UID(reading.series_uid(kind))
    out.SeriesNumber, out.SeriesDescription = SERIES[kind], reading.description
    stamp(out, reading)
    return out


def copy_identity(out: Dataset, image: ReadImage) -> None:
    """Put the source's patient and study into an object, byte by byte."""
    source = image.source()
    for tag in _COPIED:
        if Tag(tag) in out:
            del out[tag]
        if Tag(tag) in source:
            out[tag] = source.get_item(tag)  # as it came: pydicom decodes nothing
        elif tag in ALWAYS:
            out.add_new(tag, ALWAYS[tag], "")


def stamp(out: Dataset, reading: Reading, at: datetime | None = None) -> None:
    """Write the equipment and the times: when it was said."""
    at = at or reading.made_at
    date, time = f"{at:%Y%m%d}", f"{at:%H%M%S.%f}"
    out.Manufacturer, out.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    out.SoftwareVersions, out.DeviceSerialNumber = [VERSION, reading.bundle], reading.bundle_hash[:16]
    out.ContentDate, out.ContentTime = date, time
    out.InstanceCreationDate, out.InstanceCreationTime = date, time
    out.SeriesDate, out.SeriesTime = date, time
    out.InstanceCreatorUID = UID(IMPLEMENTATION_UID)
    out.TimezoneOffsetFromUTC = "+0000"


def written(out: Dataset) -> bytes:
    """Return an object as a file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = out.SOPClassUID, out.SOPInstanceUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    out.file_meta = meta
    file = io.BytesIO()
    out.save_as(file, enforce_file_format=True)
    return file.getvalue()


def writable(text: str, image: ReadImage, most: int = 1024) -> str:
    """Return a text as the source's character set can write it: letters that it lacks lose their accents."""
    stated = image.source().get("SpecificCharacterSet", "") or "ISO_IR 6"
    # without one, it is the letters of ISO-IR 6, and not those of Latin-1 that pydicom would write
    encodings = ["ascii"] if stated == "ISO_IR 6" else convert_encodings(stated)[:1]
    if encodings == ["iso8859"]:
        encodings = ["ascii"]
    text = " ".join(text.replace("\\", "/").split())[:most]
    try:
        text.encode(encodings[0])
    except (UnicodeEncodeError, LookupError):
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode()
        return "".join(a for a in plain if a != "?") or "?"
    return text


def references(images: Sequence[ReadImage]) -> DicomSequence:
    """Return references to the source images."""
    found = []
    for image in images:
        source, reference = image.source(), Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        found.append(reference)
    return DicomSequence(found)
