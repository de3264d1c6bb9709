"""Names of the files in a download, which every operating system unpacks."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SUFFIXES = re.compile(r"\.(png|jpe?g|tiff?|webp|dcm|dicom|dic|ima)$", re.IGNORECASE)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?$", re.IGNORECASE)
#: What Windows forbids, control characters, and those that turn the direction of a line.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069<>:"|?*]')
#: Folders that are called as a member of another image would be.
_LIKE_A_MEMBER = re.compile(r"\.(?=(jpg|pdf|png|tiff?|webp|dcm|bin)$)", re.IGNORECASE)
_MAX_PART, _MAX_STEM = 80, 180


def _part(text: str) -> str:
    text = _FORBIDDEN.sub("_", text).strip().rstrip(". ")
    return f"_{text}" if _RESERVED.match(text) else text


def _cut(text: str, most: int, whole: str) -> str:
    if len(text.encode()) <= most:
        return text
    mark = "~" + hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:8]
    return text.encode()[: most - len(mark)].decode("utf-8", "ignore") + mark


def safe_stem(path: str) -> str:
    """Return a relative path without an image's suffix that every operating system can unpack.

    No drive, no root, no way upwards, no control characters, nothing that Windows forbids or reserves, NFC,
    at most 80 bytes a part and 180 in all; what is cut carries a hash of the whole.
    """
    normal = unicodedata.normalize("NFC", path.encode("utf-8", "replace").decode()).replace("\\", "/")
    parts = [p for p in normal.split("/") if p not in {"", ".", ".."}]
    if parts:
        parts[-1] = _SUFFIXES.sub("", parts[-1]) or parts[-1]
    parts[:-1] = [_LIKE_A_MEMBER.sub("_", part) for part in parts[:-1]]
    kept = [_cut(p, _MAX_PART, p) for p in map(_part, parts) if p]
    stem = "/".join(kept) or "unnamed"
    if len(stem.encode()) > _MAX_STEM:
        stem = _cut(kept[-1], _MAX_PART, kept[-1]) + "~" + hashlib.sha256(stem.encode()).hexdigest()[:8]
    return stem


def one_part(text: str) -> str:
    """Return an id as one part of a path; empty for an empty one."""
    return text.strip().replace("/", "_").replace("\\", "_")


class MemberNames:
    """Gives every image and every report of a batch a stem that no other has, in any case of its letters.

    Only a hash is kept of each, and of each report of several images its name.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._reports: dict[str, str] = {}

    def stem(self, path: str) -> str:
        """Return the stem of the next image, the same in every pass over the batch."""
        return self._unlike("", safe_stem(path))

    def _unlike(self, kind: str, preferred: str) -> str:
        stem = preferred
        while (key := self._key(kind + stem)) in self._seen:
            first = self._key(kind + preferred)
            self._seen[first] += 1
            stem = f"{preferred}-{self._seen[first]}"
        self._seen[key] = 1
        return stem

    @staticmethod
    def _key(stem: str) -> bytes:
        return hashlib.blake2b(stem.casefold().encode(), digest_size=10).digest()

    def report(self, key: str, n_images: int, preferred: str) -> tuple[str, bool]:
        """Return the member name of the report stored under `key`, and whether it is new.

        It is named by its study's accession number, or else its first image's file: `preferred`, made unique.
        """
        if n_images > 1 and key in self._reports:
            return self._reports[key], False
        name = f"reports/{self._unlike('reports/', safe_stem(preferred))}.pdf"
        if n_images > 1:
            self._reports[key] = name
        return name, True
