"""The cookies' names and attributes.

Over TLS a name has a prefix by which browsers take the cookie from this host alone, and over TLS alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flask import request
from werkzeug.wrappers import Response

from web.base.config import current_settings


def _over_tls() -> bool:
    return bool(current_settings().secure_cookies)


@dataclass(frozen=True)
class Cookie:
    """A cookie that no script can read."""

    plain_name: str
    same_site: Literal["Lax", "Strict"]
    path: str = "/"

    def named(self, *, over_tls: bool) -> str:
        """Return the name: ``__Host-`` demands the root as path, ``__Secure-`` does not."""
        prefix = "__Host-" if self.path == "/" else "__Secure-"
        return f"{prefix if over_tls else ''}{self.plain_name}"

    def sent(self) -> str:
        """Return what the browser sent; empty when it sent none."""
        return request.cookies.get(self.named(over_tls=_over_tls()), "")

    def give(self, response: Response, value: str, *, seconds: int) -> None:
        """Set the cookie for so long."""
        response.set_cookie(
            self.named(over_tls=_over_tls()),
            value,
            max_age=seconds,
            path=self.path,
            httponly=True,
            samesite=self.same_site,
            secure=_over_tls(),
        )

    def take_back(self, response: Response) -> None:
        """Delete the cookie."""
        response.delete_cookie(
            self.named(over_tls=_over_tls()),
            path=self.path,
            httponly=True,
            samesite=self.same_site,
            secure=_over_tls(),
        )


SESSION = Cookie("fractureai_session", "Lax")
#: A form's token for somebody who is not signed in.
FORM = Cookie("fractureai_form", "Strict", "/sign-in")
#: A form that was sent after its session had run out.
KEPT = Cookie("fractureai_kept", "Lax", "/account/kept")
#: What the identity provider's answer is compared with; the way back is another site's redirect.
PROVIDER = Cookie("fractureai_provider", "Lax", "/sign-in/provider")
