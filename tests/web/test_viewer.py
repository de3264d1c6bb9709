"""The viewer in a real browser: full depth, the map over it, mouse and keys, what is remembered."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from store.base.session import session_scope
from store.base.tables import Image, Site, User
from tests.web import films
from tests.web.asking import Asker
from tests.web.browsing import chromium, page, sign_in
from tests.web.test_accessibility import faults

__all__ = ["chromium", "page"]

#: Grey of one pixel of the original as the canvas shows it.
GREY = """([x, y]) => {
    const one = viewer.active;
    const p = new DOMPoint(x, y).matrixTransform(new DOMMatrix().scale(one.sharp).multiply(one.matrix()));
    return one.context.getImageData(Math.floor(p.x), Math.floor(p.y), 1, 1).data[0];
}"""


@pytest.fixture
def study(ask: Asker) -> str:
    return films.study(ask)


def look(page: Page, link: Callable[[], str], study: str) -> Locator:
    """Open a study and wait until its first picture is there at full depth."""
    sign_in(page, link)
    page.goto(f"/studies/{study}")
    return ready(page)


def ready(page: Page) -> Locator:
    shown = page.locator("[data-viewport]:not([hidden])").first
    expect(shown).to_have_attribute("data-depth", "12")
    settle(page)
    return shown


def settle(page: Page) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def rested(page: Page, place: list[int]) -> int:
    """Return a place's grey once it is drawn sharp: what moves is drawn fast first."""
    grey = -1
    while (again := page.evaluate(GREY, place)) != grey:
        grey = again
        page.wait_for_timeout(400)
    return grey


def centre(page: Page) -> tuple[float, float]:
    box = page.locator("[data-viewport]:not([hidden]) [data-screen]").first.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def state(page: Page, words: str) -> Any:
    return page.evaluate(f"(() => {{ const one = viewer.active; return {words}; }})()")


def wedge(page: Page) -> list[int]:
    """Return the grey in the middle of each of the wedge's eight steps."""
    left, top, step, height = films.WEDGE
    return [page.evaluate(GREY, [left + (n + 0.5) * step, top + height / 2]) for n in range(8)]


def test_a_wedge_of_12_bits_shows_its_eight_steps(page: Page, link: Callable[[], str], study: str) -> None:
    look(page, link, study)
    assert len(set(wedge(page))) < 4  # in the window that the AI read, they are all but one grey
    page.evaluate("viewer.active.setWindow({ low: 1990, high: 2030 })")
    settle(page)
    seen = wedge(page)
    assert len(set(seen)) == 8
    assert seen == sorted(seen)
    page.get_by_label("Window preset").select_option("All values")
    settle(page)
    assert len(set(wedge(page))) < 4
    names = page.get_by_label("Window preset").locator("option").all_inner_texts()
    assert {"As the AI read it", "Bone", "Soft tissue", "All values"} <= set(names)


def test_the_map_is_a_layer_and_the_marks_are_drawn_once(
    page: Page, link: Callable[[], str], study: str
) -> None:
    look(page, link, study)
    page.get_by_label("Attention map", exact=True).fill("100")
    settle(page)
    place = [240, 300]
    before = rested(page, place)
    page.get_by_role("button", name="Invert", exact=True).click()
    settle(page)
    assert rested(page, place) == pytest.approx(255 - before, abs=1)  # under the map, too
    assert page.locator("[data-space] image").count() == page.locator("[data-viewport]").count()
    layer = page.locator("[data-viewport]:not([hidden]) [data-overlay]").first
    expect(layer).to_have_attribute("href", re.compile("/heat$"))
    assert page.locator("[data-outlines] rect").count() == 0
    path = page.locator("[data-viewport]:not([hidden]) [data-outlines] path").first.get_attribute("d") or ""
    assert path.count("M") == 4  # corners, no closed box
    assert "z" not in path.lower()


def test_the_wheel_zooms_by_its_delta_and_the_page_stands_still(
    page: Page, link: Callable[[], str], study: str
) -> None:
    look(page, link, study)
    page.mouse.move(*centre(page))
    page.mouse.wheel(0, -120)
    settle(page)
    notch = state(page, "one.scale / one.fitting")
    assert 1.1 < notch < 1.4
    page.keyboard.press("=")
    for _ in range(10):
        page.mouse.wheel(0, -4)  # a trackpad's ticks
    settle(page)
    assert 1.0 < state(page, "one.scale / one.fitting") < 1.15
    for _ in range(5):
        page.mouse.wheel(0, 300)
    assert page.evaluate("scrollY") == 0


def test_left_windows_middle_moves_right_zooms(page: Page, link: Callable[[], str], study: str) -> None:
    look(page, link, study)
    x, y = centre(page)

    def drag(button: Any, dx: int, dy: int) -> None:
        page.mouse.move(x, y)
        page.mouse.down(button=button)
        page.mouse.move(x + dx, y + dy, steps=3)
        page.mouse.up(button=button)
        settle(page)

    before = state(page, "one.window.high - one.window.low")
    drag("left", 100, 0)
    assert state(page, "one.window.high - one.window.low") > before * 1.1
    assert state(page, "one.scale / one.fitting") == pytest.approx(1)
    drag("right", 0, -100)
    assert state(page, "one.scale / one.fitting") > 1.5
    here = state(page, "one.x")
    drag("middle", 60, 0)
    assert state(page, "one.x") < here - 10
    page.keyboard.press(" ")
    assert state(page, "one.scale / one.fitting") == pytest.approx(1)
    assert state(page, "one.window.high - one.window.low") == pytest.approx(before)


def test_keys_work_without_focus_and_a_flip_is_marked_and_undone(
    page: Page, link: Callable[[], str], study: str
) -> None:
    shown = look(page, link, study)
    edges = [shown.locator(f".letter-{edge}") for edge in ("top", "right", "bottom", "left")]
    for letter, word in zip(edges, ("H", "L", "F", "R"), strict=True):
        expect(letter).to_have_text(word)
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("h")
    expect(shown.locator("[data-turned]")).to_contain_text("flipped")
    expect(edges[1]).to_have_text("R")
    expect(edges[3]).to_have_text("L")
    shown.get_by_role("button", name="Undo").click()
    expect(shown.locator("[data-turned]")).to_be_hidden()
    page.keyboard.press("r")
    expect(shown.locator("[data-turned]")).to_contain_text("turned 90°")
    expect(edges[1]).to_have_text("H")
    expect(edges[2]).to_have_text("L")
    page.keyboard.press("l")
    expect(shown.locator("[data-turned]")).to_be_hidden()
    page.keyboard.press("i")
    assert state(page, "one.inverted")
    page.keyboard.press("0")
    assert state(page, "one.scale") == 1
    page.keyboard.press("p")
    assert state(page, "one.window.name") != "As the AI read it"
    page.get_by_label("Comment", exact=True).focus()
    page.keyboard.press("h")
    assert not state(page, "one.mirrored")  # it was typed


def test_a_distance_in_millimetres(page: Page, link: Callable[[], str], study: str) -> None:
    look(page, link, study)
    page.get_by_role("button", name="Measure", exact=True).click()
    scale = state(page, "one.scale")
    x, y = centre(page)
    page.mouse.move(x - 50, y)
    page.mouse.down()
    page.mouse.move(x + 50, y, steps=4)
    page.mouse.up()
    said = page.locator("[data-viewport]:not([hidden]) [data-measured] text")
    expect(said).to_contain_text("mm at the detector")
    assert float((said.text_content() or "").split()[0]) == pytest.approx(
        100 / scale * films.SPACING, rel=0.03
    )
    page.keyboard.press("r")
    expect(said).to_have_count(1)  # it turns with the picture
    page.get_by_role("button", name="Clear measures").click()
    expect(said).to_have_count(0)


def test_a_picture_of_256_greys_has_its_letters_without_a_closer_look(
    page: Page, link: Callable[[], str], study: str
) -> None:
    with session_scope() as session:
        for image in session.query(Image):
            image.rendering = [{"code": "values_as_coded", "detail": ""}]
    sign_in(page, link)
    page.goto(f"/studies/{study}")
    expect(page.locator("[data-viewport]:not([hidden]) .letter-right").first).to_have_text("L")
    assert state(page, "one.pixels.spacing") == [films.SPACING] * 2


def test_one_large_picture_with_a_strip_and_two_that_are_linked(
    page: Page, link: Callable[[], str], ask: Asker
) -> None:
    look(page, link, films.study(ask, 9))
    shown = page.locator("[data-viewport]:not([hidden])")
    expect(shown).to_have_count(1)
    thumbs = page.locator("[data-strip] button")
    expect(thumbs).to_have_count(9)
    record = page.get_by_role("button", name="Record", exact=True)
    expect(record).to_be_in_viewport()  # nine views are no nine cards
    expect(page.locator("[data-screen]:visible")).to_be_in_viewport()
    thumbs.nth(3).click()
    expect(shown).to_contain_text("Image 4")
    page.keyboard.press("]")
    expect(shown).to_contain_text("Image 5")
    page.get_by_role("button", name="Side by side").click()
    expect(shown).to_have_count(2)
    for n in range(2):
        expect(shown.nth(n)).to_have_attribute("data-depth", "12")
    page.keyboard.press("+")
    scales = page.evaluate("viewer.shown.map((one) => one.scale / one.fitting)")
    assert scales[0] == pytest.approx(scales[1])
    assert scales[0] > 1.2
    page.get_by_label("Linked").uncheck()
    page.keyboard.press("+")
    scales = page.evaluate("viewer.shown.map((one) => one.scale / one.fitting)")
    assert scales[0] != pytest.approx(scales[1])
    shown.first.locator("[data-screen]").dblclick()
    expect(shown).to_have_count(1)
    shown.first.locator("[data-screen]").dblclick()
    expect(shown).to_have_count(2)


def test_what_a_person_chose_is_remembered_and_a_site_may_start_without_the_map(
    page: Page, link: Callable[[], str], study: str
) -> None:
    with session_scope() as session:
        session.query(Site).filter_by(name="General Hospital").one().starts_with_map = False
    look(page, link, study)
    heat = page.locator("[data-viewport]:not([hidden]) [data-overlay]")
    expect(heat).to_have_css("opacity", "0")
    expect(page.locator("[data-viewport]:not([hidden]) [data-outlines]")).to_be_hidden()
    page.keyboard.press("m")
    expect(heat).to_have_css("opacity", "0.5")
    with page.expect_response(re.compile("/account/viewer")) as kept:
        page.get_by_label("Attention map", exact=True).fill("30")
    assert kept.value.status == 204
    with page.expect_response(re.compile("/account/viewer")):
        page.get_by_role("button", name="Side by side").click()
    with session_scope() as session:
        person = session.query(User).filter_by(email="admin@localhost").one()
        assert person.viewer == {"map": 30, "outlines": True, "two": True, "linked": True}
    page.reload()
    expect(heat.first).to_have_css("opacity", "0.3")
    expect(page.locator("[data-viewport]:not([hidden])")).to_have_count(2)


def test_axe_finds_nothing_in_the_viewer_at_work(page: Page, link: Callable[[], str], study: str) -> None:
    look(page, link, study)
    page.get_by_role("button", name="Side by side").click()
    page.keyboard.press("h")
    settle(page)
    for size in ({"width": 1280, "height": 800}, {"width": 390, "height": 844}):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert faults(page, f"the viewer, {size['width']}, {scheme}") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_the_glass_shows_what_is_under_it(page: Page, link: Callable[[], str], study: str) -> None:
    look(page, link, study)
    page.keyboard.press("g")
    x, y = centre(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 5, y + 5)
    expect(page.locator("canvas.glass")).to_be_visible()
    page.mouse.up()
    expect(page.locator("canvas.glass")).to_be_hidden()


@pytest.mark.parametrize(
    ("years", "words"), [(9, "not validated in children"), (44, "Age 44"), (None, "not stated")]
)
def test_the_age_stands_on_page_list_api_and_table(
    years: int | None, words: str, page: Page, link: Callable[[], str], ask: Asker
) -> None:
    found = films.study(ask, 1, ages=years)
    sign_in(page, link)
    page.goto(f"/studies/{found}")
    expect(page.get_by_role("region", name="Finding", exact=True)).to_contain_text(words)
    assert ask.get(f"/studies/{found}").json["age_years"] == years
    row = ask.get("/worklist").json["items"][0]
    assert row["age_years"] == years
    assert ("not_validated_in_children" in [flag["code"] for flag in row["flags"]]) is (years == 9)
    table = ask.get(f"/batches/{row['batch_id']}/results.csv").text.splitlines()
    head, line = table[0].lstrip("\ufeff").split(","), table[1].split(",")
    assert line[head.index("age_years")] == ("" if years is None else str(years))
    page.goto("/worklist")
    shown = page.locator("[data-row]")
    if years == 9:
        expect(shown).to_contain_text("child: not validated")
    if years is not None:
        expect(shown).to_contain_text(f"{years} y")
