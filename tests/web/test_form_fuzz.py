"""Every form of every page, sent with what nobody would fill in: no 500 comes back."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from store.accounts.accounts import Role
from tests.web.test_access import LINES
from tests.web.world import make_world

#: One after the other in every field, while the others stay as the page fills them.
ODD = (
    "", "a\0b", " \t\n", "0", "-1", "9" * 40, "1e400", "nan", "2026-99-99", "a@b", "{}", "é" * 3000,
    "../../etc/passwd", "http://[::1", "\u202e<script>alert(1)</script>",
)  # fmt: skip


def forms_of(page: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return method, address and fields of a page's forms."""
    found = []
    for form in re.findall(r"<form .*?</form>", page, re.DOTALL):
        head = form[: form.index(">")]
        method = re.search(r'method="?(\w+)', head)
        address = re.search(r'action="([^"]*)"', head)
        fields = {}
        for field in re.finditer(r'<(?:input|select|textarea|button)\b[^>]*?name="?([\w-]+)[^>]*>', form):
            value = re.search(r'value="([^"]*)"', field[0])
            fields.setdefault(field[1], unescape(value[1]) if value else "")
        fields.pop("csrf", None)
        found.append((method[1] if method else "get", unescape(address[1]) if address else "", fields))
    return found


def test_no_form_breaks(app: Any, site_key: str) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    seen: set[tuple[str, ...]] = set()
    broken, asked = [], 0
    for line in LINES:
        if line.method != "GET" or line.rule.startswith("/api/"):
            continue
        for path in line.paths(world.ids):
            page = browser.client.get(path)
            for method, address, fields in forms_of(page.text) if page.mimetype == "text/html" else ():
                if (method, address, *fields) in seen or address == "/sign-out":
                    continue
                seen.add((method, address, *fields))
                for name in fields:
                    for odd in ODD:
                        sent = {**fields, name: odd}
                        where = (address or path).partition("#")[0]
                        if method == "post":
                            answer = browser.post(where, **sent)
                        else:
                            answer = browser.client.get(where, query_string=sent)
                        asked += 1
                        if answer.status_code >= 500:
                            broken.append((where, name, odd[:20], answer.status_code))
    assert not broken
    assert asked > 500
