"""Keeps what was typed into a form whose session had run out, to be shown again after signing in."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

from cryptography.fernet import InvalidToken
from flask import g, request
from werkzeug.wrappers import Response

from store.accounts.accounts import form_owner
from store.base.sealing import sealer
from web.base import cookies
from web.base.errors import NothingKept

#: How long it is kept. Who signs in needs a minute, and a second factor another.
KEPT_SECONDS = 30 * 60
#: What one cookie holds in every browser, less its name and attributes.
MAX_BYTES = 3800
MAX_FORM_BYTES = 64 << 10
#: Never kept: what proves who somebody is, and what a page gives anew.
SECRETS = frozenset({"csrf", "password", "again", "old", "code", "token"})

Fields = list[tuple[str, str]]
Page = Callable[..., str]
#: By endpoint: what shows its form with the fields that were typed.
pages: dict[str, Page] = {}


def shows_again(endpoint: str) -> Callable[[Page], Page]:
    """Mark what shows an endpoint's form again; the fields of other forms are shown as a list."""

    def mark(page: Page) -> Page:
        pages[endpoint] = page
        return page

    return mark


def typed_by() -> str:
    """Return the id of the person to whose session the form that was sent belonged; empty when to nobody's.

    The form's token is sealed: only a page that we showed to that person holds one.
    """
    if request.mimetype != "application/x-www-form-urlencoded":
        return ""
    if request.content_length is None or request.content_length > MAX_FORM_BYTES:
        return ""
    return form_owner(request.form.get("csrf", ""))


def typed_fields() -> Fields:
    """Return the fields of the form that was sent, without secrets."""
    return [(name, value) for name, value in request.form.items(multi=True) if name not in SECRETS]


def sealed_form(owner: str) -> str:
    """Return the form that was sent for `owner` alone to open; empty when a cookie cannot hold it."""
    about = json.dumps([owner, request.full_path.rstrip("?"), typed_fields()]).encode()
    sealed = sealer(b"kept form").encrypt(zlib.compress(about, 9)).decode()
    return sealed if len(sealed) <= MAX_BYTES else ""


def keep(response: Response, sealed: str) -> Response:
    """Set a sealed form as a cookie of that path."""
    cookies.KEPT.give(response, sealed, seconds=KEPT_SECONDS)
    return response


def kept_form() -> tuple[str, Fields]:
    """Return where the kept form was sent to, and its fields.

    Raises
    ------
    NothingKept
        Nothing was, or by somebody else, or too long ago.
    """
    try:
        opened = sealer(b"kept form").decrypt(cookies.KEPT.sent().encode(), ttl=KEPT_SECONDS)
    except InvalidToken:
        raise NothingKept from None
    owner, path, fields = json.loads(zlib.decompress(opened))
    if owner != str(g.identity.user_id):
        raise NothingKept
    return path, [(name, value) for name, value in fields]
