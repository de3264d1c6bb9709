"""Cuts the report's fonts for the world's scripts: ``python scripts/report_fonts.py FOLDER`` (some minutes).

FOLDER holds Debian's packages fonts-noto-core and fonts-noto-cjk, unpacked (``dpkg -x``). Written
are ``pipeline/report/fonts/noto/*.woff2`` and ``coverage.json`` beside them: which letters each file has, in
the order in which a report asks them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTCollection

TARGET = Path(__file__).resolve().parents[1] / "pipeline" / "report" / "fonts" / "noto"
#: Scripts that people write today, a file each; Latin, Greek and Cyrillic beyond what Inter has come first,
#: then what is Chinese, Japanese and Korean, of whose punctuation others have some.
SCRIPTS = (
    *("Sans", "SansArabic", "SansHebrew", "SansThai", "SansDevanagari", "SansBengali", "SansGujarati"),
    *("SansGurmukhi", "SansOriya", "SansTamil", "SansTelugu", "SansKannada", "SansMalayalam", "SansSinhala"),
    *("SansArmenian", "SansGeorgian", "SansEthiopic", "SansKhmer", "SansLao", "SansMyanmar", "SerifTibetan"),
    *("SansMongolian", "SansSyriac", "SansThaana", "SansNKo", "SansTifinagh", "SansVai", "SansAdlam"),
    *("SansCanadianAboriginal", "SansCherokee", "SansOsage", "SansJavanese", "SansBalinese", "SansSundanese"),
    *("SansCham", "SansBamum", "SansYi", "SansLisu", "SansTaiLe", "SansTaiTham", "SansOlChiki", "SansLimbu"),
    *("SansLepcha", "SansChakma", "SansMeeteiMayek", "SansHanifiRohingya"),
)
#: Of Noto Sans CJK: file, face, ranges, features. One face a letter: no text says its language.
CJK = (
    (
        "SansCJK-Kana",
        "JP",
        ((0x2E80, 0x312F), (0x3190, 0x33FF), (0xFE10, 0xFE4F), (0xFF00, 0xFFEF)),
        ("ccmp",),
    ),
    (
        "SansCJK-Hangul",
        "KR",
        ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
        ("ccmp", "ljmo", "vjmo", "tjmo"),
    ),
    ("SansCJK-Han", "SC", ((0x4E00, 0x9FFF),), ("ccmp",)),
    ("SansCJK-HanA", "SC", ((0x3400, 0x4DBF), (0xF900, 0xFAFF)), ("ccmp",)),
    ("SansCJK-HanB", "SC", ((0x20000, 0x3FFFF),), ("ccmp",)),
)
#: Spaces are drawn by the font of the letter before them: every file needs its own.
SPACES = ((0x20, 0x20), (0xA0, 0xA0))
SYMBOLS = ("SansSymbols", "SansSymbols2", "SansMath")


def ranges(letters: Iterable[int]) -> Iterator[list[int]]:
    """Yield the first and last of each run of consecutive letters."""
    run: list[int] = []
    for letter in sorted(letters):
        if run and letter == run[1] + 1:
            run[1] = letter
        else:
            if run:
                yield run
            run = [letter, letter]
    if run:
        yield run


def cut(
    source: Path, name: str, *, face: int = 0, only: tuple[tuple[int, int], ...] = (), **kept: object
) -> list[list[int]]:
    """Write one file and return the ranges of its letters."""
    options = subset.Options(hinting=False, flavor="woff2", notdef_outline=True, font_number=face, **kept)
    font = subset.load_font(str(source), options)
    letters = [
        a for a in font.getBestCmap() if not only or any(low <= a <= high for low, high in (*SPACES, *only))
    ]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=letters)
    subsetter.subset(font)
    target = TARGET / f"Noto{name}.woff2"
    subset.save_font(font, str(target), options)
    print(target.name, len(letters), "letters", target.stat().st_size, "bytes", flush=True)
    return list(ranges(font.getBestCmap()))


def main(folder: Path) -> None:
    """Write every file and the coverage."""
    TARGET.mkdir(parents=True, exist_ok=True)
    coverage: dict[str, list[list[int]]] = {}

    def scripts(names: Iterable[str]) -> None:
        for name in names:
            coverage[f"Noto{name}.woff2"] = cut(next(folder.rglob(f"Noto{name}-Regular.ttf")), name)

    scripts(SCRIPTS[:1])
    collection = next(folder.rglob("NotoSansCJK-Regular.ttc"))
    faces = [font["name"].getDebugName(4) for font in TTCollection(str(collection), lazy=True).fonts]
    for name, language, only, features in CJK:
        coverage[f"Noto{name}.woff2"] = cut(
            collection,
            name,
            face=faces.index(f"Noto Sans CJK {language}"),
            only=only,
            layout_features=list(features),
        )
    scripts((*SCRIPTS[1:], *SYMBOLS))
    (TARGET / "coverage.json").write_text(
        json.dumps(coverage, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
