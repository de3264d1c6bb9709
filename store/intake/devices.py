"""What made an image, as far as its header says so: coded manufacturer, model, a hash of the station."""

from __future__ import annotations

import re
import uuid

from pipeline.dicom.elements import MANUFACTURER_TAG, HeaderUnreadable, read_header, split_file
from store.accounts.sites import station_hash

_MODEL, _STATION, _SERIAL = 0x00081090, 0x00081010, 0x00181000
#: Manufacturers of radiography by the words that theirs begin with; others are OTHER.
MAKERS = {
    "AGFA": "AGFA", "CANON": "CANON", "TOSHIBA": "CANON", "CARESTREAM": "CARESTREAM", "KODAK": "CARESTREAM",
    "EASTMAN KODAK": "CARESTREAM", "DEL MEDICAL": "DEL MEDICAL", "DRGEM": "DRGEM", "FUJI": "FUJIFILM",
    "GE": "GE", "GENERAL ELECTRIC": "GE", "HOLOGIC": "HOLOGIC", "IMAGING DYNAMICS": "IMAGING DYNAMICS",
    "KONICA": "KONICA MINOLTA", "MINDRAY": "MINDRAY", "OEHM": "OEHM UND REHBEIN", "PHILIPS": "PHILIPS",
    "RAYENCE": "RAYENCE", "SAMSUNG": "SAMSUNG", "SHIMADZU": "SHIMADZU", "SIEMENS": "SIEMENS",
    "STEPHANIX": "STEPHANIX", "SWISSRAY": "SWISSRAY", "UNITED IMAGING": "UNITED IMAGING",
    "VAREX": "VAREX", "VARIAN": "VAREX", "VIEWORKS": "VIEWORKS", "VIDAR": "VIDAR", "ZIEHM": "ZIEHM",
}  # fmt: skip
_MODEL_WORDS = re.compile(r"[A-Z0-9][A-Z0-9 ._/+-]{0,31}")


def coded_maker(text: str) -> str:
    """Return the code of a manufacturer; OTHER for one that the list does not have, nothing for none."""
    words = " ".join(re.sub(r"[^A-Z0-9]+", " ", text.upper()).split())
    if not words:
        return ""
    found = [name for name in MAKERS if f"{words} ".startswith(f"{name} ") or _is_prefix(name, words)]
    return MAKERS[max(found, key=len)] if found else "OTHER"


def _is_prefix(name: str, words: str) -> bool:
    return len(name) > 3 and words.startswith(name)


def device_of(site_id: uuid.UUID, data: bytes) -> tuple[str, str, str] | None:
    """Return manufacturer, model and station of a DICOM file; None where it says nothing of them.

    Text that no list bears out may be anything, a name too: a model is kept in words only beside a
    manufacturer that the list has, else as a keyed hash.
    """
    try:
        file = split_file(data)
        header = read_header(file.dataset, file.syntax, {MANUFACTURER_TAG, _MODEL, _STATION, _SERIAL})
    except HeaderUnreadable:
        return None
    maker = coded_maker(header.get(MANUFACTURER_TAG, ""))
    model = " ".join(header.get(_MODEL, "").upper().split())
    if model and (maker in {"", "OTHER"} or not _MODEL_WORDS.fullmatch(model)):
        model = station_hash(site_id, model)
    station = station_hash(site_id, f"{header.get(_STATION, '')}|{header.get(_SERIAL, '')}".strip("|"))
    return (maker, model, station) if maker or model or station else None
