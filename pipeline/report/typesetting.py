"""WeasyPrint for reports: what is the same in all of them is worked out once a process and kept.

A report's elements have the same few styles as those of the report before, and most of its lines the same
words: see ``docs/adr/025-weasyprint-subclassed.md``. Nothing here is safe in two threads at once.
"""

from __future__ import annotations

import copy
import math
import re
import sys
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import cssselect2  # type: ignore[import-untyped]
import pydyf  # type: ignore[import-untyped]
import weasyprint
from PIL import Image
from tinycss2.color5 import parse_color  # type: ignore[import-untyped]
from weasyprint.css import AnonymousStyle, StyleFor
from weasyprint.css.counters import CounterStyle
from weasyprint.css.properties import INITIAL_VALUES
from weasyprint.css.targets import TargetCollector
from weasyprint.draw import text as draw_text
from weasyprint.formatting_structure import boxes
from weasyprint.html import UA_COUNTER_STYLE
from weasyprint.images import RasterImage
from weasyprint.layout import LayoutContext, percent
from weasyprint.matrix import Matrix
from weasyprint.pdf.fonts import Font
from weasyprint.pdf.stream import Stream
from weasyprint.svg.text import Style, TextBox
from weasyprint.text import line_break
from weasyprint.text.fonts import FontConfiguration

#: Lines that are kept, those longest unused are forgotten first. A page has about sixty.
KEPT_LINES = 2000
#: Places of a style, and choices of letters of a font, after which all are forgotten.
KEPT_SIZES, KEPT_FONTS = 100, 100
COMPRESSION = 5
PIXELS_A_MM = 96 / 25.4


class Styles(StyleFor):  # type: ignore[misc]
    """Computed styles that outlive their document: equal rules below an equal parent share one."""

    def __init__(self, html: Page, target_collector: TargetCollector) -> None:
        self._kept = html.setting.styles
        super().__init__(html, html.sheets, False, html.setting.font_config, target_collector)

    def set_computed_styles(
        self, element: Any, parent: Any, root: Any = None, pseudo_type: str | None = None, **named: Any
    ) -> None:
        """Set the style of an element, a page or a part of them: one that was computed before, if it can be.

        What an element says of its own style differs from report to report, and is not kept.
        """
        computed = self.get_computed_styles()
        above = None if parent is None else computed[parent, None]
        own = isinstance(element, ElementTree.Element) and "style" in element.attrib
        if own or not getattr(above, "kept", True):
            super().set_computed_styles(element, parent, root, pseudo_type, **named)
            return
        cascaded = self.get_cascaded_styles().get((element, pseudo_type), {})
        rules = tuple(
            (name, str(value) if name == "lang" else id(value), *weight[:2], *weight[2])
            for name, (value, weight) in cascaded.items()
        )
        key = id(above), pseudo_type, rules
        if key not in self._kept:
            super().set_computed_styles(element, parent, root, pseudo_type, **named)
            self._kept[key] = computed[element, pseudo_type]
            self._kept[key].kept = True
        computed[element, pseudo_type] = self._kept[key]


class Document(weasyprint.document.Document):  # type: ignore[misc]
    """A document whose styles and pictures come from its page's setting."""

    @classmethod
    def _build_layout_context(
        cls, html: Page, font_config: Any, counter_style: Any, color_profiles: Any, options: Any
    ) -> LayoutContext:
        targets = TargetCollector()
        return LayoutContext(Styles(html, targets), html.picture, font_config, counter_style, targets)


class Setting:
    """What all pages of a process share: fonts, counters, and the styles that were computed."""

    def __init__(self) -> None:
        self.font_config = FontConfiguration()
        self.styles: dict[Hashable, Any] = {}
        self.counters = CounterStyle(UA_COUNTER_STYLE)


class Page(weasyprint.HTML):  # type: ignore[misc]
    """A page given as well-formed XML, which the standard parser reads ten times as fast as HTML.

    Our style sheets take the place of the browser's.

    Parameters
    ----------
    pictures
        JPEGs and drawings that the page gets, by the names after its ``memory:``.
    """

    def __init__(
        self,
        text: str,
        setting: Setting,
        sheets: Sequence[weasyprint.CSS],
        pictures: Mapping[str, bytes],
        fetcher: Any,
    ) -> None:
        self.base_url, self.url_fetcher, self.media_type = None, fetcher, "print"
        self.etree_element = ElementTree.fromstring(text)  # noqa: S314 - our own template, escaped
        self.wrapper_element = cssselect2.ElementWrapper.from_html_root(
            self.etree_element, content_language=None
        )
        self.setting = setting
        self.sheets = [(sheet, "user agent" if n == 0 else "user", None) for n, sheet in enumerate(sheets)]
        self._pictures = pictures
        self._images: dict[str, Any] = {}

    def picture(self, url: str, **_named: object) -> Any:
        """Return what the page asks for, if it is one of its own pictures."""
        scheme, _, name = url.partition(":")
        if scheme == "memory" and name in self._pictures and url not in self._images:
            data = self._pictures[name]
            self._images[url] = (
                Drawing(data)
                if data.startswith(b"<svg")
                else RasterImage(Image.open(BytesIO(data)), str(len(self._images)), data)
            )
        return self._images.get(url)

    def pdf(self) -> bytes:
        """Lay the page out and return it as a tagged PDF."""
        options = {**weasyprint.DEFAULT_OPTIONS, "pdf_variant": "pdf/ua-1"}
        document = Document._render(self, self.setting.font_config, self.setting.counters, {}, options)
        written: bytes = document.write_pdf(pdf_variant="pdf/ua-1", finisher=_compress)
        return written


def _compress(document: Document, pdf: pydyf.PDF) -> None:
    """Compress pages and fonts at a level that takes a quarter of pydyf's time for a hundredth more bytes."""
    for stream in pdf.objects:
        if isinstance(stream, pydyf.Stream) and stream.compress:
            plain = b"\n".join(pydyf._to_bytes(item) for item in stream.stream)
            stream.stream, stream.compress = [zlib.compress(plain, COMPRESSION)], False
            stream.extra["Filter"] = "/FlateDecode"


class Drawing:
    """A drawing of `pipeline.report.drawings`: rectangles, paths of straight lines, words letter by letter.

    WeasyPrint's own reader of SVG takes a fifth of a report's time for the same operators.
    """

    def __init__(self, svg: bytes) -> None:
        self._root = ElementTree.fromstring(svg)  # noqa: S314 - our own drawing
        _, _, self._width, self._height = map(float, self._root.attrib["viewBox"].split())

    def get_intrinsic_size(self, resolution: float, font_size: float) -> tuple[float, float, float]:
        """Return width and height in CSS pixels, and their ratio; the drawing is in millimetres."""
        return self._width * PIXELS_A_MM, self._height * PIXELS_A_MM, self._width / self._height

    def draw(self, stream: Any, width: float, height: float, style: Any) -> None:
        """Draw on a page, in so many CSS pixels."""
        stream.transform(a=width / self._width, d=height / self._height)
        stream.set_alpha(1, stroke=True, fill=True)
        for shape in self._root:
            with stream.stacked():
                attributes = shape.attrib
                fill, stroke = attributes.get("fill", "#000"), attributes.get("stroke")
                if fill != "none":
                    stream.set_color(_colour(fill))
                if stroke:
                    stream.set_color(_colour(stroke), stroke=True)
                    stream.set_line_width(float(attributes["stroke-width"]))
                    stream.set_miter_limit(4)
                    if "stroke-dasharray" in attributes:
                        stream.set_dash([*map(float, attributes["stroke-dasharray"].split())], 0)
                        stream.set_line_cap(1)
                if shape.tag.endswith("text"):
                    _write(stream, shape, self._root.attrib["font-family"], style.font_config)
                    continue
                if shape.tag.endswith("rect"):
                    stream.rectangle(*(float(attributes[name]) for name in ("x", "y", "width", "height")))
                else:
                    _trace(stream, attributes["d"])
                if fill == "none":
                    stream.stroke()
                elif stroke:
                    stream.fill_and_stroke()
                else:
                    stream.fill()


_colour = cache(parse_color)


def _trace(stream: Any, path: str) -> None:
    """Draw a path of straight lines: the commands M, H, V, h, v, l and z."""
    x = y = 0.0
    start = x, y
    for command, numbers in re.findall(r"([MHVhvlz])([^MHVhvlz]*)", path):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        match command:
            case "z":
                stream.close()
                x, y = start
                continue
            case "H":
                x = values[0]
            case "V":
                y = values[0]
            case "h":
                x += values[0]
            case "v":
                y += values[0]
            case "l":
                x, y = x + values[0], y + values[1]
            case "M":
                start = x, y = values[0], values[1]
                stream.move_to(x, y)
                continue
        stream.line_to(x, y)


def _write(stream: Any, shape: ElementTree.Element, family: str, font_config: Any) -> None:
    """Draw a word, each letter where the one before ends."""
    size, weight = float(shape.attrib["font-size"]), int(shape.attrib.get("font-weight", 400))
    style = _letter_style(family, size, weight, font_config)
    x, y = float(shape.attrib["x"]), float(shape.attrib["y"])
    stream.begin_text()
    for letter in shape.text or "":
        layout, _, _, width, _, _ = _kept_first_line(letter, style, None, math.inf, 0)
        draw_text.draw_first_line(stream, TextBox(layout, style), "clip", "none", Matrix(d=-1, e=x, f=y))
        x += width
    stream.end_text()


@cache
def _letter_style(family: str, size: float, weight: int, font_config: Any) -> Any:
    style = Style(INITIAL_VALUES, font_family=[family], font_size=size, font_weight=weight)
    style.font_config, style.kept = font_config, True
    return style


# --- lines of text ---


class _Layout(line_break.Layout):  # type: ignore[misc]
    """A line as Pango laid it out, which WeasyPrint would have done once more before it is drawn.

    Attributes
    ----------
    shared
        Whether a second box has the line.
    inks
        What it adds to pages.
    """

    shared = False
    inks: tuple[_Ink, ...] = ()

    def deactivate(self) -> None:
        pass

    def reactivate(self, style: Any) -> None:
        if self.justification_spacing:
            super().reactivate(style)


_lines: dict[Hashable, Any] = {}
_split_first_line = line_break.split_first_line
_draw_first_line = draw_text.draw_first_line
_strut, _resolve_percentages = line_break.strut, percent.resolve_percentages


def _is_kept(style: Any) -> bool:
    while isinstance(style, AnonymousStyle):
        style = style.parent_style
    return getattr(style, "kept", False)


def _kept_first_line(
    text: str,
    style: Any,
    context: Any,
    max_width: float | None,
    justification_spacing: float,
    is_line_start: bool = True,
    minimum: bool = False,
) -> Any:
    """Split a text as WeasyPrint does, or as it did for the same text, style and width."""
    key = text, id(style), max_width, justification_spacing, is_line_start, minimum
    if (line := _lines.pop(key, None)) is not None:
        line[0].shared = True
        _lines[key] = line
        return line
    line = _split_first_line(text, style, context, max_width, justification_spacing, is_line_start, minimum)
    if _is_kept(style) and not justification_spacing:
        _lines[key] = line
        while len(_lines) > KEPT_LINES:
            del _lines[next(iter(_lines))]
    return line


@dataclass(frozen=True)
class _Ink:
    """What a line adds to a page.

    Attributes
    ----------
    operators
        The first says the font.
    fonts
        With the letters used of each. A letter's width in a document is rounded at the size that it is first
        drawn in, and decides the gaps around it.
    taken
        Of each font the letters whose width the document had already.
    """

    operators: list[Any]
    fonts: dict[Any, Any]
    taken: dict[Any, frozenset[int]]
    last_font: Any

    @classmethod
    def of(cls, textbox: Any, fonts: Mapping[Any, Any]) -> _Ink | None:
        """Draw a line for a document that has used these fonts; None if it is more than letters of fonts."""
        blank = Stream({}, None, {}, {}, None, {}, None)
        for key, font in fonts.items():
            blank._fonts[key] = copy.copy(font)
            blank._fonts[key].widths, blank._fonts[key].to_unicode = dict(font.widths), {}
        pictures = _draw_first_line(blank, textbox, "clip", "none", Matrix())
        if pictures or any(font.missing for font in blank._fonts.values()):
            return None
        used = {key: font for key, font in blank._fonts.items() if font.to_unicode}
        taken = {}
        for key, font in used.items():
            font.widths = {glyph: font.widths[glyph] for glyph in font.to_unicode}
            taken[key] = (
                frozenset(fonts[key].widths).intersection(font.widths) if key in fonts else frozenset()
            )
        return cls(blank.stream[1:], used, taken, blank._current_font)

    def fits(self, fonts: Mapping[Any, Any]) -> bool:
        """Tell whether the line would be drawn so in a document that has used these fonts."""
        for key, font in self.fonts.items():
            widths = fonts[key].widths if key in fonts else {}
            if font.widths.items() <= widths.items():
                continue
            for glyph, width in font.widths.items():
                if widths.get(glyph, None if glyph in self.taken[key] else width) != width:
                    return False
        return True

    def draw(self, stream: Any, matrix: Any) -> None:
        """Add the line to a page."""
        if not self.operators:
            return
        stream.set_text_matrix(*matrix.values)
        stream.stream += self.operators[stream._current_font == self.last_font and len(self.fonts) == 1 :]
        stream._current_font = self.last_font
        for key, font in self.fonts.items():
            if (used := stream._fonts.get(key)) is None:
                used = stream._fonts[key] = copy.copy(font)
                used.widths, used.to_unicode = dict(font.widths), dict(font.to_unicode)
            elif not font.widths.items() <= used.widths.items():
                for glyph, letters in font.to_unicode.items():
                    used.to_unicode.setdefault(glyph, letters)
                    used.widths.setdefault(glyph, font.widths[glyph])


def _draw_kept_line(stream: Any, textbox: Any, text_overflow: str, block_ellipsis: Any, matrix: Any) -> Any:
    """Draw a line as WeasyPrint does, or repeat what it drew."""
    layout = textbox.pango_layout
    if layout.shared and text_overflow == "clip" and block_ellipsis == "none":
        ink = next((ink for ink in layout.inks if ink.fits(stream._fonts)), None)
        if ink is None and (ink := _Ink.of(textbox, stream._fonts)):
            layout.inks = (*layout.inks, ink)
        if ink is not None:
            ink.draw(stream, matrix)
            return []
    return _draw_first_line(stream, textbox, text_overflow, block_ellipsis, matrix)


# --- what is worked out of a style alone ---


def _kept_strut(style: Any) -> Any:
    """Return height and baseline of a line of this style."""
    if not _is_kept(style):
        return _strut(style)
    if not hasattr(style, "strut"):
        style.strut = _strut(style)
    return style.strut


def _resolve_kept_percentages(box: Any, containing_block: Any) -> None:
    """Set a box's margins, paddings, borders and sizes, as those of the last box of this style and place."""
    style = box.style
    if not _is_kept(style) or style["border_collapse"] == "collapse":
        _resolve_percentages(box, containing_block)
        return
    if isinstance(containing_block, boxes.Box):
        place = containing_block.width, containing_block.height, isinstance(box, boxes.PageBox)
    else:
        place = *containing_block, isinstance(box, boxes.PageBox)
    sizes = style.__dict__.setdefault("sizes", {})
    if (found := sizes.get(place)) is None:
        if len(sizes) > KEPT_SIZES:
            sizes.clear()
        _resolve_percentages(box, containing_block)
        sizes[place] = {name: vars(box)[name] for name in _SIZES}
    else:
        vars(box).update(found)


_SIZES = (
    *(f"{limit}{size}" for limit in ("", "min_", "max_") for size in ("width", "height")),
    *(f"{kind}_{side}" for kind in ("margin", "padding") for side in ("top", "right", "bottom", "left")),
    *(f"border_{side}_width" for side in ("top", "right", "bottom", "left")),
)


class _Font(Font):  # type: ignore[misc]
    """A font in a document, cut down to the letters used as it was the last time that these were."""

    file_content: bytes

    def clean(self, to_unicode: Mapping[int, str], hinting: bool) -> None:
        if self.missing:
            super().clean(to_unicode, hinting)
            return
        key = self.hash, frozenset(to_unicode), hinting
        if key not in _cut_fonts:
            if len(_cut_fonts) > KEPT_FONTS:
                _cut_fonts.clear()
            super().clean(to_unicode, hinting)
            _cut_fonts[key] = self.file_content
        self.file_content = _cut_fonts[key]


_cut_fonts: dict[Hashable, bytes] = {}


def _instead(of: Any, ours: Any) -> None:
    """Have WeasyPrint call ours wherever it calls a function of its own."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("weasyprint."):
            for attribute, value in tuple(vars(module).items()):
                if value is of:
                    setattr(module, attribute, ours)


_instead(line_break.Layout, _Layout)
_instead(Font, _Font)
for _theirs, _ours in (
    (_split_first_line, _kept_first_line),
    (_draw_first_line, _draw_kept_line),
    (_strut, _kept_strut),
    (_resolve_percentages, _resolve_kept_percentages),
):
    _instead(_theirs, _ours)
