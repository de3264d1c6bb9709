"""STOW-RS: what comes by HTTP is kept as what comes by C-STORE is."""

from __future__ import annotations

import http.client
import io
import tracemalloc
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select
from werkzeug.exceptions import RequestEntityTooLarge

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.dicom.elements import split_file
from store.base.session import session_scope
from store.base.tables import Batch, Image, Site
from store.intake import gateway_peers, received
from tests.web.serving import Serving
from web.intake import dicomweb
from web.intake.dicomweb import _Parts

BOUNDARY = "a boundary of ours"
TYPE = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'


def film(study: str, number: int = 1) -> bytes:
    return encode_phantom(make_phantom(number, "hand", longest=64), "dicom", study=study, number=number)


def body(*files: bytes) -> bytes:
    mark = b"--" + BOUNDARY.encode()
    parts = [mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in files]
    return b"a preamble\r\n" + b"".join(parts) + mark + b"--\r\n"


@pytest.fixture
def reached(site_key: str) -> uuid.UUID:
    with session_scope() as session:
        site = session.scalars(select(Site)).one()
        gateway_peers.set_site(session, site.id, ae_title="FRACTURES", release=0)
        return site.id


def post(client: Any, key: str, data: bytes, path: str = "/dicom-web/studies", **headers: str) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": TYPE, **headers}
    return client.post(path, data=data, headers=headers)


def paths() -> list[str]:
    with session_scope() as session:
        return list(session.scalars(select(Image.path).order_by(Image.path)))


def test_objects_are_kept_once_and_each_study_submitted(app: Any, site_key: str, reached: uuid.UUID):
    client = app.test_client()
    sent = [film("one", 1), film("two", 1), film("one", 2)]
    for _ in range(2):
        told = post(client, site_key, body(*sent))
        assert (told.status_code, told.content_type) == (200, "application/dicom+json")
        kept = [item["00081155"]["Value"][0] for item in told.json["00081199"]["Value"]]
        assert kept == [split_file(each).sop_uid for each in sent]
        assert "00081198" not in told.json
    assert paths() == sorted(f"{uid}.dcm" for uid in kept)
    assert received.complete_due() == 2
    with session_scope() as session:
        assert sorted(session.scalars(select(Batch.n_total))) == [1, 2]


def test_what_cannot_be_kept_is_named_with_its_reason(app: Any, site_key: str, reached: uuid.UUID):
    client = app.test_client()
    told = post(client, site_key, body(film("one"), b"no DICOM at all"))
    assert told.status_code == 202
    assert told.json["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    told = post(client, site_key, body(film("one", 2)), path="/dicom-web/studies/1.2.3")
    assert told.status_code == 409
    assert told.json["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
    assert len(paths()) == 1


def test_other_bodies_and_strangers_are_refused(app: Any, site_key: str, reached: uuid.UUID):
    client = app.test_client()
    other = {"Content-Type": "application/dicom"}
    assert post(client, site_key, body(film("one")), **other).status_code == 415
    assert post(client, site_key, body(film("one"), film("one", 2))[:-40]).status_code == 400
    assert post(client, site_key, b"").status_code == 400
    assert post(client, "wrong", body(film("one"))).status_code == 401
    assert len(paths()) == 1  # the part that came whole before the line was cut


def test_a_site_without_an_ae_title_takes_nothing(app: Any, site_key: str):
    assert post(app.test_client(), site_key, body(film("one"))).status_code == 404
    assert not paths()


@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
def test_pieces_of_any_size(app: Any, size: int):
    class Slow:
        def __init__(self, data: bytes) -> None:
            self.left = data

        def read(self, n: int = -1, /) -> bytes:
            piece, self.left = self.left[:size], self.left[size:]
            return piece

    files = [film("one", 1)[:3000], b"", b"\r\n--a boundary of ou", b"--" + BOUNDARY.encode()]
    found = [bytes(part) for part in _Parts(Slow(body(*files)), BOUNDARY.encode(), 1 << 20)]
    assert found == files


def test_a_large_object_leaves_the_memory_flat() -> None:
    """The web's container has a gigabyte, and one object may have half of that."""
    size, boundary = 48 << 20, BOUNDARY.encode()
    head = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n"
    last = b"\r\n--" + boundary + b"--\r\n"

    class Body:
        left = size // (1 << 16)
        begun = ended = False

        def read(self, n: int = -1, /) -> bytes:
            if not self.begun:
                self.begun = True
                return head + bytes(128) + b"DICM"
            if self.left:
                self.left -= 1
                return bytes(1 << 16)
            self.ended, ended = True, self.ended
            return b"" if ended else last

    tracemalloc.start()
    try:
        (size_found,) = [len(split_file(part).dataset) for part in _Parts(Body(), boundary, 2 * size)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size_found == size
    assert most < 4 << 20, f"{most >> 20} MiB"


def test_a_part_that_is_too_large_is_refused() -> None:
    with pytest.raises(RequestEntityTooLarge):
        list(_Parts(io.BytesIO(body(bytes(3 << 20))), BOUNDARY.encode(), 2 << 20))


def test_more_objects_than_a_request_may_have_are_refused(
    app: Any, site_key: str, reached: uuid.UUID, monkeypatch: pytest.MonkeyPatch
):
    """Each takes ten bytes, a file and a line of the answer: two gigabytes held a process for days."""
    monkeypatch.setattr(dicomweb, "MAX_OBJECTS", 3)
    client, sent = app.test_client(), [film("one", n) for n in range(4)]
    assert post(client, site_key, body(*sent[:3])).status_code == 200
    assert post(client, site_key, body(*sent)).status_code == 413
    assert len(paths()) == 3


def test_chunked_bodies(serving: Serving, reached: uuid.UUID):
    data = body(*(film("one", n) for n in range(3)))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    place = urlsplit(serving.url)
    line = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=60)
    headers = {"Authorization": f"Bearer {serving.key}", "Content-Type": TYPE}
    line.request("POST", "/dicom-web/studies", body=pieces(), headers=headers, encode_chunked=True)
    assert line.getresponse().status == 200
    assert len(paths()) == 3
