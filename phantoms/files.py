"""Phantoms as files: PNG, JPEG and DICOM with nobody's name, lists of labels, and the demo's sample set."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from phantoms.film import REGIONS, Phantom, make_phantom

#: DICOM's term where it is not the region's name.
_BODY_PARTS = {"lower_leg": "LEG"}
FORMATS: tuple[str, ...] = ("png", "jpeg", "dicom")
NOTICE = "SYNTHETIC PHANTOM: not a patient. Made by the phantoms of FractureAI."


def _png(pixels: npt.NDArray[np.uint8], text: str) -> bytes:
    data = cv2.imencode(".png", pixels)[1].tobytes()
    body = b"tEXtDescription\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]  # after the signature and IHDR


def _jpeg(pixels: npt.NDArray[np.uint8], text: str) -> bytes:
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    comment = text.encode("latin-1")
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]  # after SOI


def _dicom(phantom: Phantom, study: str, number: int) -> bytes:
    def uid(*parts: object) -> str:
        return generate_uid(entropy_srcs=["phantom", *map(str, parts)])

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid(study, number, phantom.region, phantom.seed, phantom.fractured)
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.SOPClassUID = meta.MediaStorageSOPClassUID
    out.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    out.StudyInstanceUID, out.SeriesInstanceUID = uid("study", study), uid("series", study)
    out.ImageType = ["DERIVED", "SECONDARY"]
    out.StudyDate, out.StudyTime, out.Modality = "20260105", "090000", "CR"
    out.Manufacturer, out.ConversionType = "FractureAI phantom", "SYN"
    out.StudyDescription = out.SeriesDescription = "SYNTHETIC PHANTOM"
    out.ImageComments = NOTICE
    number_of_study = zlib.crc32(study.encode())
    out.PatientName, out.PatientID = "SYNTHETIC^PHANTOM", f"SYN{number_of_study:010d}"
    out.PatientAge, out.PatientBirthDate, out.PatientSex = "045Y", "", ""
    out.AccessionNumber, out.StudyID, out.ReferringPhysicianName = f"SYN{number_of_study:010d}", "", ""
    out.SeriesNumber, out.InstanceNumber = 1, number
    out.BodyPartExamined = _BODY_PARTS.get(phantom.region, phantom.region.upper())
    out.ViewPosition = phantom.view
    out.Laterality, out.PatientOrientation = phantom.laterality, ""
    out.BurnedInAnnotation = "NO"
    out.PixelSpacing = [f"{phantom.spacing:.4f}"] * 2
    out.Rows, out.Columns = phantom.pixels.shape
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated = out.BitsStored = 8
    out.HighBit, out.PixelRepresentation = 7, 0
    data = phantom.pixels.tobytes()
    out.PixelData = data + b"\0" * (len(data) % 2)
    target = io.BytesIO()
    out.save_as(target, enforce_file_format=True)
    return target.getvalue()


def encode_phantom(
    phantom: Phantom,
    format: str = "png",
    *,
    study: str | None = None,
    number: int = 1,
) -> bytes:
    """Return the bytes of a file that says in itself that it is synthetic.

    Parameters
    ----------
    format
        ``png`` (a tEXt chunk says it), ``jpeg`` (a comment) or ``dicom`` (CR; in its description).
    study, number
        DICOM only: images of one `study` share StudyInstanceUID and accession; `number` counts them.

    Raises
    ------
    ValueError
        The format is none of these.
    """
    text = f"{NOTICE} region={phantom.region} seed={phantom.seed}"
    if format == "png":
        return _png(phantom.pixels, text)
    if format == "jpeg":
        return _jpeg(phantom.pixels, text)
    if format == "dicom":
        return _dicom(phantom, study or f"{phantom.region}-{phantom.seed}-{phantom.fractured}", number)
    raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")


_SUFFIX = {"png": ".png", "jpeg": ".jpg", "dicom": ".dcm"}


def write_phantoms(
    folder: Path | str,
    count: int,
    *,
    seed: int = 0,
    regions: Sequence[str] = REGIONS,
    fracture_share: float = 0.5,
    formats: Sequence[str] = ("png",),
    labels: bool = False,
    longest: int = 448,
    on_progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write phantoms of seeds `seed`, `seed` + 1 ..., regions and formats in turn; return their paths.

    Parameters
    ----------
    fracture_share
        Chance of a fracture, 0-1.
    labels
        Whether to write ``labels.csv`` beside them: file, region, fracture, its box and polygon.
    longest
        Long side in pixels.
    on_progress
        Called with the number written so far.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, rows = [], []
    for i in range(count):
        region, kind = regions[i % len(regions)], formats[i // len(regions) % len(formats)]
        fracture = bool(np.random.default_rng([seed + i, 99]).random() < fracture_share)
        phantom = make_phantom(seed + i, region, fracture=fracture, longest=longest)
        path = folder / f"{region}_{seed + i:06d}{_SUFFIX[kind]}"
        path.write_bytes(encode_phantom(phantom, kind))
        paths.append(path)
        box = phantom.box or ("", "", "", "")
        corners = " ".join(f"{x},{y}" for x, y in phantom.polygon)
        where = (phantom.bone, *box, corners, phantom.laterality, phantom.view, f"{phantom.spacing:.4f}")
        rows.append((path.name, region, int(fracture), *where, phantom.seed))
        if on_progress:
            on_progress(i + 1)
    if labels:
        with (folder / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            head = "filename,region,fractured,bone,x,y,width,height,polygon,laterality,view,spacing_mm,seed"
            writer.writerow(head.split(","))
            writer.writerows(rows)
    return paths


def _photograph(seed: int) -> npt.NDArray[np.uint8]:
    """Paint something like a holiday photograph: sky, sun, sea, a house. Not a radiograph."""
    rng = np.random.default_rng([seed, 7])
    height, width = 360, 480
    rise = np.linspace(0, 1, height)[:, None, None]
    picture = (
        (1 - rise) * np.array([210, 140, 60.0]) + rise * np.array([90, 190, 250.0]) + np.zeros((1, width, 1))
    )
    picture[220:] = np.array([120, 110, 20.0]) + 18 * np.sin(np.arange(140) * 0.7)[:, None, None]
    picture = np.asarray(np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255), np.uint8)
    cv2.circle(picture, (360, 150), 34, (60, 220, 255), -1, cv2.LINE_AA)
    cv2.rectangle(picture, (60, 170), (170, 260), (60, 60, 200), -1)
    cv2.fillPoly(picture, [np.array([(50, 170), (115, 120), (180, 170)])], (40, 90, 40))
    cv2.rectangle(picture, (100, 210), (130, 260), (30, 60, 90), -1)
    return picture


#: What the demo shows: region, view (any where empty), how many with a fracture, how many without. These are
#: mostly knees from the front: of no other part does the shipped bundle answer so rarely *doubt*.
_DEMO = (
    ("knee", "AP", 3, 9),
    ("lower_leg", "", 3, 0),
    ("humerus", "", 2, 0),
    ("forearm", "", 2, 0),
    ("hip", "", 1, 1),
    ("shoulder", "", 1, 1),
    ("elbow", "", 1, 0),
    ("hand", "", 1, 0),
)


def _shown(seed: int, region: str, view: str, *, fracture: bool) -> Phantom:
    """Make the first phantom from a seed on that is of this view."""
    while view and make_phantom(seed, region, fracture=False, longest=64).view != view:
        seed += 1000
    return make_phantom(seed, region, fracture=fracture)


def _demo_phantoms(seed: int) -> tuple[dict[str, list[Phantom]], dict[str, list[Phantom]]]:
    """Make the demo's phantoms by region: single ones, and those of its two studies."""
    singles: dict[str, list[Phantom]] = {}
    count = 0
    for region, view, broken, whole in _DEMO:
        for i in range(broken + whole):
            singles.setdefault(region, []).append(_shown(seed + count, region, view, fracture=i < broken))
            count += 1
    studies: dict[str, list[Phantom]] = {}
    for region, broken in (("forearm", 2), ("knee", 0)):
        views: dict[str, Phantom] = {}
        attempt = seed + 100
        while len(views) < 2:
            phantom = make_phantom(attempt, region, fracture=len(views) < broken)
            if all(phantom.laterality == other.laterality for other in views.values()):
                views.setdefault(phantom.view, phantom)
            attempt += 1
        studies[region] = list(views.values())
    return singles, studies


def demo_phantoms(seed: int = 2026) -> list[Phantom]:
    """Return the phantoms of the demo's sample set."""
    return [phantom for kind in _demo_phantoms(seed) for phantoms in kind.values() for phantom in phantoms]


def demo_images(folder: Path | str, *, seed: int = 2026) -> list[Path]:
    """Write the demo's sample set, one file or more for each kind of outcome, and return their paths.

    Single phantoms, two DICOM studies of two views, in one of them a copy of the same bytes, a cut-off
    file, a colour picture, and a text file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []

    def save(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        paths.append(path)

    singles, studies = _demo_phantoms(seed)
    for region, phantoms in singles.items():
        for i, phantom in enumerate(phantoms, 1):
            kind = ("png", "jpeg")[len(paths) % 2]
            save(f"{region}_{i}{_SUFFIX[kind]}", encode_phantom(phantom, kind))
    for region, phantoms in studies.items():
        for i, phantom in enumerate(phantoms, 1):
            data = encode_phantom(phantom, "dicom", study=f"demo-{region}", number=i)
            save(f"study_{region}/view_{i}.dcm", data)
    save("study_knee/view_1_copy.dcm", (folder / "study_knee" / "view_1.dcm").read_bytes())
    cut = encode_phantom(make_phantom(seed + 200, "leg", fracture=False), "jpeg")
    save("cut_off.jpg", cut[: len(cut) // 3])
    save("holiday.jpg", cv2.imencode(".jpg", _photograph(seed))[1].tobytes())
    save(
        "notes.txt", b"This is not an image. It is here so that the demo shows how such a file is refused.\n"
    )
    return paths
