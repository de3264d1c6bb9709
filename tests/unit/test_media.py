"""What passes for an image by its first bytes, without any image library."""

from __future__ import annotations

import pytest

from vocabulary.media import is_archive, is_zip, sniff

HEADS = {
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR": "image/png",
    b"\xff\xd8\xff\xe0\0\x10JFIF": "image/jpeg",
    b"II*\0\x08\0\0\0": "image/tiff",
    b"MM\0*\0\0\0\x08": "image/tiff",
    b"RIFF\x10\0\0\0WEBPVP8 ": "image/webp",
    b"\0" * 128 + b"DICM\x02\0\0\0UL": "application/dicom",
    b"\x08\0\x05\0CS\x0a\0ISO_IR 100": "application/dicom",
    b"\x02\0\0\0UL\x04\0\xc2\0\0\0\x02\0\x01\0": "application/dicom",
    b"\0\x08\0\x05CS\0\x0aISO_IR 100": "application/dicom",
    b"\x08\0\x08\0\x16\0\0\0ORIGINAL\\PRIMARY": "application/dicom",
    b"\x08\0\0\x08\0\0\0\x16ORIGINAL": None,
    b"GIF89a": None,
    b"%PDF-1.7": None,
    b"<svg xmlns='http://www.w3.org/2000/svg'>": None,
    b"RIFF\x10\0\0\0WAVEfmt ": None,
    b"\x08\0 a letter": None,
    b"": None,
}


@pytest.mark.parametrize(("head", "expected"), HEADS.items())
def test_first_bytes_tell_the_kind(head: bytes, expected: str | None) -> None:
    assert sniff(head) == expected


def test_archives_are_known_whatever_their_name() -> None:
    assert is_zip(b"PK\x03\x04rest")
    assert is_zip(b"PK\x05\x06" + b"\0" * 18)
    assert not is_zip(b"Rar!\x1a\x07\0")
    for head in (
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"Rar!\x1a\x07\0",
        b"7z\xbc\xaf\x27\x1c",
        b"\0" * 257 + b"ustar",
    ):
        assert is_archive(head)
    assert not is_archive(b"\xff\xd8\xff\xe0")
