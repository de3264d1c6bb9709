"""Small files that cost a decoder much, sent to hold up another site's urgent image."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import cv2
import httpx
import numpy as np
import pydicom
from openjpeg.utils import encode_array
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from tests.attacks.forms import draft, leave, zipped
from tests.attacks.target import API, Target, attack
from tests.tiffs import entry, tiff

#: Of each kind of file.
COPIES = 8
#: Pixels on a side: as many as a server takes by default.
SIDE = 9900
#: Another site's urgent image waits for a slice of a chunk's decoding (10 s) and one file's limit, before it
#: is decoded and once more before its attention map is drawn; on a machine with nothing else to do.
PROMPTLY = 40.0
PATIENCE = 600.0


def repeated_entries() -> bytes:
    """A directory that names 200,000 offsets 60,000 times; a few kilobytes in an archive."""
    return tiff(*[[entry(273, 4, 200_000, 8)] * 60_000] * 3, behind=bytes(1_000_000))


def two_sizes() -> bytes:
    """A TIFF that says 400 megapixels to one decoder and a small picture to another."""
    fields = [entry(tag, 4, 1, side) for side in (20_000, 96) for tag in (256, 257)]
    fields += [entry(tag, 3, 1, value) for tag, value in ((258, 8), (259, 1), (262, 1), (277, 1))]
    fields += [entry(273, 4, 1, 8), entry(278, 4, 1, 20_000), entry(279, 4, 1, 9_216)]
    return tiff(fields, behind=bytes(20_000))


def busy_exif() -> bytes:
    """A PNG with 40 blocks of EXIF whose entries repeat."""
    exif = tiff([entry(273, 4, 10_000, 8)] * 5_000, behind=bytes(100))[:65_000]
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    plain = gradient(1)
    return plain[:33] + chunk * 40 + plain[33:]


def film(syntax: str, bits: int, **pixels: object) -> pydicom.Dataset:
    """Return a DICOM object of the largest size."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.9", "Modality": "CR", "SamplesPerPixel": 1, "Rows": SIDE, "Columns": SIDE,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": 0,
    }  # fmt: skip
    for word, value in {**values, **pixels}.items():
        setattr(dataset, word, value)
    return dataset


def written(dataset: pydicom.Dataset) -> bytes:
    """Return the object as a file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def deflated() -> bytes:
    """98 megapixels of zeros, deflated to a thousandth."""
    dataset = film(DeflatedExplicitVRLittleEndian, 8, PixelData=bytes(SIDE * SIDE))
    dataset["PixelData"].VR = "OB"
    return written(dataset)


def empty_jpeg_2000() -> bytes:
    """98 megapixels of one grey in some hundred bytes: every packet of the codestream is empty."""
    small = bytearray(encode_array(np.full((64, 64), 128, np.uint8), photometric_interpretation=2))
    size = small.index(b"\xff\x51") + 6
    struct.pack_into(">II", small, size, SIDE, SIDE)
    struct.pack_into(">II", small, size + 16, SIDE, SIDE)
    dataset = film(JPEG2000Lossless, 8, PixelData=encapsulate([bytes(small)]))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


BOMBS: dict[str, Callable[[], bytes]] = {
    "repeated.tif": repeated_entries,
    "sizes.tif": two_sizes,
    "exif.png": busy_exif,
    "deflated.dcm": deflated,
    "empty.dcm": empty_jpeg_2000,
}


def gradient(number: int) -> bytes:
    """Return a small picture that reads quickly and is like no other."""
    rows = np.linspace(0, 255, 256)[:, None] * np.linspace(0.3, 1, 256)[None, :]
    noise = np.random.default_rng(number).integers(0, 40, (256, 256))
    return cv2.imencode(".png", np.clip(rows * 0.8 + noise, 0, 255).astype(np.uint8))[1].tobytes()


def copies() -> Iterator[tuple[str, bytes]]:
    """Yield each file several times, with bytes of its own behind it, so that none is known already."""
    for name, make in BOMBS.items():
        data = make()
        for number in range(COPIES):
            yield f"{number}-{name}", data + os.urandom(8)


def ended(client: httpx.Client, batch: str, seconds: float = PATIENCE) -> dict[str, int]:
    """Wait until a batch has ended; return its counts."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        shown = client.get(batch).json()
        if shown["finished_at"]:
            return dict(shown["counts"])
        time.sleep(0.2)
    raise AssertionError(f"the batch did not end in {seconds:g} s: {shown['counts']}")


def read(client: httpx.Client) -> float:
    """Have one image read urgently; return how many seconds that took."""
    made = client.post(f"{API}/batches", json={"priority": "urgent"})
    assert made.status_code == 201, made.text
    batch = f"{API}/batches/{made.json()['id']}"
    name = f"{os.urandom(4).hex()}.png"
    client.post(f"{batch}/files", files={"files": (name, gradient(int.from_bytes(os.urandom(4), "big")))})
    began = time.monotonic()
    assert client.post(f"{batch}/submit").status_code == 202
    counts = ended(client, batch)
    assert counts["failed"] == 0, counts
    return time.monotonic() - began


def slowdown() -> float:
    """Return how many seconds a second of work takes here; it says how busy a server on this machine is."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.5:
        pass
    return max(1.0, (time.monotonic() - began) / (time.process_time() - used))


@attack(
    "files that cost a decoder much, beside another site's urgent image", needs_other=True, needs_workers=True
)
def bombs(target: Target) -> str:
    """Send 40 files of five kinds in one small archive; ask how long the other site waits."""
    archive = zipped(*copies())
    with target.client() as client, target.client(other=True) as neighbour:
        alone = max(read(neighbour) for _ in range(2))  # the first loads the networks
        alone = min(alone, read(neighbour))
        batch = draft(client)
        taken = client.post(f"{batch}/files", files={"files": ("bombs.zip", archive)})
        assert taken.status_code == 200, taken.text
        assert client.post(f"{batch}/submit").status_code == 202
        beside, slower = 0.0, slowdown()
        for _ in range(3):
            beside, slower = max(beside, read(neighbour)), max(slower, slowdown())
        leave(client, batch)
        after = read(neighbour)
        counts = ended(client, batch)
        rows = client.get(f"{batch}/images?limit=100").json()["items"]
    said = sorted({row["reason"]["code"] for row in rows if row["reason"] and row["status"] == "rejected"})
    most = PROMPTLY * slower
    assert beside < most, f"the other site waited {beside:.1f} s beside them, {alone:.1f} s alone"
    assert after < most, f"the other site waited {after:.1f} s after the batch was cancelled"
    assert counts["failed"] == 0, counts
    return (
        f"{len(archive)} bytes; the other site's image took {alone:.1f} s alone, {beside:.1f} s beside them, "
        f"{after:.1f} s after the cancel, on a machine {slower:.1f} times as slow as an idle one; "
        f"{counts['rejected']} of {counts['total']} rejected, as {', '.join(said)}"
    )
