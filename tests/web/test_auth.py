"""Who may ask: keys, sessions, one-time links, passwords, forms of other sites, headers of every answer."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from settings import get_settings
from store.accounts import accounts
from store.accounts.accounts import PERMISSIONS, Permission, Role
from store.base.session import session_scope
from store.base.tables import ApiKey, Audit, SignInToken, User, UserSession
from tests.web.asking import Asker, Browser, png
from tests.web.test_api import problem
from web.auth.identity import refuse_unmarked
from web.factory import create_app

PASSWORD = "correct horse battery"


def admin(session: Any) -> User:
    return session.scalars(select(User).where(User.email == "admin@localhost")).one()


@pytest.fixture
def with_password(site_key: str) -> None:
    with session_scope() as session:
        accounts.set_password(session, admin(session), PASSWORD)


@pytest.mark.parametrize(
    "header", ["Bearer nonsense", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Bearer ünï", "x"]
)
def test_a_wrong_key_is_refused(app: Any, header: str) -> None:
    problem(
        app.test_client().get(
            "/api/v1/batches", headers={"Authorization": header.encode().decode("latin-1")}
        ),
        401,
        "unauthorized",
    )


def test_keys_are_kept_as_hashes_and_end(ask: Asker, site_key: str) -> None:
    assert re.fullmatch(r"fai_[\w-]{43}", site_key), "256 bits"
    assert ask.get("/batches").status_code == 200
    with session_scope() as session:
        row = session.scalars(select(ApiKey)).one()
        assert site_key not in str(vars(row))
        assert row.last_used_at is not None
        row.expires_at = func.now() - timedelta(seconds=1)
    problem(ask.get("/batches"), 401, "unauthorized")
    with session_scope() as session:
        session.execute(update(ApiKey).values(expires_at=None, revoked_at=func.now()))
    problem(ask.get("/batches"), 401, "unauthorized")
    with session_scope() as session:
        session.execute(update(ApiKey).values(revoked_at=None))
        session.execute(update(User).values(disabled_at=func.now()))
    problem(ask.get("/batches"), 401, "unauthorized")


def test_a_key_does_what_its_scope_says_and_no_more(app: Any, site_key: str, browser: Browser) -> None:
    with session_scope() as session:
        scope = [Permission.READ]
        reads = Asker(
            app.test_client(use_cookies=False),
            accounts.create_api_key(session, admin(session), "reads", scope=scope)[1],
        )
    assert reads.get("/batches").status_code == 200
    problem(reads.post("/batches", json={}), 403, "forbidden")
    for path in ("/account", "/account/keys", "/account/password"):  # no key makes a wider key
        answer = reads.client.open(
            path, method="GET" if path == "/account" else "POST", headers=reads.headers
        )
        assert answer.status_code == 403
    with session_scope() as session:
        admin(session).role = Role.STAFF.value
        known = accounts.identify_key(session, site_key)
        assert known.permissions == PERMISSIONS[Role.STAFF]  # a key is never more than its owner


def test_the_application_does_not_start_with_a_view_that_says_nothing(site_key: str) -> None:
    app = create_app()
    app.add_url_rule("/forgotten", "forgotten", lambda: "open to whom?")
    with pytest.raises(TypeError, match="forgotten"):
        refuse_unmarked(app)


def test_use_of_a_key_is_noted_at_most_once_a_minute(ask: Asker) -> None:
    def used() -> Any:
        with session_scope() as session:
            return session.scalars(select(ApiKey.last_used_at)).one()

    ask.get("/batches")
    first = used()
    ask.get("/batches")
    assert used() == first
    with session_scope() as session:
        session.execute(update(ApiKey).values(last_used_at=func.now() - timedelta(minutes=2)))
    ask.get("/batches")
    assert used() >= first


def test_a_link_signs_in_once(app: Any, link: Callable[[], str]) -> None:
    token = link()
    browser = Browser(app.test_client())
    page = browser.client.get("/sign-in", query_string={"token": token})
    assert page.status_code == 200
    assert "signs you in once" in page.text  # looking at it does not use it up
    assert browser.sign_in(token=token).status_code == 303
    assert browser.client.get("/batches").status_code == 200
    again = Browser(app.test_client()).sign_in(token=token)
    assert again.status_code == 401
    assert "used already" in again.text


def test_a_link_runs_out(app: Any, link: Callable[[], str]) -> None:
    token = link()
    with session_scope() as session:
        session.execute(update(SignInToken).values(expires_at=func.now() - timedelta(seconds=1)))
    assert Browser(app.test_client()).sign_in(token=token).status_code == 401


def test_email_and_password(app: Any, with_password: None) -> None:
    browser = Browser(app.test_client())
    wrong = browser.sign_in(email="admin@localhost", password="wrong")
    nobody = browser.sign_in(email="nobody@localhost", password=PASSWORD)
    assert wrong.status_code == nobody.status_code == 401
    assert "address or the password is wrong" in wrong.text
    assert "address or the password is wrong" in nobody.text
    good = browser.sign_in(email=" ADMIN@localhost ", password=PASSWORD, next="/account")
    assert (good.status_code, good.location) == (303, "/account")
    cookie = next(h for h in good.headers.getlist("Set-Cookie") if h.startswith("fractureai_session"))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/a\\b"]
)
def test_signing_in_never_leads_elsewhere(app: Any, with_password: None, target: str) -> None:
    answer = Browser(app.test_client()).sign_in(email="admin@localhost", password=PASSWORD, next=target)
    assert answer.location == "/batches"


def test_cookies_are_secure_where_the_setting_says_so(
    with_password: None, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_SECURE_COOKIES", "true")
    get_settings.cache_clear()
    client = create_app().test_client()
    answer = client.get("/sign-in", base_url="https://localhost")
    assert "Secure" in answer.headers["Set-Cookie"]
    assert "max-age" in answer.headers["Strict-Transport-Security"]


@pytest.mark.parametrize("proxies", [0, 1])
def test_only_a_proxy_of_ours_says_where_the_asker_is(
    site_key: str, settings_env: pytest.MonkeyPatch, proxies: int
) -> None:
    settings_env.setenv("FRACTUREAI_TRUSTED_PROXIES", str(proxies))
    get_settings.cache_clear()
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "xray.example", "X-Forwarded-For": "192.0.2.7"}
    client = create_app().test_client()
    page = client.get("/api/v1/docs", headers=told)
    assert ("https://xray.example/api/v1" in page.text) is bool(proxies)
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in", headers=told).text)[1]
    form = {"csrf": token, "email": "admin@localhost", "password": "guess"}
    # two addresses, of which a client can write the first: the last is the proxy's own
    client.post("/sign-in", data=form, headers={**told, "X-Forwarded-For": "198.51.100.1, 192.0.2.7"})
    with session_scope() as session:
        lines = select(Audit.address).where(Audit.action == "sign_in_failed")
        assert session.scalars(lines).one() == ("192.0.2.7" if proxies else "127.0.0.1")


def test_guessing_is_slowed_down(app: Any, with_password: None) -> None:
    browser = Browser(app.test_client())
    for _ in range(10):
        assert browser.sign_in(email="admin@localhost", password="guess").status_code == 401
    stopped = browser.sign_in(email="Admin@localhost", password=PASSWORD)
    assert stopped.status_code == 429
    assert stopped.headers["Retry-After"] == "900"
    with session_scope() as session:
        failed = select(func.count()).select_from(Audit).where(Audit.action == "sign_in_failed")
        assert session.scalar(failed) == 10


def test_a_session_is_new_each_time_and_ends(app: Any, link: Callable[[], str]) -> None:
    browser = Browser(app.test_client())
    browser.client.set_cookie("fractureai_session", "planted")
    browser.sign_in(token=link())
    first = browser.client.get_cookie("fractureai_session").value
    assert first != "planted"
    assert browser.post("/sign-out").status_code == 303
    browser.client.set_cookie("fractureai_session", first)
    assert browser.client.get("/batches").status_code == 302
    browser.client.delete_cookie("fractureai_session")
    browser.sign_in(token=link())
    with session_scope() as session:
        session.execute(update(UserSession).values(expires_at=func.now() - timedelta(seconds=1)))
    assert browser.client.get("/batches").status_code == 302


def test_a_form_without_its_token_does_nothing(browser: Browser, ask: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("1")))
    client = browser.client
    for path in (
        f"/batches/{batch}/submit",
        f"/batches/{batch}/cancel",
        "/account/keys",
        "/account/password",
        "/sign-out",
    ):
        assert client.post(path).status_code == 403
        assert client.post(path, data={"csrf": "wrong"}).status_code == 403
    files = {"csrf": "wrong", "files": (io.BytesIO(png("2")), "b.png")}
    assert client.post("/batches", data=files, content_type="multipart/form-data").status_code == 403
    for path in (f"/api/v1/batches/{batch}/submit", "/api/v1/batches", f"/api/v1/batches/{batch}/files"):
        problem(client.post(path), 403, "csrf_failed")
    assert ask.get(f"/batches/{batch}").json["status"] == "draft"
    assert len(ask.get("/batches").json["items"]) == 1


def test_the_sign_in_form_belongs_to_its_browser(app: Any, link: Callable[[], str]) -> None:
    token = link()
    assert app.test_client().post("/sign-in", data={"token": token}).status_code == 403
    assert app.test_client().post("/sign-in", data={"token": token, "csrf": "x"}).status_code == 403
    assert Browser(app.test_client()).sign_in(token=token).status_code == 303


def test_a_browser_may_use_the_api_with_its_token(browser: Browser) -> None:
    assert browser.client.get("/api/v1/batches").status_code == 200
    made = browser.client.post("/api/v1/batches", json={}, headers={"X-CSRF-Token": browser.csrf})
    assert made.status_code == 201


def test_a_person_makes_and_revokes_keys(browser: Browser, app: Any) -> None:
    page = browser.post("/account/keys", name="PACS", scope=["submit", "read"])
    key = page.text.split('<code class="hash">')[1].split("<")[0]
    asker = Asker(app.test_client(use_cookies=False), key)
    assert asker.get("/batches").status_code == 200
    assert key not in browser.client.get("/account").text
    with session_scope() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.name == "PACS")).one()
    assert browser.post(f"/account/keys/{row.id}/revoke").status_code == 303
    problem(asker.get("/batches"), 401, "unauthorized")


def test_a_person_sets_a_password(browser: Browser, app: Any, link: Callable[[], str]) -> None:
    other = Browser(app.test_client())
    other.sign_in(token=link())
    for wrong in ("short", "nine long", "x" * 1001):
        assert browser.post("/account/password", password=wrong, again=wrong).status_code == 422
    assert browser.post("/account/password", password=PASSWORD, again="else").status_code == 422
    assert browser.post("/account/password", password=PASSWORD, again=PASSWORD).status_code == 200
    assert browser.client.get("/batches").status_code == 200
    assert other.client.get("/batches").status_code == 302
    changed = {"password": PASSWORD + "!", "again": PASSWORD + "!"}
    for _ in range(2):
        assert browser.post("/account/password", old="wrong one", **changed).status_code == 403
    with session_scope() as session:
        failed = select(func.count()).where(Audit.action == "confirmation_failed")
        assert session.scalar(failed) == 2
    assert browser.post("/account/password", old=PASSWORD, **changed).status_code == 200
    with session_scope() as session:
        assert accounts.check_password(session, "admin@localhost", PASSWORD + "!") is not None


def test_every_answer_is_hardened(app: Any, browser: Browser, ask: Asker) -> None:
    for path in (
        "/",
        "/batches",
        "/sign-in",
        "/healthz",
        "/api/v1/batches",
        "/api/v1/nothing",
        "/static/app.js",
    ):
        headers = browser.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert browser.client.get("/batches").headers["Cache-Control"] == "no-store"


def test_what_was_done_is_audited(ask: Asker, browser: Browser) -> None:
    batch = ask.draft()
    ask.send(batch, ("Name.png", png("1")))
    ask.post(f"/batches/{batch}/submit")
    ask.get(f"/batches/{batch}/results.csv")
    ask.get(f"/batches/{batch}/results.zip")
    with session_scope() as session:
        lines = session.execute(select(Audit.action, Audit.object_id, Audit.user_id, Audit.detail)).all()
        user = admin(session).id
    found = {line.action: line for line in lines}
    assert set(found) >= {
        "signed_in", "batch_created", "batch_submit", "results_csv_downloaded", "results_zip_downloaded",
    }  # fmt: skip
    assert found["batch_submit"].object_id == batch
    assert {line.user_id for line in lines} == {user}
    assert "Name" not in str(lines)
