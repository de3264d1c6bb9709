"""What a file is, by its first bytes alone, without any image library: for the process that takes uploads."""

from __future__ import annotations

HEAD_BYTES = 4096

_DICOM_VR = frozenset(  # value representations, PS3.5 table 6.2-1
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW"
    b" PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OTHER_ARCHIVES = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
)


def sniff(head: bytes) -> str | None:
    """Return the media type of an image that this service takes, or None.

    Parameters
    ----------
    head
        The first bytes of the file; `HEAD_BYTES` are plenty, 132 are enough.

    Returns
    -------
    str or None
        ``image/png``, ``image/jpeg``, ``image/tiff``, ``image/webp``, ``application/dicom``, or None. DICOM
        is known by ``DICM`` at byte 128 (PS3.10, 7.1) or, without that preamble, by a first element of
        group 0002 or 0008, explicit or short and implicit.
    """
    if head[128:132] == b"DICM":  # first, since the preamble before it may be that of a TIFF
        return "application/dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "image/tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] in {b"\x02\x00", b"\x08\x00"} and (
        head[4:6] in _DICOM_VR or int.from_bytes(head[4:8], "little") <= 64 < len(head)
    ):
        return "application/dicom"
    return None


def is_zip(head: bytes) -> bool:
    """Tell whether the file is a ZIP archive."""
    return head.startswith(_ARCHIVES)


def is_archive(head: bytes) -> bool:
    """Tell whether the file is an archive of any kind: inside a ZIP none is opened."""
    return is_zip(head) or head.startswith(_OTHER_ARCHIVES) or head[257:262] == b"ustar"
