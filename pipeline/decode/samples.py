"""Small pictures of our own, decoded once so that nothing is left to import when a stranger's file comes."""

from __future__ import annotations

import codecs
import io

import cv2
import numpy as np
from pydicom import charset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from pipeline.decode.picture import decode
from pipeline.types import Rejected

_SIDE = 64


def decode_all() -> None:
    """Load every text encoding that DICOM names, and decode a picture of each format.

    Raises
    ------
    RuntimeError
        A picture of ours is refused: something is wrong with this installation.
    """
    for encoding in {*charset.python_encoding.values(), *charset.STAND_ALONE_ENCODINGS, "idna"}:
        codecs.lookup(charset.python_encoding.get(encoding, encoding))
    for data in (*_plain(), *_dicom()):
        try:
            decode(data, max_pixels=_SIDE * _SIDE, pseudonymise=lambda _: "0" * 64)
        except Rejected as error:
            raise RuntimeError(f"a sample cannot be decoded ({error})") from error


def _grey() -> np.ndarray:
    row = np.linspace(0, 255, _SIDE).astype(np.uint8)
    return np.minimum(row[:, None], row[None, :])


def _plain() -> list[bytes]:
    deep, clear = _grey().astype(np.uint16) * 200, np.dstack([_grey()] * 4)
    pictures = [(kind, _grey()) for kind in (".png", ".jpg", ".tif", ".webp")] + [
        (".png", deep),
        (".png", clear),
    ]
    return [cv2.imencode(kind, picture)[1].tobytes() for kind, picture in pictures]


def _dicom() -> list[bytes]:
    written = []
    for syntax in (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
        dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        for word in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            setattr(dataset, word, UID("1.2.3.4"))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID, dataset.AccessionNumber, dataset.StudyDate = "1", "1", "20200101"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows = dataset.Columns = _SIDE
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.WindowCenter, dataset.WindowWidth = "128", "256"
        dataset.PixelData = _grey().tobytes()
        dataset["PixelData"].VR = "OB"
        dataset.add_new("PixelPaddingValue", "US", 0)
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        out = io.BytesIO()
        dataset.save_as(out, enforce_file_format=True)
        written.append(out.getvalue())
    return written
