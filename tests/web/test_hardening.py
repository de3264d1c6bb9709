"""What an attacker tries on every page: forms of other sites, scripts in uploads, framing, foreign hosts."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from sqlalchemy import select, update

from settings import get_settings
from store.accounts.accounts import Role
from store.base import throttled_log
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import ApiKey, Image
from tests.reading import read_batch
from tests.web.asking import PNG, Asker, Browser
from tests.web.test_access import LINES
from tests.web.world import make_world
from web.factory import create_app

#: Forms that are read as a stream: anything but multipart is refused before the token is looked at.
STREAMS = frozenset({"/batches", "/batches/<uuid:batch_id>/files"})
SCRIPT = b"<html><script>alert(document.domain)</script></html>"


def test_names_are_text_on_every_page(app: Any, site_key: str) -> None:
    """Of files, batches, people, keys, sites, views, archives, data sets; accessions and comments."""
    own = make_world(app, Role.ADMIN, sign="<i>&'\"")
    browser = own.browser(app.test_client())
    naming = set()
    for line in LINES:
        for path in line.paths(own.ids) if line.method == "GET" else ():
            page = browser.client.get(path)
            if page.content_type.startswith("text/html"):
                assert f"{own.marker}<" not in page.text, path
                assert "&amp;lt;" not in page.text, path
                naming |= {line.rule} if f"{own.marker}&lt;i&gt;&amp;" in page.text else set()
            page.close()
    assert len(naming) > 12, naming


def test_no_form_works_without_the_sessions_token(app: Any, site_key: str) -> None:
    own, other = make_world(app, Role.ADMIN), make_world(app, Role.ADMIN)
    browser, stranger = own.browser(app.test_client()), other.browser(app.test_client())
    for line in LINES:
        if line.public or line.method in {"GET", "HEAD"}:
            continue
        for path in line.paths(own.ids):
            for token in ({}, {"csrf": "wrong"}, {"csrf": stranger.csrf}):
                kind = "multipart/form-data" if line.rule in STREAMS else "application/x-www-form-urlencoded"
                files = {"files": (io.BytesIO(PNG), "a.png")} if line.rule in STREAMS else {}
                sent = browser.client.open(
                    path, method=line.method, data={**token, **files}, content_type=kind
                )
                assert sent.status_code == 403, (line, token)
                assert "does not belong to this session" in sent.text
                header = {"X-CSRF-Token": token.get("csrf", "")}
                bare = browser.client.open(path, method=line.method, headers=header)
                assert bare.status_code == (415 if line.rule in STREAMS else 403), line
    for line in LINES:
        if not line.public and line.method == "GET":
            for path in line.paths(own.ids):
                page = browser.client.get(path)
                if not page.content_type.startswith("text/html"):
                    continue
                for form in re.findall(r"<form [^>]*method=.post.*?</form>", page.text, re.DOTALL):
                    assert f'name="csrf" value="{browser.csrf}"' in form, (path, form)


def test_no_form_takes_a_character_that_no_text_has(app: Any, site_key: str) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    lines = [line for line in LINES if line.method == "POST" and not line.rule.startswith("/api/")]
    assert len(lines) > 20
    for line in lines:
        for path in line.paths(world.ids):
            is_stream = line.rule in STREAMS
            fields = (
                {"label": "a\0b", "files": (io.BytesIO(PNG), "a\0b.png")} if is_stream else {"name": "a\0b"}
            )
            answer = browser.post(path, **fields)
            assert answer.status_code in ({409, 422} if is_stream else {422}), (path, answer.text)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["nul", "half a character"])
def test_no_address_nor_body_takes_a_character_that_no_text_has(ask: Asker, text: str) -> None:
    refused = ask.post("/people", json={"email": f"{text}@localhost", "role": "staff"})
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_request")
    if "\0" in text:
        assert ask.get("/worklist?q=a%00b").json["code"] == "invalid_query"
        assert ask.get("/bundles/a%00b").status_code == 404


def test_every_answer_carries_the_headers_and_leads_nowhere_else(app: Any, site_key: str) -> None:
    own = make_world(app, Role.ADMIN)
    browser = own.browser(app.test_client())
    answers = [
        browser.client.open(path, method=line.method)  # without the token: the refusals too
        for line in LINES
        for path in line.paths(own.ids)
    ]
    answers += [app.test_client().get(path) for path in ("/batches", "/nowhere", "/api/v1/batches", "/%00")]
    assert {answer.status_code for answer in answers} >= {200, 302, 401, 403, 404}
    for answer in answers:
        headers, where = answer.headers, answer.request.path
        assert headers["X-Content-Type-Options"] == "nosniff", where
        assert headers["X-Frame-Options"] == "DENY", where
        assert headers["Referrer-Policy"] == "no-referrer", where
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", where
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'"), where
        assert "script-src 'self'" in policy or "script-src" not in policy, where
        assert "unsafe-eval" not in policy, where
        if "unsafe" in policy:
            assert headers["Content-Type"] == "application/pdf", where
        assert headers["Cache-Control"] == "no-store", where
        if "Location" in headers:
            assert headers["Location"].startswith("/"), (where, headers["Location"])
        if headers["Content-Type"].startswith("text/html"):
            assert not re.search(r"<script(?![^>]* src=)|\son\w+=|style=", answer.text), where
        answer.close()  # a stream holds its transaction


def test_html_and_svg_are_refused_at_the_door(ask: Asker) -> None:
    batch = ask.draft()
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    answer = ask.send(batch, ("a.html", SCRIPT), ("a.png", SCRIPT), ("a.svg", svg), ("b.jpg", svg))
    assert {file["status"] for file in answer.json["files"]} == {"rejected"}


@pytest.mark.parametrize(
    "media_type", ["image/png", "text/html", "image/svg+xml", "application/xhtml+xml", None]
)
def test_what_hides_a_script_is_never_run(
    ask: Asker, browser: Browser, blobs: BlobStore, media_type: str | None
) -> None:
    batch = ask.draft()
    ask.send(batch, ("both.png", PNG + SCRIPT))  # a PNG to the door, a page to a browser that guesses
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    with session_scope() as session:
        session.execute(update(Image).values(media_type=media_type))
        image = session.scalars(select(Image)).one()
    blobs.put(image.original_key, PNG + SCRIPT)
    answer = browser.client.get(f"/api/v1/images/{image.id}/original")
    assert answer.get_data() == PNG + SCRIPT
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    if media_type == "image/png":
        assert answer.content_type == "image/png"
    else:
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")


def test_only_the_names_that_are_set_are_answered_to(
    site_key: str, settings_env: pytest.MonkeyPatch, link: Any
) -> None:
    settings_env.setenv("FRACTUREAI_TRUSTED_HOSTS", "xray.hospital.example,localhost")
    settings_env.setenv("FRACTUREAI_PUBLIC_URL", "https://xray.hospital.example")
    get_settings.cache_clear()
    app = create_app()
    assert app.test_client().get("/sign-in", base_url="https://xray.hospital.example").status_code == 200
    foreign = app.test_client().get("/sign-in", base_url="https://evil.example")
    assert foreign.status_code == 400
    assert "evil.example" not in foreign.text
    browser = Browser(app.test_client())
    browser.sign_in(token=link())
    page = browser.post("/admin/people", email="bo@hospital.example", role="staff")
    assert "https://xray.hospital.example/sign-in?token=" in page.text  # not the name that was asked


def test_cookies_say_what_they_are_for(site_key: str, settings_env: pytest.MonkeyPatch, link: Any) -> None:
    settings_env.setenv("FRACTUREAI_SECURE_COOKIES", "true")
    get_settings.cache_clear()
    client = create_app().test_client()
    token = link()
    client.get("/sign-in", query_string={"token": token}, base_url="https://localhost")
    twin = client.get_cookie("__Secure-fractureai_form", path="/sign-in")
    assert twin.http_only
    assert twin.secure
    assert twin.same_site == "Strict"
    client.post("/sign-in", data={"csrf": twin.value, "token": token}, base_url="https://localhost")
    assert client.get_cookie("fractureai_session") is None
    session = client.get_cookie("__Host-fractureai_session")
    assert session.http_only
    assert session.secure
    assert session.same_site == "Lax"
    assert client.get_cookie("__Secure-fractureai_form", path="/sign-in") is None
    page = client.get("/batches", base_url="https://localhost").text
    csrf = re.search(r'name="csrf" (?:content|value)="([^"]+)"', page)[1]
    answer = client.post("/sign-out", data={"csrf": csrf}, base_url="https://localhost")
    for cookie in answer.headers.getlist("Set-Cookie"):  # a browser refuses it otherwise, and forgets nothing
        assert cookie.startswith(("__Host-", "__Secure-"))
        assert "; Secure" in cookie
    assert client.get_cookie("__Host-fractureai_session") is None


def test_an_error_of_ours_tells_nothing_of_itself(
    app: Any, ask: Asker, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret words of an exception")

    monkeypatch.setattr("store.intake.batches.list_batches", broken)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for answer in (ask.get("/batches"), browser.client.get("/batches")):
        assert answer.status_code == 500
        for word in ("secret words", "RuntimeError", "Traceback", "list_batches", ".py"):
            assert word not in answer.text


def test_refusals_are_logged_with_who_and_from_where(
    app: Any, ask: Asker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttled_log, "_told", {})  # tests before this one were refused, too
    monkeypatch.setattr(throttled_log, "_left_out", {})
    for _ in range(3):
        assert app.test_client().get("/api/v1/batches?status=private").status_code == 401
    assert ask.client.get("/account", headers=ask.headers).status_code == 403
    told = [record.getMessage() for record in caplog.records if "refused" in record.message]
    assert told[0] == "refused (unauthorized): GET /api/v1/batches, asked from 127.0.0.1 by nobody"
    with session_scope() as session:
        owner = session.scalars(select(ApiKey.user_id)).one()
    assert told[1:] == [f"refused (forbidden): GET /account, asked from 127.0.0.1 by {owner}"]


def test_a_parameter_that_comes_twice_is_refused(ask: Asker) -> None:
    """Two parts of a service could each believe another one."""
    for path in ("/batches?limit=1&limit=2", "/batches?cursor=a&cursor=b"):
        answer = ask.get(path)
        assert (answer.status_code, answer.json["code"]) == (422, "invalid_query")
