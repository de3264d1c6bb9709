"""Lays a study report out and writes it as a PDF: `render_report`."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.report import words
from pipeline.report.drawings import PLACE_LETTERS, place_boxes, probability_scale, reader_mark, region_marks
from pipeline.report.glyphs import FIRST_STRONG_ISOLATE, POP_ISOLATE, fonts_for, isolated, letters_of
from pipeline.report.types import BatchCover, ReportImage, StudyReport
from vocabulary import words as finding_words
from vocabulary.reasons import REASONS

HERE = Path(__file__).parent
FONTS = ("Inter-Regular.woff2", "Inter-SemiBold.woff2")
#: Width of the text and gap between two pictures, in millimetres; style.css has the same.
PAGE_WIDTH, GAP = 178.0, 6.0
#: Pictures wider than this stand one above the other, where they can be larger.
STACK_FROM = 2.4
#: Control characters, lone surrogates, direction overrides: they break XML, or make text read as another.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

PANGO_ADVICE = (
    "PDF reports need the Pango library. Debian and Ubuntu: "
    "apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
)


#: What a cover's links begin with until `pipeline.report.merge` points them at pages.
COVER_LINK = "https://page.invalid/"


class ReportUnavailable(RuntimeError):
    """The machine lacks what WeasyPrint needs; the message says what to install."""


class NotInMemoryError(ValueError):
    """The page asked for something outside the report's own pictures and fonts."""


@dataclass(frozen=True)
class Placement:
    """Where a picture stands: its size in millimetres, and whether the overlay goes below it."""

    width: float
    height: float
    stacked: bool


def place(width: int, height: int, *, pair: bool, max_height: float) -> Placement:
    """Fit a picture of `width` x `height` pixels, aspect kept.

    Parameters
    ----------
    pair
        Whether a second picture of the same size stands with it.
    max_height
        Height in millimetres for the picture, or for both where they are stacked.
    """
    stacked = pair and width / height >= STACK_FROM
    room_x = (PAGE_WIDTH - GAP) / 2 if pair and not stacked else PAGE_WIDTH
    room_y = max_height / 2 if stacked else max_height
    scale = min(room_x / width, room_y / height)
    return Placement(width * scale, height * scale, stacked)


#: Height in millimetres that pictures have at least and at most.
LEAST_ROOM, MOST_ROOM = 45.0, 140.0


def picture_room(report: StudyReport, image: ReportImage, *, first: bool, last: bool) -> float:
    """Estimate the height in millimetres that a page leaves to its pictures, so that an image fills one page.

    Too high an estimate costs a page, too low a one costs size; nothing is lost either way.
    """
    return min(max(_room(report, image, first=first, last=last), LEAST_ROOM), MOST_ROOM)


def fits_first_page(report: StudyReport, image: ReportImage, *, last: bool) -> bool:
    """Tell whether the first image stands below the study's finding; else a few lines of it run over."""
    return len(report.images) == 1 or _room(report, image, first=True, last=last) >= LEAST_ROOM


def _room(report: StudyReport, image: ReportImage, *, first: bool, last: bool) -> float:
    read, card = words.was_read(image), report.bundle
    regions = len(image.finding.attention_regions) if image.finding else 0
    used = 18.0 + 9 * len(words.notes(image))
    places = len(image.finding.suspected_places) if image.finding else 0
    used += max(43 if read else 0, 18 + 4.3 * regions if read and image.overlay_jpeg else 0)
    used += 8 * (read and image.evidence is not None) + (14 + 4.3 * places if places else 0)
    if first:
        used += (
            51
            + 5 * math.ceil(len(words.version_line(report)) / 60)
            + 4 * bool(report.facts.study_uid)
            + 9 * len(report.reasons)
        )
        used += 5 * bool(words.children_note(words.youngest(report)))
        used += 6 * (len(report.site_name) // 40) + 4.5 * (len(report.facts.accession) // 25)
    if first and report.signature:
        used += 28 + 4.5 * (len(report.signature.comment) // 95 + report.signature.comment.count("\n"))
    if len(report.images) > 1:
        used += 12 + (16 + 9 * len(report.images) if first else 0)
    if last:
        lines = [len(card.name + card.label_meaning + card.trained_on) + 70, len(" ".join(card.limits)) + 15]
        used += 15 + 3.8 * sum(math.ceil(line / 135) for line in lines)
    return 262.0 - used


class _Renderer:
    """One process's WeasyPrint: fonts loaded and style sheet parsed once."""

    def __init__(self) -> None:
        try:
            import weasyprint
            from weasyprint.urls import URLFetcher, URLFetcherResponse

            from pipeline.report.typesetting import Page, Setting
        except (ImportError, OSError) as error:
            raise ReportUnavailable(f"{PANGO_ADVICE} ({error})") from error

        class MemoryFetcher(URLFetcher):  # type: ignore[misc]
            """Serves ``memory:NAME`` out of a mapping and refuses every other address."""

            def __init__(self, assets: Mapping[str, bytes]) -> None:
                super().__init__(allowed_protocols=("memory",), allow_redirects=False)
                self._assets = assets

            def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
                scheme, _, name = url.partition(":")
                if scheme != "memory" or name not in self._assets:
                    raise NotInMemoryError("a report fetches nothing from outside")
                return URLFetcherResponse(url, self._assets[name])

        self._page, self._setting = Page, Setting()
        self.fetcher = MemoryFetcher
        self._own_letters = frozenset.intersection(*(letters_of(name) for name in FONTS))

        def with_fonts(names: tuple[str, ...]) -> Any:
            """Return the style that adds these fonts behind the report's own; loaded once a process."""
            faces = [
                f'@font-face {{ font-family: "{Path(name).stem}"; src: url("memory:{name}") }}'
                for name in names
            ]
            family = ", ".join(("Inter", *(f'"{Path(name).stem}"' for name in names), "sans-serif"))
            return weasyprint.CSS(
                string="\n".join(
                    (*faces, f"@page {{ font-family: {family} }}", f"body {{ font-family: {family} }}")
                ),
                font_config=self._setting.font_config,
                url_fetcher=MemoryFetcher({name: (HERE / "fonts" / name).read_bytes() for name in names}),
            )

        self._with_fonts = cache(with_fonts)
        self._css = weasyprint.CSS(
            string=(HERE / "style.css").read_text("utf-8"),
            font_config=self._setting.font_config,
            url_fetcher=MemoryFetcher({name: (HERE / "fonts" / name).read_bytes() for name in FONTS}),
        )
        environment = jinja2.Environment(
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            finalize=_printable,
            loader=jinja2.FileSystemLoader(HERE),
        )
        environment.globals.update(
            {
                name: value
                for module in (finding_words, words)
                for name, value in vars(module).items()
                if not name.startswith("_")
            }
        )
        environment.globals.update(
            REASONS=REASONS,
            place=place,
            picture_room=picture_room,
            fits_first_page=fits_first_page,
            probability_scale=probability_scale,
            region_marks=region_marks,
            place_boxes=place_boxes,
            PLACE_LETTERS=PLACE_LETTERS,
            reader_mark=reader_mark,
        )
        self._template = environment.get_template("template.html")
        self._cover = environment.get_template("cover.html")

    def html(self, report: StudyReport, pictures: dict[str, bytes]) -> str:
        """Return the page as well-formed XHTML, and add its drawings to `pictures`."""

        def draw(svg: bytes) -> str:
            name = f"drawing-{len(pictures)}"
            pictures[name] = svg
            return f"memory:{name}"

        return self._template.render(report=report, created=report.created_at.astimezone(UTC), draw=draw)

    def cover_html(self, cover: BatchCover) -> str:
        """Return the cover of merged reports as well-formed XHTML."""
        return self._cover.render(cover=cover, created=cover.created_at.astimezone(UTC), LINK=COVER_LINK)

    def pdf(self, page: str, pictures: Mapping[str, bytes]) -> bytes:
        """Lay a page out; its pictures are the ``memory:`` addresses in `pictures`.

        What the head says is not printed: it keeps its letters, whether a font has them or not.
        """
        head, opening, body = page.partition("<body")
        body, fonts = fonts_for(body, self._own_letters)
        sheets = [self._css, *([self._with_fonts(fonts)] if fonts else [])]
        text = head.translate(_NO_ISOLATES) + opening + body
        return self._page(text, self._setting, sheets, pictures, self.fetcher({})).pdf()


_NO_ISOLATES = {ord(FIRST_STRONG_ISOLATE): None, ord(POP_ISOLATE): None}


def _printable(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return isolated(_UNPRINTABLE.sub("", value))


#: Pango's font map is not safe in two threads at once.
_lock = threading.Lock()


@cache
def _renderer() -> _Renderer:
    return _Renderer()


def warm_up() -> None:
    """Load WeasyPrint, the fonts and the style now rather than with the first report.

    Raises
    ------
    ReportUnavailable
        Pango is missing on this machine.
    """
    with _lock:
        _renderer()


def render_report(report: StudyReport) -> bytes:
    """Write one study's report as a tagged PDF (PDF/UA-1), A4.

    Equal input gives equal bytes on one machine. Threads take turns; the first call of a process also
    loads the fonts (about a third of a second).

    Returns
    -------
    bytes
        The PDF.

    Raises
    ------
    ReportUnavailable
        Pango is missing on this machine.
    ValueError
        `created_at` has no time zone, a picture is not a JPEG, or an image that was read lacks its
        thresholds or its size.
    """
    pictures = _pictures(report)
    with _lock:
        renderer = _renderer()
        return renderer.pdf(renderer.html(report, pictures), pictures)


def render_cover(cover: BatchCover) -> bytes:
    """Write the cover of a batch's merged reports; its links lead to ``COVER_LINK`` and a page's number.

    Raises
    ------
    ReportUnavailable
        Pango is missing on this machine.
    """
    with _lock:
        renderer = _renderer()
        return renderer.pdf(renderer.cover_html(cover), {})


def _pictures(report: StudyReport) -> dict[str, bytes]:
    """Check what the page relies on, and name its pictures: a report must not lose one silently."""
    if report.created_at.tzinfo is None:
        raise ValueError("created_at must be aware")
    pictures = {}
    for image in report.images:
        for kind, data in (("original", image.original_jpeg), ("overlay", image.overlay_jpeg)):
            if data is None:
                continue
            if not data.startswith(b"\xff\xd8\xff") or min(image.width, image.height) < 1:
                raise ValueError(f"the {kind} of image {image.number} is not a JPEG with a known size")
            pictures[f"{image.number}-{kind}"] = data
        _check_finding(image)
    return pictures


def _check_finding(image: ReportImage) -> None:
    probability = image.finding.probability if image.finding else None
    if probability is not None and (image.thresholds is None or not 0 <= probability <= 1):
        raise ValueError(f"image {image.number} needs thresholds and a probability of 0 to 1")
