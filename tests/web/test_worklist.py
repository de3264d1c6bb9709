"""The worklist as a program and as a person sees it, and from the keyboard."""

from __future__ import annotations

import html
import io
import re
import zipfile
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
from web.reading import worklist as worklist_page

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


def rows_by(ask: Asker, query: str) -> list[dict[str, Any]]:
    """Walk a sorted list by pages of four."""
    found, address = [], f"/worklist?limit=4&{query}"
    while address:
        answer = ask.get(address).json
        found += answer["items"]
        address = answer["next"]
    return found


NAMES = ("a\u3000b.png", "\u00a0c.png", "d\u200be.png", "\u202ef.png", "g\x85h.png", "骨折\u3000手.png")


@pytest.mark.parametrize("sort", ["name", "-name"])
def test_names_of_any_letters_have_a_next_page(ask: Asker, browser: Browser, sort: str) -> None:
    """A wide space, as Japanese names have it, is no printable letter."""
    read(ask, "Odd names", *NAMES)
    answer = ask.get(f"/worklist?sort={sort}&limit=1").json
    rows = list(answer["items"])
    while answer["next"]:
        answer = ask.get(answer["next"]).json
        rows += answer["items"]
    assert {row["filename"] for row in rows} == {
        row["filename"] for row in ask.get("/worklist").json["items"]
    }
    assert len(rows) == len(NAMES)
    for row in rows:  # whoever answers is led to the next study of this order
        answer = browser.post(f"/studies/{row['study_id']}/reviews?sort={sort}", answer="absent", then="next")
        assert answer.status_code == 303, answer.text


@pytest.mark.parametrize("reviewed", ["no", "yes", "all"])
def test_any_column_sorts_in_both_directions(ask: Asker, browser: Browser, batch: str, reviewed: str) -> None:
    everything = ask.get("/worklist?limit=100").json["items"]
    for n in (2, 5, 6, 9):
        answer = ask.post(f"/studies/{everything[n]['study_id']}/reviews", json={"answer": "absent"})
        assert answer.status_code == 201
    expected = {"no": 9, "yes": 4, "all": 13}[reviewed]
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "name": lambda row: row["accession"] or row["filename"],
        "probability": lambda row: -1 if row["probability"] is None else row["probability"],
        "region": lambda row: row["region"] or "",
        "arrived": lambda row: row["arrived_at"],
        "reader": lambda row: row["reviewed_at"] or row["opened_at"] or "",
        "class": lambda row: 0,
    }
    for name, key in keys.items():
        up = rows_by(ask, f"sort={name}&reviewed={reviewed}")
        down = rows_by(ask, f"sort=-{name}&reviewed={reviewed}")
        assert len(up) == len({row["study_id"] for row in up}) == expected, name
        assert [key(row) for row in up] == sorted(key(row) for row in up), name
        assert [row["study_id"] for row in down] == [row["study_id"] for row in reversed(up)], name
    text = browser.client.get(f"/worklist?sort=-probability&reviewed={reviewed}").text
    assert 'aria-sort="descending"><a' in text


def test_several_studies_at_once_and_undone(
    page: Page, link: Callable[[], str], ask: Asker, batch: str
) -> None:
    before = [row["study_id"] for row in ask.get("/worklist?limit=100").json["items"]]
    sign_in(page, link)
    page.goto("/worklist?sort=name")
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(13)
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("[data-chosen]")).to_have_text("With the 2 chosen:")
    page.get_by_role("button", name="Mark read").click()
    expect(page.locator("[data-done]")).to_contain_text("2 studies marked read.")
    expect(rows).to_have_count(11)
    assert "sort=name" in page.url
    said = [row["answer"] for row in ask.get("/worklist?reviewed=yes").json["items"]]
    assert said == ["marked read"] * 2
    page.keyboard.press("z")
    expect(page.locator("[data-done]")).to_contain_text("2 studies back on the list.")
    assert [row["study_id"] for row in ask.get("/worklist?limit=100").json["items"]] == before

    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_text("Nothing waits to be read.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(rows).to_have_count(13)

    page.get_by_label("Choose 03.png").check()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download ZIP").click()
    assert saved.value.suggested_filename == "fractureai-chosen-results.zip"
    page.get_by_role("button", name="Retry failed").click()
    expect(page.locator("[data-done]")).to_contain_text("1 image is read again.")
    assert ask.get(f"/batches/{batch}").json["status"] in {"queued", "running"}


def test_a_chosen_zip_holds_those_studies(ask: Asker, browser: Browser, batch: str) -> None:
    two = ask.get("/worklist?limit=100&q=05.png").json["items"] + ask.get("/worklist?q=urgent").json["items"]
    answer = browser.post("/worklist/download", study=[row["study_id"] for row in two])
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        lines = archive.read("results.csv").decode().splitlines()[1:]
    assert sorted(line.split(",")[0] for line in lines) == ["05.png", "urgent.png"]
    assert browser.post("/worklist/download", study=["x"]).status_code == 422
    made = ask.post("/exports", json={"format": "csv", "studies": [two[0]["study_id"]]}).json
    assert (made["total"], made["request"]["studies"]) == (1, [two[0]["study_id"]])


def test_a_recorded_answer_is_taken_back(page: Page, link: Callable[[], str], ask: Asker, batch: str) -> None:
    first, second, *_ = ask.get("/worklist?limit=100").json["items"]
    sign_in(page, link)
    page.goto(f"/studies/{first['study_id']}")
    page.keyboard.press("2")
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_url(f"**/studies/{second['study_id']}")
    expect(page.locator("[data-done]")).to_contain_text("Recorded: No fracture, for urgent.png.")
    assert ask.get("/bundles/b1/agreement").json["reviewed"] == 1
    page.keyboard.press("z")
    page.wait_for_url(f"**/studies/{first['study_id']}")
    expect(page.get_by_text("taken back")).to_be_visible()
    assert ask.get("/worklist?limit=1").json["items"][0]["study_id"] == first["study_id"]
    assert ask.get("/bundles/b1/agreement").json["reviewed"] == 0
    page.reload()
    expect(page.locator("[data-done]")).to_have_count(0)


def test_views_are_a_persons_own(page: Page, link: Callable[[], str], batch: str) -> None:
    sign_in(page, link)
    page.goto("/worklist?status=failed&sort=-probability")
    page.get_by_text("Keep this view…").click()
    page.get_by_label("Its name").fill("Night shift <i>")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("[data-done]")).to_contain_text("Kept as “Night shift <i>”.")
    page.goto("/worklist")
    page.get_by_role("navigation", name="Your views").get_by_role("link", name="Night shift <i>").click()
    page.wait_for_url("**/worklist?status=failed&sort=-probability")
    expect(page.locator("[data-row]")).to_have_count(1)
    expect(page.get_by_text("Keep this view…")).to_have_count(0)
    page.get_by_role("button", name="Delete the view Night shift <i>").click()
    expect(page.get_by_role("navigation", name="Your views")).to_have_count(0)


STANDS = "(name) => document.activeElement.closest('[data-row]')?.textContent.includes(name)"


def test_back_from_a_study_keeps_page_and_place(
    page: Page, link: Callable[[], str], ask: Asker, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist_page, "PAGE_SIZE", 5)
    sign_in(page, link)
    page.goto("/worklist?sort=name")
    page.get_by_role("link", name="Next page").click()
    rows = page.locator("[data-row]")
    expect(rows.nth(0)).to_contain_text("05.png")
    rows.nth(2).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("07.png")
    page.keyboard.press("u")
    page.wait_for_function(STANDS, arg="07.png")
    expect(rows.nth(2)).to_contain_text("07.png")
    page.keyboard.press("o")
    page.get_by_label("Then open the next study").uncheck()
    page.keyboard.press("2")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("[data-done]")).to_be_visible()
    page.keyboard.press("u")  # 07.png has left the list: one stands on what came after it
    page.wait_for_function(STANDS, arg="08.png")
    expect(rows.nth(2)).to_contain_text("08.png")


def fits(name: str, answer: Any, status: int = 200) -> Any:
    """Check an answer against the API's description; return its document."""
    assert answer.status_code == status, answer.text
    whole = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    assert [error.message for error in Draft202012Validator(whole).iter_errors(answer.json)] == []
    return answer.json


def test_on_a_phone_the_list_comes_before_the_filters(
    page: Page, link: Callable[[], str], batch: str
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, link)
    page.goto("/worklist")
    expect(page.locator("[data-row]").first).to_be_in_viewport()
    finding = page.locator("select[name=triage]")
    expect(finding).to_be_hidden()
    unfold = page.get_by_role("button", name="More filters")
    unfold.focus()
    page.keyboard.press("Enter")
    expect(finding).to_be_visible()
    finding.select_option("doubt")  # submits
    page.wait_for_url("**triage=doubt**")
    expect(finding).to_be_visible()  # one of them is set
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/worklist")
    expect(finding).to_be_visible()
    expect(unfold).to_be_hidden()


def test_a_program_does_the_same_with_several_studies(ask: Asker, stranger: Asker, batch: str) -> None:
    waiting = [row["study_id"] for row in ask.get("/worklist").json["items"]]
    chosen = waiting[:3]
    assert fits("ChangedStudies", stranger.post("/worklist/read", json={"studies": chosen}))["studies"] == []
    done = fits("ChangedStudies", ask.post("/worklist/read", json={"studies": chosen[:2]}))["studies"]
    assert sorted(done) == sorted(chosen[:2])
    wish = {"studies": chosen}
    assert fits("ChangedStudies", ask.post("/worklist/dismiss", json=wish))["studies"] == chosen[2:]
    reviewed = {row["study_id"]: row["answer"] for row in ask.get("/worklist?reviewed=yes").json["items"]}
    assert reviewed == dict(zip(chosen, ["marked read", "marked read", "dismissed"], strict=True))
    assert len(fits("ChangedStudies", ask.post("/worklist/put-back", json=wish))["studies"]) == 3
    assert [row["study_id"] for row in ask.get("/worklist").json["items"]] == waiting
    failed = [row["study_id"] for row in ask.get("/worklist?status=failed").json["items"]]
    assert fits("RetriedImages", ask.post("/worklist/retry", json={"studies": failed}), 202)["images"] == 1
    assert fits("RetriedImages", ask.post("/worklist/retry", json={"studies": failed}), 202)["images"] == 0
    for wrong in ({}, {"studies": []}, {"studies": ["1"]}, {"studies": waiting * 20}):
        assert ask.post("/worklist/read", json=wrong).status_code == 422


def test_a_program_keeps_views_of_its_person(
    ask: Asker, browser: Browser, stranger: Asker, batch: str
) -> None:
    filters = {"class": "positive", "sort": "-probability"}
    kept = fits("View", ask.post("/worklist/views", json={"name": " Night  shift ", "filters": filters}), 201)
    assert (kept["name"], kept["filters"]) == ("Night shift", filters)
    assert "Night shift" in browser.client.get("/worklist").text
    listed = ask.get(kept["links"]["studies"]).json["items"]
    assert {row["class"] for row in listed} == {"positive"}
    again = ask.post("/worklist/views", json={"name": "Night shift", "filters": {"q": "png"}}).json
    assert again["id"] == kept["id"]
    assert [view["filters"] for view in fits("Views", ask.get("/worklist/views"))["items"]] == [{"q": "png"}]
    assert stranger.get("/worklist/views").json["items"] == []
    assert stranger("DELETE", kept["links"]["self"]).status_code == 404
    assert ask("DELETE", kept["links"]["self"]).status_code == 204
    assert ask("DELETE", kept["links"]["self"]).status_code == 404
    for wrong in ({"name": "", "filters": {}}, {"name": "x"}, {"name": "x", "filters": {"colour": "red"}}):
        assert ask.post("/worklist/views", json=wrong).status_code == 422
