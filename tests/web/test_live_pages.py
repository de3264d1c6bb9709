"""Pages that change by themselves in a real browser, whatever somebody is doing in them meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

from playwright.sync_api import Page, expect
from sqlalchemy import event, select

from store.base.blobs import BlobStore
from store.base.session import get_engine, session_scope
from store.base.tables import Batch, Image
from store.intake import summary
from store.operations import retention
from tests.reading import read_batch
from tests.running import wait_for
from tests.web.asking import Asker, Browser, png
from tests.web.browsing import chromium, draw, page, sign_in
from tests.web.serving import Serving

__all__ = ["chromium", "page"]


def read(ask: Asker, *names: str, priority: str = "normal") -> str:
    batch = ask.draft(label="Night", priority=priority)
    ask.send(batch, *((name, png(name)) for name in names))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, facts=lambda path: {"accession": path})
    return batch


def test_a_new_urgent_study_comes_to_the_list_and_is_said(
    page: Page, link: Callable[[], str], ask: Asker, blobs: BlobStore
) -> None:
    read(ask, "first")
    sign_in(page, link)
    page.goto("/worklist")
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(1)
    rows.first.locator("a").focus()
    search = page.get_by_label("File, accession or study UID")
    read(ask, "second", priority="urgent")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("second")
    expect(rows.first).to_contain_text("urgent")
    expect(page.locator("[data-new]")).to_contain_text("New: 1 urgent")
    expect(page.locator("[data-announce]")).to_have_text("New on the list: 1 urgent")
    expect(page).to_have_title(re.compile(r"^\(1\) "))
    assert page.evaluate("document.activeElement.textContent") == "first"  # one stands where one stood
    page.get_by_role("button", name="Seen").click()
    expect(page.locator("[data-new]")).to_be_hidden()
    expect(page).not_to_have_title(re.compile(r"^\("))
    search.focus()
    page.keyboard.type("fir")
    read(ask, "third", priority="urgent")
    expect(rows).to_have_count(3)
    expect(search).to_have_value("fir")  # what was typed is still there


def test_a_batchs_page_ends_though_a_control_has_the_focus(
    page: Page, link: Callable[[], str], ask: Asker, blobs: BlobStore
) -> None:
    batch = ask.draft(label="Night")
    ask.send(batch, *((f"{n}.png", png(str(n))) for n in range(3)))
    ask.post(f"/batches/{batch}/submit")
    sign_in(page, link)
    page.goto(f"/batches/{batch}")
    bell = page.get_by_role("button", name="Notify me when it is done")
    expect(bell).to_be_visible()
    page.get_by_text("Priority…").click()
    page.get_by_label("Read this batch as").select_option("urgent")
    page.get_by_label("Read this batch as").focus()
    with session_scope() as session:  # it begins: the head changes under the control
        found = session.get_one(Batch, batch)
        found.status, found.version = "running", found.version + 1
    title = page.get_by_role("heading", level=1)
    expect(title).to_contain_text("running")
    expect(page.get_by_label("Read this batch as")).to_be_focused()
    expect(page.get_by_label("Read this batch as")).to_have_value("urgent")
    with session_scope() as session:
        session.get_one(Batch, batch).status = "queued"
    read_batch(batch)
    expect(title).to_contain_text("done")
    expect(bell).to_be_hidden()  # it stands outside the part that is replaced


LISTEN = """(() => {
    window.shown = [];
    const Real = Notification;
    window.Notification = class extends Real {
        constructor(title, options) {
            super(title, options);
            this.addEventListener("show", () => window.shown.push([title, options.body]));
        }
    };
})()"""
COVER = """(hidden) => {
    Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_behind_others_counts_in_its_title_and_notifies(
    page: Page, link: Callable[[], str], ask: Asker, blobs: BlobStore, serving: Serving
) -> None:
    page.context.grant_permissions(["notifications"], origin=serving.url)
    page.add_init_script(LISTEN)
    batch = ask.draft(label="Night")
    ask.send(batch, *((f"{n}.png", png(str(n))) for n in range(4)))
    ask.post(f"/batches/{batch}/submit")
    sign_in(page, link)
    page.goto(f"/batches/{batch}")
    expect(page).to_have_title(re.compile("^0% · Night"))
    page.get_by_role("button", name="Notify me when it is done").click()
    bell = page.get_by_role("button", name="You are notified when it is done")
    expect(bell).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(bell).to_have_attribute("aria-pressed", "true")  # as it was left
    page.clock.install()  # nobody waits a minute
    page.evaluate(COVER, True)
    read_batch(batch, fail=frozenset(["3.png"]))

    def is_shown() -> bool:
        page.clock.run_for(5000)
        return bool(page.evaluate("shown.length"))

    wait_for(is_shown, 60, "the notification")
    assert page.evaluate("shown") == [["Night · FractureAI", "partial: 3 of 4 images read"]]
    expect(page).to_have_title(re.compile("^Night"))
    page.evaluate(COVER, False)
    expect(page.get_by_role("heading", level=1)).to_contain_text("partial")


def test_chosen_files_are_listed_with_sizes_and_can_be_taken_out(
    page: Page, link: Callable[[], str], serving: Serving
) -> None:
    sign_in(page, link)
    page.goto("/batches/new")
    page.locator("[data-files]").set_input_files(
        [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png(str(n)) * 900} for n in range(3)]
    )
    listed = page.locator("[data-files-list] tr")
    expect(listed).to_have_count(3)
    expect(listed.first).to_contain_text("KB")
    expect(page.get_by_text("Chosen, and not sent yet")).to_be_visible()
    page.get_by_role("button", name="Remove 1.png").click()
    expect(listed).to_have_count(2)
    expect(page.get_by_text("2 files chosen")).to_be_visible()
    page.locator("[data-files]").set_input_files(
        [{"name": name, "mimeType": "text/plain", "buffer": b"x"} for name in ("x.txt", "a10.txt", "a9.txt")]
    )
    expect(listed.locator("td:first-child")).to_have_text(["0.png", "2.png", "a9.txt", "a10.txt", "x.txt"])
    page.get_by_role("button", name="Remove a9.txt").click()
    page.get_by_role("button", name="Remove a10.txt").click()
    expect(listed).to_have_count(3)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("Uploaded; some files were not accepted")).to_be_visible()
    with session_scope() as session:
        assert sorted(session.scalars(select(Image.path))) == ["0.png", "2.png", "x.txt"]


def test_a_batch_that_has_ended_is_summed_up(ask: Asker, browser: Browser, blobs: BlobStore) -> None:
    batch = read(ask, *(f"{n}.png" for n in range(40)))
    draw(batch, blobs)
    with session_scope() as session:
        found = session.get_one(Batch, batch)
        images = session.scalars(select(Image).order_by(Image.probability.desc(), Image.seq)).all()
        for n, image in enumerate(images):
            image.finished_at = found.finished_at - timedelta(seconds=n)
        told = summary.summary(session, found, {"hand": {"low": 0.2, "high": 0.7}})
        below, above = (sum(map(told_of, images)) for told_of in (is_below, is_above))
        worst = [image.path for image in images[:12]]
    assert told is not None
    assert [image.path for image in told.worst] == worst
    assert sum(told.scores) == 40
    assert (sum(told.scores[:10]), sum(told.scores[20:])) == (below, above)
    assert sum(told.parts["hand"].values()) == 40
    assert (sum(told.pace), round(told.seconds)) == (40, 39)
    shown = browser.client.get(f"/batches/{batch}").text
    assert "To look at first" in shown
    assert f"{below} below the lower" in shown
    assert "style=" not in shown
    places = [float(x) for x in re.findall(r'<svg x="([\d.]+)%" y="0" overflow', shown)]
    assert len(places) == 40, "each on the scale whose cuts stand at a third and at two thirds"
    assert (sum(x < 100 / 3 for x in places), sum(x > 200 / 3 for x in places)) == (below, above)
    assert "Summary" not in browser.client.get(f"/batches/{batch}?triage=positive").text


def test_a_batch_is_counted_once_until_it_changes(ask: Asker, browser: Browser) -> None:
    batch = read(ask, *(f"{n}.png" for n in range(4)))
    read_whole: list[str] = []

    def note(_c: object, _k: object, statement: str, *_: object) -> None:
        if "FROM images" in statement and ("count(*)" in statement or "min(" in statement):
            read_whole.append(statement)

    event.listen(get_engine(), "before_cursor_execute", note)
    shown = [browser.client.get(f"/batches/{batch}").text for _ in range(2)]
    event.remove(get_engine(), "before_cursor_execute", note)
    assert "Summary" in shown[0]
    assert shown[0].split('id="batch-summary"')[1] == shown[1].split('id="batch-summary"')[1]
    assert len(read_whole) <= 2, "the first page may count it, not the second"
    with session_scope() as session:
        found = session.get_one(Batch, batch)
        study = session.scalars(select(Image.study_id).order_by(Image.seq)).first()
        before = summary.summary(session, found, {})
        retention.erase(session, found.site_id, [study], [])
    with session_scope() as session:
        after = summary.summary(session, session.get_one(Batch, batch), {})
    assert before is not None
    assert after is not None
    counts = [sum(sum(part.values()) for part in each.parts.values()) for each in (before, after)]
    assert counts[1] == counts[0] - 1


def is_below(image: Image) -> bool:
    return (image.probability or 0) < 0.2


def is_above(image: Image) -> bool:
    return (image.probability or 0) >= 0.7


def test_a_search_looks_in_the_reviewed_ones_too_and_says_so(
    ask: Asker, browser: Browser, blobs: BlobStore
) -> None:
    read(ask, "0001238")
    read(ask, "0001239")
    study = next(row for row in ask.get("/worklist").json["items"] if row["accession"] == "0001238")
    ask.post(f"/studies/{study['study_id']}/reviews", json={"answer": "absent"})
    assert [row["accession"] for row in ask.get("/worklist").json["items"]] == ["0001239"]
    assert [row["accession"] for row in ask.get("/worklist?q=1238").json["items"]] == ["0001238"]
    assert ask.get("/worklist?q=1238&reviewed=no").json["items"] == []
    shown = browser.client.get("/worklist?q=1238").text
    assert "Searched in the reviewed studies, too" in shown
    assert "0001238" in shown
    assert "Searched in" not in browser.client.get("/worklist").text
