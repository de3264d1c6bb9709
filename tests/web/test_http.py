"""HTTP as its standards say: conditional requests, methods, dates, forms, proxies, addresses."""

from __future__ import annotations

import socket
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from cli.supervise import listen
from settings import Settings, SettingsError
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Image
from tests.web.asking import Asker, Browser, png
from tests.web.test_access import LINES
from tests.web.test_api import problem
from tests.web.test_resumable import TUS, announce, append
from tests.web.world import make_world


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", W/{}', "*"])
def test_a_tag_that_a_proxy_made_weak_still_answers_304(ask: Asker, form: str) -> None:
    batch = ask.draft()
    tag = ask.get(f"/batches/{batch}").headers["ETag"]
    again = ask.get(f"/batches/{batch}", headers={"If-None-Match": form.format(tag)})
    assert (again.status_code, again.headers["ETag"]) == (304, tag)


def test_bytes_answer_304_to_a_weak_tag(ask: Asker, blobs: Any) -> None:
    batch = ask.draft()
    ask.send(batch, ("1.png", png("1")))
    blobs.put("images/1", b"picture")
    with session_scope() as session:
        image = session.query(Image).one()
        image.display_key, image.display_sha256 = "images/1", "a" * 64
    ask.post(f"/batches/{batch}/submit")
    path = f"/images/{image.id}/display"
    tag = ask.get(path).headers["ETag"]
    assert ask.get(path, headers={"If-None-Match": f"W/{tag}"}).status_code == 304


@pytest.mark.parametrize("body", ['{"label":' * 900 + "1" + "}" * 900, "[" * 100_000, '{"label": NaN}'])
def test_json_that_is_none_or_too_deep_is_told(ask: Asker, body: str) -> None:
    problem(ask.post("/batches", data=body, content_type="application/json"), 422, "invalid_request")


def test_a_large_file_by_post_alone(ask: Asker) -> None:
    data = png("x" * 100)
    answer = announce(ask, ask.draft(), "a.png", len(data))
    when = answer.headers["Upload-Expires"]
    assert when.endswith(" GMT")
    assert parsedate_to_datetime(when).tzinfo is not None
    address = answer.headers["Location"]
    by_post = {**TUS, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    kind = "application/offset+octet-stream"
    sent = ask.post(address, headers=by_post, data=data, content_type=kind)
    assert (sent.status_code, sent.headers["Upload-Offset"]) == (204, str(len(data)))
    head = ask.post(address, headers={**TUS, "X-HTTP-Method-Override": "HEAD"})
    assert (head.status_code, head.headers["Upload-Offset"]) == (200, str(len(data)))
    assert ask.post(address, headers={**TUS, "X-HTTP-Method-Override": "delete"}).status_code == 204
    assert append(ask, address, 0, b"x").status_code == 404
    # of tus alone: elsewhere a method is what it is
    assert ask.post("/batches", headers={"X-HTTP-Method-Override": "DELETE"}, json={}).status_code == 201


@pytest.mark.parametrize("value", ["short", "x" * 10_000])
@pytest.mark.parametrize("name", ["files", "manifest"])
def test_a_file_that_is_sent_as_a_field_gets_its_reason(
    ask: Asker, browser: Browser, name: str, value: str
) -> None:
    batch = ask.draft()
    form = {"content_type": "multipart/form-data"}
    told = problem(ask.post(f"/batches/{batch}/files", data={name: value}, **form), 422, "invalid_request")
    assert f"curl -F '{name}=@PATH'" in told["detail"]
    page = browser.client.post(f"/batches/{batch}/files", data={"csrf": browser.csrf, name: value}, **form)
    assert page.status_code == 422
    assert "without a file name" in page.text


def test_a_proxy_below_a_path_is_refused_on_every_page(app: Any, browser: Browser, ask: Asker) -> None:
    below = {"X-Forwarded-Prefix": "/fracture"}
    problem(ask.get("/batches", headers=below), 400, "prefix_unsupported")
    for client, path in (
        (browser.client, "/batches"),
        (app.test_client(), "/"),
        (app.test_client(), "/sign-in"),
    ):
        answer = client.get(path, headers=below)
        assert answer.status_code == 400
        assert "root of a host name" in answer.text
    assert browser.client.get("/batches", headers={"X-Forwarded-Prefix": "/"}).status_code == 200
    with pytest.raises(SettingsError, match="public_url"):
        Settings(public_url="https://hospital.example/fracture")


@pytest.mark.parametrize(
    ("host", "asked"), [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1"), ("127.0.0.1",) * 2]
)
def test_it_listens_on_ipv6(host: str, asked: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with closing(listen(host, 0)) as listener:
        port = listener.getsockname()[1]
        socket.create_connection((asked, port), timeout=5).close()


def test_a_number_beyond_an_integer_in_an_address_is_not_there(app: Any, site_key: str) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    for line in LINES:
        if "<int:" in line.rule and line.method == "GET":
            path = next(iter(line.paths({**world.ids, "number": 2**31})))
            assert browser.client.get(path).status_code == 404, line


@pytest.mark.parametrize("target", ["/batches\r\nSet-Cookie: a=b", "/batches\n", "/a b", "/\x7f"])
def test_a_line_break_in_the_way_back_is_dropped(app: Any, link: Any, target: str) -> None:
    browser = Browser(app.test_client())
    answer = browser.sign_in(token=link(), next=target)
    assert (answer.status_code, answer.location) == (303, "/batches")
    assert browser.client.get("/sign-in", query_string={"next": target}).location == "/batches"


def test_a_long_name_is_cut_and_takes_no_neighbour_with_it(ask: Asker) -> None:
    batch = ask.draft()
    name = "\N{CJK UNIFIED IDEOGRAPH-9AA8}" * 1000 + ".png"
    manifest = f"path,accession\n{name},A1\n".encode()
    answer = ask.send(batch, ("good.png", png("1")), (name, png("2")), manifest=manifest)
    assert [file["status"] for file in answer.json["files"]] == ["accepted", "accepted"]
    assert [i["accession"] for i in ask.get(f"/batches/{batch}/images").json["items"]] == ["", "A1"]
    known = {"files": [{"filename": name, "sha256": answer.json["files"][1]["sha256"]}]}
    assert len(ask.post(f"/batches/{batch}/known", json=known).json["files"]) == 1
