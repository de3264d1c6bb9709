"""Joins study reports into one PDF with a cover, links from its table of contents, and bookmarks."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import IO

from pypdf import PdfReader, PdfWriter
from pypdf.constants import PageLabelStyle
from pypdf.generic import ArrayObject, DictionaryObject, NameObject

from pipeline.report.render import COVER_LINK, render_cover
from pipeline.report.types import BatchCover, ContentsEntry
from vocabulary.words import TRIAGE_WORDS


def merge_reports(
    cover: BatchCover, reports: Iterable[tuple[ContentsEntry, bytes | None]], target: IO[bytes]
) -> None:
    """Write one PDF: the cover with its contents, then the reports in the order given.

    The cover's pages are numbered i, ii ...; the reports' pages 1, 2 ..., as the contents name them. What
    the reports hold for screen readers (their tags) is lost in the joining: single reports keep it.

    Parameters
    ----------
    cover
        Its `entries` are replaced by those of `reports` with their pages.
    reports
        Of each study its entry, and its report's PDF or None.
    target
        Written from its present position.

    Raises
    ------
    ReportUnavailable
        Pango is missing on this machine.
    pypdf.errors.PdfReadError
        A report is not a PDF.
    """
    writer = PdfWriter()
    entries: list[ContentsEntry] = []
    for entry, report in reports:
        first = len(writer.pages)
        if report is not None:
            writer.append(PdfReader(io.BytesIO(report)), import_outline=False)
        entries.append(replace(entry, page=first + 1 if report is not None else None))
    n_report_pages = len(writer.pages)
    front = PdfReader(io.BytesIO(render_cover(replace(cover, entries=tuple(entries)))))
    n_cover = len(front.pages)
    writer.merge(0, front, import_outline=False)
    for page in writer.pages[:n_cover]:
        _point_links(writer, page, n_cover)
    for entry in entries:
        if entry.page is not None:
            title = f"{TRIAGE_WORDS[entry.triage]}: {entry.name}"
            writer.add_outline_item(title=title, page_number=n_cover + entry.page - 1)
    writer.set_page_label(0, n_cover - 1, style=PageLabelStyle.LOWERCASE_ROMAN)
    if n_report_pages:
        writer.set_page_label(n_cover, n_cover + n_report_pages - 1, style=PageLabelStyle.DECIMAL, start=1)
    title = f"AI reports of {cover.label or cover.batch_id}"
    writer.add_metadata({"/Title": title, "/Author": cover.site_name})
    writer.write(target)


def _point_links(writer: PdfWriter, page: DictionaryObject, n_cover: int) -> None:
    """Turn the cover's placeholders into links to pages of this file."""
    for reference in page.get("/Annots", ()):
        note = reference.get_object()
        action = note.get("/A")
        address = str(action.get_object().get("/URI", "")) if action is not None else ""
        if address.startswith(COVER_LINK):
            number = n_cover + int(address.removeprefix(COVER_LINK)) - 1
            goal = writer.pages[number].indirect_reference
            if goal is not None:
                del note["/A"]
                note[NameObject("/Dest")] = ArrayObject([goal, NameObject("/Fit")])
