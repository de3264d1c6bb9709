"""The page inside a ZIP: its studies in the order of the worklist, with pictures and links."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from store.results.results import Line, waiting_class
from vocabulary.anatomy import part_words
from vocabulary.reasons import REASONS, Reason
from vocabulary.states import TRIAGE_SEVERITY, Triage
from vocabulary.times import moment, study_day
from vocabulary.words import (
    GLYPHS,
    NOTICE,
    TRIAGE_WORDS,
    finding_words,
    hundredths,
    odds_sentence,
    shown_flags,
)

_HERE = Path(__file__).parent
_TABLE = """CREATE TABLE images
    (study TEXT, class INT, since TEXT, severity INT, probability REAL, seq INT, shown TEXT)"""
#: Studies by their most urgent image, as the worklist has them; a study's images with the worst first.
_IN_ORDER = """
    SELECT study, shown FROM images
    JOIN (SELECT study, min(class) AS study_class, min(since) AS study_since FROM images GROUP BY study)
    USING (study) ORDER BY study_class, study_since, study, severity DESC, probability DESC, seq
"""


@dataclass
class ShownStudy:
    """A line of the page.

    Attributes
    ----------
    name
        The accession number, or the file that decides.
    order
        Its place in the order of the worklist, from 1.
    images
        What is shown of each image, the worst first: `filename`, and `heatmap`, a relative address or empty.
    """

    name: str
    order: int
    triage: str | None
    status: str
    finding: str
    urgent: bool
    sentence: str
    probability: float | None
    regions: str
    age: int | None
    flags: list[str]
    study_date: str
    report: str
    images: list[dict[str, str]] = field(default_factory=list)


class IndexPage:
    """Gathers lines on disk while the tables go out, and gives the page at the end; memory stays flat."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", check_same_thread=False)  # a file that goes with the connection
        self._rows.execute(_TABLE)

    def __enter__(self) -> IndexPage:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def add(self, line: Line) -> None:
        """Take one image."""
        row = line.row
        place, since = waiting_class(row)
        triage = Triage(row.triage) if row.triage else Triage.NOT_ASSESSABLE
        known = row.probability if row.triage else None
        values = (
            str(row.study_id or row.id),
            place,
            since.isoformat() if since else "",
            TRIAGE_SEVERITY[triage],
            -1.0 if known is None else known,
            row.seq,
            json.dumps(_shown(line)),
        )
        self._rows.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def pieces(
        self, title: str, members: Collection[str], missing: Collection[str], zone: str | None = None
    ) -> Iterator[bytes]:
        """Yield the page.

        Parameters
        ----------
        members
            Parts of the archive to which it may link: ``tables``, ``reports``, ``heatmaps``.
        missing
            Members that the archive should hold and does not.
        zone
            The site's time zone; None for UTC.
        """
        template, script = _template()
        page = template.stream(
            title=title,
            made=moment(datetime.now(UTC), zone=zone),
            studies=self._studies(members, frozenset(missing)),
            script_hash=script,
            tables="tables" in members,
        )
        page.enable_buffering(64)
        for piece in page:
            yield piece.encode("utf-8", "replace")

    def _studies(self, members: Collection[str], missing: Collection[str]) -> Iterator[ShownStudy]:
        def link(name: str) -> str:
            folder = name.split("/", 1)[0]
            return quote(name) if folder in members and name not in missing else ""

        with closing(self._rows.execute(_IN_ORDER)) as rows:
            for order, (_, group) in enumerate(groupby(rows, key=lambda row: row[0]), 1):
                images: list[dict[str, Any]] = [json.loads(shown) for _, shown in group]
                worst = images[0]
                ages = [image["age"] for image in images if image["age"] is not None]
                yield ShownStudy(
                    name=worst["accession"] or worst["filename"],
                    order=order,
                    triage=worst["study_triage"],
                    status=worst["status"],
                    finding=worst["finding"],
                    urgent=any(image["urgent"] for image in images),
                    sentence=worst["sentence"],
                    probability=worst["probability"],
                    regions=", ".join(sorted({image["region"] for image in images if image["region"]})),
                    age=min(ages, default=None),
                    flags=list(dict.fromkeys(flag for image in images for flag in image["flags"])),
                    study_date=study_day(worst["study_date"]),
                    report=link(worst["report"]),
                    images=[
                        {"filename": image["filename"], "heatmap": link(image["heatmap"])} for image in images
                    ],
                )


def _shown(line: Line) -> dict[str, Any]:
    row, said = line.row, ""
    cuts = line.words.thresholds.get(row.region or "")
    if row.reason and row.triage in (None, Triage.NOT_ASSESSABLE):
        said = REASONS[Reason(row.reason)].sentence
    elif row.probability is not None and cuts is not None:
        said = odds_sentence(row.probability, cuts["low"], cuts["high"], row.triage, line.words.meaning)
    flags = shown_flags(
        row.flags or (),
        reason=row.reason,
        region=row.region,
        age_years=row.age_years,
        study_shared=bool(row.study_shared),
    )
    return {
        "filename": row.path,
        "accession": row.accession,
        "study_triage": row.study_triage,
        "status": row.status,
        "finding": finding_words(row.study_triage, line.words.meaning),
        "urgent": row.priority == 0,
        "sentence": said,
        "probability": row.probability if row.triage else None,
        "region": part_words(row.region) if row.region else "",
        "age": row.age_years,
        "flags": [REASONS[flag].sentence for flag in flags],
        "study_date": row.study_date,
        "report": line.report,
        "heatmap": line.heatmap,
    }


@cache
def _template() -> tuple[jinja2.Template, str]:
    """Return the page, and the hash by which it names its one script as the only one that may run."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(_HERE),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_HERE / "index.js").read_text("utf-8")
    digest = sha256(script.encode()).digest()
    environment.globals.update(
        GLYPHS=GLYPHS,
        TRIAGE_WORDS=TRIAGE_WORDS,
        NOTICE=NOTICE,
        script=script,
        severity={triage.value: n for triage, n in TRIAGE_SEVERITY.items()},
    )
    environment.filters["hundredths"] = hundredths
    return environment.get_template("index.html"), base64.b64encode(digest).decode()
