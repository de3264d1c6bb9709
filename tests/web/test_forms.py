"""A form that cannot be taken comes back: with what was typed, what is wrong, and the fields marked."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from werkzeug.datastructures import MultiDict

from store.accounts.accounts import Role
from tests.web.test_access import LINES, SETTINGS
from tests.web.test_form_fuzz import forms_of
from tests.web.world import make_world
from web.base.forms import fill
from web.factory import create_app

#: Views that take a form and show none: signing out, and what the viewer's script sends.
SHOWN_NOWHERE = {"auth.sign_out", "viewer.keep_viewer"}
#: Forms with nothing to type, of which a wrong one is sent by nobody.
WRONG = {
    "/studies/{study_id}/reviews": {"answer": "agree", "comment": "x" * 5000},
    "/account/keys": {"name": "of \"mine\" & <b>", "life": "12", "scope": "read"},
    "/account/password": {"password": "short", "again": "short"},
    "/admin/people": {"email": "no address <here>", "role": "staff", "name": "N. N."},
    "/admin/people/{user_id}/role": {"role": "king"},
    "/admin/notices": {"channel": "email", "address": "nowhere", "event": "finished_batch"},
    "/admin/retention": {"keep_originals_days": "few", "keep_results_days": "90"},
    "/admin/retention/quota": {"gigabytes": "a lot"},
    "/research/runs": {"part": "x" * 300},
    "/downloads": {"format": "csv", "since": "2026-02-02", "until": "2026-01-01", "region": "hand"},
}  # fmt: skip


def test_every_view_that_takes_a_form_says_which_page_shows_it() -> None:
    app = create_app(SETTINGS)
    silent = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if "POST" in (rule.methods or ())
        and not rule.rule.startswith(("/api/", "/dicom-web"))
        and not hasattr(app.view_functions[rule.endpoint], "form_page")
    }
    assert silent == SHOWN_NOWHERE
    for view in app.view_functions.values():
        page = getattr(view, "form_page", "")
        assert not page or "GET" in {m for r in app.url_map.iter_rules(page) for m in r.methods or ()}


def form_at(page: str, action: str) -> str:
    """Return the form of a page that is sent to an address."""
    for form in re.findall(r"<form .*?</form>", page, re.DOTALL):
        head = form[: form.index(">")]
        if 'method="post"' in head and re.search(rf'action="{re.escape(action)}[?"]', head):
            return str(form)
    raise AssertionError(f"no form for {action}")


def test_each_form_comes_back_with_what_was_typed(app: Any, site_key: str) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    pages = {
        path: browser.client.get(path)
        for line in LINES
        if line.method == "GET" and not line.rule.startswith("/api/")
        for path in line.paths(world.ids)
    }
    seen, told = set(), []
    for page in pages.values():
        for method, address, fields in forms_of(page.text) if page.mimetype == "text/html" else ():
            path = address.partition("?")[0]
            known = {rule.format(**world.ids): sent for rule, sent in WRONG.items()}
            if method != "post" or path not in known or path in seen:
                continue
            seen.add(path)
            sent = {**fields, **known[path]}
            answer = browser.post(address, **sent)
            assert 400 <= answer.status_code < 500, (path, answer.status_code)
            form = form_at(answer.text, path)
            assert 'role="alert"' in form, path
            assert answer.text.count('id="form-trouble"') == 1, path
            for name, value in known[path].items():
                if name in fields and "password" not in form_field(form, name):
                    assert stands(form, name, value), (path, name, form_field(form, name))
            for field in re.findall(r'<[^>]*aria-invalid="true"[^>]*>', form):
                assert "form-trouble" in field
            told.append((path, 'aria-invalid="true"' in form))
    assert {path for path, _ in told} == {rule.format(**world.ids) for rule in WRONG}
    assert sum(marked for _, marked in told) >= 6

    data = {"csrf": browser.csrf, "label": "night shift", "priority": "urgent"}
    answer = browser.client.post("/batches", data=data, content_type="multipart/form-data")
    form = form_at(answer.text, "/batches")
    assert "Send at least one file" in unescape(form) or 'role="alert"' in form
    assert stands(form, "label", "night shift")
    assert stands(form, "priority", "urgent")


def test_a_wrong_password_costs_no_second_typing_of_the_address(app: Any, site_key: str) -> None:
    client = app.test_client()
    twin = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
    assert twin
    sent = {"csrf": twin[1], "email": "ann@clinic.example", "password": "not hers at all"}
    answer = client.post("/sign-in", data=sent)
    assert answer.status_code == 401
    form = form_at(answer.text, "/sign-in")
    assert stands(form, "email", "ann@clinic.example")
    assert "autofocus" in form_field(form, "password"), "what is typed next"
    assert "value" not in form_field(form, "password")


def form_field(form: str, name: str) -> str:
    found = re.search(rf'<(?:input|select|textarea)\b[^>]*name="{name}"[^>]*>', form)
    return found[0] if found else ""


def stands(form: str, name: str, value: str) -> bool:
    """Tell whether a field says what was typed; what a list does not offer cannot be shown."""
    field = form_field(form, name)
    if field.startswith("<select"):
        offered = re.search(rf"{re.escape(field)}(.*?)</select>", form, re.DOTALL)
        assert offered
        options = re.findall(r"<option([^>]*)>([^<]*)", offered[1])
        said = [(head, re.search(r'value="([^"]*)"', head), text.strip()) for head, text in options]
        chosen = [head for head, stated, text in said if (stated[1] if stated else text) == value]
        return not chosen or "selected" in chosen[0]
    if field.startswith("<textarea"):
        return value in unescape(form)
    if 'type="checkbox"' in field or 'type="radio"' in field:
        box = re.search(rf'<input[^>]*name="{name}"[^>]*value="{re.escape(value)}"[^>]*>', form)
        return box is None or " checked" in box[0]
    return f'value="{value}"' in unescape(field)


PAGE = """<main id="main"><details><summary>More</summary>
<form method="post" action="/a?x=1">
<input type="hidden" name="which" value="1"><input name="n" value="old"></form>
<form method="post" action="/a"><input type="hidden" name="which" value="2">
<input name="n" aria-describedby="hint"><textarea name="t">old</textarea>
<select name="s"><option value="">none</option><option selected>one</option><option>two</option></select>
<input type="checkbox" name="c" value="x" checked><input type="checkbox" name="c" value="y">
<input type="password" name="p"></form></details></main>"""


def test_the_form_is_filled_whose_hidden_fields_were_sent() -> None:
    typed = MultiDict(
        [("which", "2"), ("n", '"<'), ("t", "</textarea>"), ("s", "two"), ("c", "y"), ("p", "?")]
    )
    page = fill(PAGE, "/a", typed, {"n": "is wrong"}, "<p>ALERT</p>")
    first, second = re.findall(r"<form .*?</form>", page, re.DOTALL)
    assert first in PAGE
    assert second.startswith('<form method="post" action="/a"><p>ALERT</p>')
    assert (
        '<input name="n" aria-describedby="hint form-trouble" value="&quot;&lt;" aria-invalid="true"'
        in second
    )
    assert "&lt;/textarea&gt;</textarea>" in second
    assert "<option>one</option><option selected>two</option>" in second
    assert 'value="x"><input type="checkbox" name="c" value="y" checked>' in second
    assert '<input type="password" name="p"></form>' in second
    assert "<details open>" in page


@pytest.mark.parametrize("action", ["/gone", "/a?x=1"])
def test_without_its_form_the_page_still_says_what_is_wrong(action: str) -> None:
    page = fill(PAGE, action, MultiDict(), {}, "<p>ALERT</p>")
    assert page == PAGE.replace('<main id="main">', '<main id="main"><p>ALERT</p>')
