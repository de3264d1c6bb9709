"""What a file is by its first bytes: one answer for the process that takes uploads and for the decoder."""

from __future__ import annotations

#: What a file of each kind is called, at the end of its name.
EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/tiff": "tif",
    "image/webp": "webp",
    "application/dicom": "dcm",
    "application/pdf": "pdf",
}

#: How many of a file's first bytes `sniff` looks at.
SNIFF_BYTES = 136

_DICOM_VR = frozenset(  # value representations, PS3.5 table 6.2-1
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW"
    b" PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_FIRST_GROUPS = frozenset({0x0002, 0x0008})  # file meta information, identification
#: The longest value that is plausible as the first one of a data set of implicit representations.
_LONGEST_FIRST = 64


def sniff(head: bytes) -> str | None:
    """Tell the media type of an image that this service takes, or None.

    Parameters
    ----------
    head
        The first `SNIFF_BYTES` bytes of the file, or more, or all of it.

    Returns
    -------
    str or None
        ``image/png``, ``image/jpeg``, ``image/tiff``, ``image/webp``, ``application/dicom``, or None.
    """
    if is_dicom(head):  # first: the preamble may be that of a TIFF
        return "application/dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "image/tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_dicom(head: bytes) -> bool:
    """Tell whether a file starts as DICOM: by ``DICM`` at byte 128 (PS3.10, 7.1), or bare.

    A bare one begins with an element of group 0002 or 0008 in either byte order, its representation stated or
    its length short.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in ("little", "big"):
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
        if group in _FIRST_GROUPS and element < 0x0100:
            length = int.from_bytes(head[4:8], order)
            return head[4:6] in _DICOM_VR or length <= _LONGEST_FIRST
    return False


HEAD_BYTES = 4096

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OTHER_ARCHIVES = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
)


def is_zip(head: bytes) -> bool:
    """Tell whether the file is a ZIP archive."""
    return head.startswith(_ARCHIVES)


def is_archive(head: bytes) -> bool:
    """Tell whether the file is an archive of any kind: inside a ZIP none is opened."""
    return is_zip(head) or head.startswith(_OTHER_ARCHIVES) or head[257:262] == b"ustar"
