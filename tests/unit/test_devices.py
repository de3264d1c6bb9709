"""What is kept of the device that made an image: codes and keyed hashes, no text that no list bears out."""

from __future__ import annotations

import io
import uuid

import pydicom
import pytest

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.intake.devices import coded_maker, device_of

SITE = uuid.UUID(int=1)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACTUREAI_SECRET_KEY", "a secret for tests alone")
    get_settings.cache_clear()


def film(**attributes: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(encode_phantom(make_phantom(1, "hand", longest=64), "dicom")))
    for word in ("Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber"):
        if word in dataset:
            del dataset[word]
    for word, value in attributes.items():
        setattr(dataset, word, value)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("SIEMENS", "SIEMENS"), ("Siemens Healthineers", "SIEMENS"), ("GE Healthcare", "GE"),
        ('"GE Medical Systems, LLC"', "GE"), ("FUJIFILM Corporation", "FUJIFILM"),
        ("GENTLE PERSON", "OTHER"), ("Carestream Health", "CARESTREAM"), ("", ""), ("***", ""),
    ],
)  # fmt: skip
def test_a_manufacturer_is_one_of_a_list(said: str, code: str) -> None:
    assert coded_maker(said) == code


def test_a_device_is_known_again_and_says_no_name() -> None:
    def device(station: str, site: uuid.UUID = SITE, model: str = "Ysio Max") -> tuple[str, str, str]:
        data = film(Manufacturer="SIEMENS", ManufacturerModelName=model, StationName=station)
        found = device_of(site, data)
        assert found is not None
        return found

    one = device("ROOM2")
    assert one[:2] == ("SIEMENS", "YSIO MAX")
    assert len(one[2]) == 16
    assert "ROOM" not in one[2]
    assert device("ROOM2", model="Ysio  Max ") == one
    assert device("ROOM3") != one
    assert device("ROOM2", uuid.UUID(int=2))[2] != one[2], "no two sites share a hash"


def test_text_that_no_list_bears_out_is_hashed() -> None:
    for attributes in (
        {"Manufacturer": "QUILLFEATHER", "ManufacturerModelName": "QUILLFEATHER"},
        {"Manufacturer": "SIEMENS", "ManufacturerModelName": "QUILLFEATHER^A (born 1950)"},
        {"StationName": "QUILLFEATHER"},
    ):
        found = device_of(SITE, film(**attributes))
        assert found is not None
        assert "QUILL" not in "".join(found)
    assert device_of(SITE, film()) is None
    assert device_of(SITE, b"no DICOM") is None
