"""A person's own account: password, API keys, the browsers in which they are signed in."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from flask import Response as FlaskResponse
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from store.accounts import accounts, second_factor, throttle
from store.accounts.accounts import PERMISSIONS, Permission, Role
from store.accounts.people import SignsInElsewhere
from store.base.session import session_scope
from store.base.tables import Site, User
from web.auth import kept_forms
from web.auth.identity import (
    MAX_PER_PERSON,
    Confirmation,
    before_second_factor,
    confirm_identity,
    confirm_lately,
    confirmation,
    identity,
    is_personal,
)
from web.auth.sign_in import local_address
from web.base import cookies
from web.base.config import current_settings
from web.base.errors import InvalidRequest, NothingKept, SessionWasOver, TooManyAttempts
from web.base.forms import form_on

account = Blueprint("account", __name__, url_prefix="/account")

#: How long a key may live, in days; the empty one never ends.
LIVES = {"30": "30 days", "90": "90 days", "365": "a year", "": "no end"}
#: What each permission is called where somebody chooses a key's scope.
PERMISSION_WORDS = {
    Permission.SUBMIT: "send batches",
    Permission.READ: "see and download results",
    Permission.WORK: "work the list",
    Permission.REVIEW: "review and sign",
    Permission.RESEARCH: "research",
    Permission.ADMINISTER: "administer the site",
}


def _page(**more: object) -> str:
    idle_hours = current_settings().session_idle_hours
    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
        return render_template(
            "accounts/account.html",
            user=user,
            site=session.get_one(Site, identity().site_id),
            keys=accounts.list_api_keys(session, identity()),
            sessions=accounts.list_sessions(session, user.id, idle_hours=idle_hours),
            here=accounts.hash_token(cookies.SESSION.sent()),
            lives=LIVES,
            scopes=[p for p in Permission if p in PERMISSIONS[Role(user.role)]],
            words=PERMISSION_WORDS,
            **more,
        )


@account.get("")
@is_personal
def show() -> str:
    """Show the person's API keys, their browsers, and the form for a password."""
    return _page()


@account.post("/keys")
@is_personal
@form_on("account.show")
def create_key() -> str:
    """Make an API key; it is shown this once."""
    confirm_lately()
    name, life = request.form.get("name", "").strip(), request.form.get("life", "")
    if not 1 <= len(name) <= 100:
        raise InvalidRequest([("name", "a key needs a name of 1 to 100 characters")])
    if life not in LIVES:
        raise InvalidRequest([("life", "choose how long the key lives")])
    try:
        scope = {Permission(word) for word in request.form.getlist("scope")}
    except ValueError:
        raise InvalidRequest([("scope", "a scope is one of the permissions offered")]) from None
    if not scope:
        raise InvalidRequest([("scope", "choose what the key may do")])
    ends = datetime.now(UTC) + timedelta(days=int(life)) if life else None
    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
        _, key = accounts.create_api_key(
            session, user, name, scope=scope & identity().permissions, expires_at=ends
        )
    return _page(new_key=key)


@account.post("/keys/<uuid:key_id>/revoke")
@is_personal
@form_on("account.show")
def revoke_key(key_id: uuid.UUID) -> Response:
    """Make a key useless."""
    with session_scope() as session:
        accounts.revoke_api_key(session, identity(), key_id)
    return redirect(url_for("account.show"), 303)


@account.post("/sessions/<uuid:session_id>/end")
@is_personal
@form_on("account.show")
def end_session(session_id: uuid.UUID) -> Response:
    """Sign one of the person's browsers out."""
    with session_scope() as session:
        accounts.end_session(session, identity(), session_id)
    return redirect(url_for("account.show"), 303)


@account.get("/confirm")
@before_second_factor
@is_personal
def ask_password() -> str | Response:
    """Ask for the password again, before an act that needs it; or send to the identity provider."""
    target = local_address(request.args.get("next", ""))
    way = confirmation()
    if way is Confirmation.PROVIDER:
        return redirect(url_for("oidc.confirm", next=target))
    return render_template("accounts/confirm.html", next=target, way=way)


@account.post("/confirm")
@before_second_factor
@is_personal
@form_on("account.ask_password")
def take_password() -> Response:
    """Note that the person gave their password again; it counts for some minutes."""
    if not request.form.get("password"):
        raise InvalidRequest("give your password")
    confirm_identity(request.form["password"])
    with session_scope() as session:
        accounts.record_password_check(session, cookies.SESSION.sent())
    return redirect(local_address(request.form.get("next", "")), 303)


@account.post("/password")
@is_personal
@form_on("account.show")
def change_password() -> str:
    """Set the person's password; their other browsers are signed out."""
    if request.form.get("password") != request.form.get("again"):
        raise InvalidRequest([("again", "the two passwords differ")])
    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
    if user.provider_subject and (user.role_from_provider or not user.password_hash):
        raise SignsInElsewhere
    if user.password_hash:
        if not request.form.get("old"):
            raise InvalidRequest([("old", "give the present password, too")])
        confirm_identity(request.form["old"])
    else:
        confirm_lately()
    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
        accounts.set_password(
            session, user, request.form.get("password", ""), keep_session=cookies.SESSION.sent()
        )
    return _page(said="The password is set. Other browsers were signed out.")


def _second_factor_page(*, error: str = "", codes: Sequence[str] = (), status: int = 200) -> FlaskResponse:
    import segno  # only this page draws a code

    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
    secret = second_factor.new_secret()
    drawn = segno.make(second_factor.address_of(user, secret), micro=False)
    page = render_template(
        "accounts/second_factor.html",
        user=user,
        secret=" ".join(secret[i : i + 4] for i in range(0, len(secret), 4)),
        offer=second_factor.seal_offer(user, secret),
        picture=Markup(drawn.svg_inline(scale=5, border=4, light="#fff", title="QR code")),  # noqa: S704 - our own
        error=error,
        codes=codes,
    )
    return FlaskResponse(page, status)


@account.get("/second-factor")
@before_second_factor
@is_personal
def show_second_factor() -> FlaskResponse:
    """Show whether signing in takes a code, and how to set that."""
    return _second_factor_page()


@account.post("/second-factor")
@before_second_factor
@is_personal
@form_on("account.show_second_factor")
def set_second_factor() -> FlaskResponse:
    """Set the second factor, confirmed by its first code; shows recovery codes once."""
    confirm_lately()
    offer, code = request.form.get("offer", ""), request.form.get("code", "")
    try:
        with session_scope() as session:
            user = session.get_one(User, identity().user_id, with_for_update=True)
            if user.totp_secret is not None:
                raise InvalidRequest("there is a second factor already: remove it first")
            codes = second_factor.enrol(session, user, offer, code)
            accounts.pass_second_factor(session, cookies.SESSION.sent())
    except second_factor.CodeWrong as error:
        return _second_factor_page(error=f"{error.title} {error.advice}", status=422)
    return _second_factor_page(codes=codes)


@account.post("/second-factor/remove")
@is_personal
@form_on("account.show_second_factor")
def remove_second_factor() -> Response:
    """Remove the second factor; takes a code of it."""
    confirm_lately()
    me = identity()
    with session_scope() as session:
        attempt = throttle.try_sign_in(session, {f"code {me.user_id}": MAX_PER_PERSON})
    if attempt is None:
        raise TooManyAttempts
    with session_scope() as session:
        right = second_factor.check_code(session, me.user_id, request.form.get("code", ""))
        if right:
            throttle.clear_attempts(session, attempt)
            second_factor.remove(session, session.get_one(User, me.user_id), by=me.user_id)
    if not right:
        return _second_factor_page(error=second_factor.CodeWrong.title, status=422)
    return redirect(url_for("account.show_second_factor"), 303)


@account.get("/kept")
@is_personal
def show_kept() -> FlaskResponse:
    """Show the form that was sent after its session had run out; nothing is sent until a button is pressed.

    Raises
    ------
    NothingKept
    """
    path, fields = kept_forms.kept_form()
    parts = urlsplit(path)
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None
    try:
        endpoint, values = adapter.match(parts.path, method="POST")
    except HTTPException:
        raise NothingKept from None
    if page := kept_forms.pages.get(endpoint):
        text = page(MultiDict(fields), dict(parse_qsl(parts.query)), **values)
    else:
        text = render_template("auth/kept.html", path=path, fields=fields, error=SessionWasOver())
    return FlaskResponse(text, headers={"Cache-Control": "no-store"})
