"""The worklist as a program and as a person sees it, and from the keyboard."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from playwright.sync_api import Page, expect

from store.reading import worklist, worklist_search
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from tests.web.browsing import chromium, page, sign_in
from web.openapi import document

__all__ = ["chromium", "page"]


def read(ask: Asker, label: str, *names: str, priority: str = "normal", **how: Any) -> str:
    batch = ask.draft(label=label, priority=priority)
    ask.send(batch, *((name, png(name)) for name in names))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, **how)
    return batch


@pytest.fixture
def batch(ask: Asker) -> str:
    """Twelve studies of every kind, and an urgent one of another batch."""
    names = [f"{n:02d}.png" for n in range(12)]
    batch = read(ask, "Night <b>", *names, fail=frozenset({"03.png"}), reject=frozenset({"04.png"}))
    read(ask, "Emergency", "urgent.png", priority="urgent")
    return batch


def test_a_program_walks_the_list(ask: Asker, stranger: Asker, batch: str) -> None:
    first = ask.get("/worklist?limit=5").json
    schema = document()
    whole = {"$ref": "#/components/schemas/Worklist", "components": schema["components"]}
    assert [e.message for e in Draft202012Validator(whole).iter_errors(first)] == []
    rows, answer = list(first["items"]), first
    while answer["next"]:
        answer = ask.get(answer["next"]).json
        rows += answer["items"]
    assert len(rows) == len({row["study_id"] for row in rows}) == 13
    assert rows[0]["filename"] == "urgent.png"
    assert (rows[0]["class"], rows[0]["batch_label"]) == ("urgent", "Emergency")
    order = ["urgent", "positive", "doubt", "not_read", "negative"]
    ranks = [order.index(row["class"]) for row in rows]
    assert ranks == sorted(ranks)
    assert [row["filename"] for row in ask.get("/worklist?status=failed").json["items"]] == ["03.png"]
    assert len(ask.get(f"/worklist?batch={batch}&class=not_read").json["items"]) == 2
    assert ask.get("/worklist?q=URG").json["items"][0]["filename"] == "urgent.png"
    for search, n in {"png urgent": 1, "'urgent": 1, "urgent | x": 0, "''&!(": 0, "pn": 13, "ng": 0}.items():
        found = ask.get("/worklist", query_string={"q": search, "limit": 100}).json["items"]
        assert len(found) == n, search
    assert ask.get("/worklist?reviewed=yes").json["items"] == []
    assert stranger.get("/worklist").json["items"] == []
    for wrong in ("class=x", "from=tomorrow", "batch=1", "reviewed=maybe", "cursor=x", "colour=red"):
        answer = ask.get(f"/worklist?{wrong}")
        assert answer.status_code == 422, wrong
        assert answer.json["advice"]


def test_the_page_says_how_many_wait_and_keeps_what_narrows_it(browser: Browser, batch: str) -> None:
    text = browser.client.get("/worklist").text
    assert "Night <b>" not in text
    assert "Night &lt;b&gt;" in text
    assert "style=" not in text
    narrow = browser.client.get(f"/worklist?batch={batch}&q=&status=failed&from=2020-01-01").text
    assert "03.png" in narrow
    assert "04.png" not in narrow
    assert 'value="2020-01-01"' in narrow
    assert "No study fits this filter" in browser.client.get("/worklist?q=nobody").text


def test_a_page_of_a_common_word_that_shows_none_leads_on(
    browser: Browser, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist_search, "MAX_LOOKED_UP", 0)
    monkeypatch.setattr(worklist, "MAX_WALKED", 3)
    address = "/worklist?q=04"
    for _ in range(13):
        text = browser.client.get(address).text
        if "04.png" in text:
            break
        assert "None of the next 3 studies of the list holds these words" in text
        address = html.unescape(re.findall(r'href="(/worklist\?[^"]*cursor=[^"]*)"', text)[-1])
    assert "04.png" in text
    assert address != "/worklist?q=04"


def test_worked_from_the_keyboard(page: Page, link: Callable[[], str], ask: Asker, batch: str) -> None:
    sign_in(page, link)
    page.get_by_role("link", name="Worklist").click()
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(13)
    page.keyboard.press("j")
    expect(rows.nth(0).get_by_role("link")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("j")
    page.keyboard.press("k")
    expect(rows.nth(1).get_by_role("link")).to_be_focused()
    name = rows.nth(1).get_by_role("link").inner_text()
    assert page.url.endswith(f"#{rows.nth(1).get_attribute('id')}")
    page.keyboard.press("o")
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.go_back()
    expect(rows.nth(1).get_by_role("link")).to_be_focused()  # where one stood
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.go_back()
    page.keyboard.press("3")
    page.wait_for_url("**/worklist?class=not_read")
    expect(rows).to_have_count(2)
    page.keyboard.press("3")
    page.wait_for_url("**/worklist")
    page.keyboard.press("/")
    page.keyboard.type("urgj")  # letters are letters in a field
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    assert "q=urg" in page.url
    page.keyboard.press("Tab")
    page.keyboard.press("?")
    expect(page.get_by_text("next and previous study")).to_be_visible()
    page.get_by_label("Use these keys").uncheck()
    page.keyboard.press("?")
    expect(page.get_by_text("next and previous study")).to_be_visible()
