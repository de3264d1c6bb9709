"""Shows a bundle's card: a small part of Markdown as safe HTML. No HTML of the card's own gets through."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

_BULLET = re.compile(r"\s*[-*+]\s+")
_NUMBER = re.compile(r"\s*\d+[.)]\s+")
_RULE = re.compile(r"\s*\|?[\s:|-]*-{3,}[\s:|-]*$")


def _inline(text: str) -> str:
    """Return one line's text: code, bold, emphasis and links to the web."""
    pieces = re.split(r"`([^`]+)`", text)
    for i, piece in enumerate(pieces):
        safe = str(escape(piece))
        if i % 2:
            pieces[i] = f"<code>{safe}</code>"
            continue
        safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
        safe = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", safe)
        pieces[i] = re.sub(
            r"\[([^\]]+)\]\((https?://[^\s)&]+)\)", r'<a href="\2" rel="noopener noreferrer">\1</a>', safe
        )
    return "".join(pieces)


def _cells(line: str, tag: str) -> str:
    cells = line.strip().strip("|").split("|")
    return "<tr>" + "".join(f"<{tag}>{_inline(cell.strip())}</{tag}>" for cell in cells) + "</tr>"


def _items(lines: list[str], mark: re.Pattern[str], tag: str) -> str:
    items: list[str] = []
    for line in lines:
        if mark.match(line):
            items.append(mark.sub("", line, count=1).strip())
        else:
            items[-1] += " " + line.strip()
    return f"<{tag}>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + f"</{tag}>"


def _block(lines: list[str]) -> str:
    heading = re.match(r"(#{1,6})\s+(.*)", lines[0])
    if heading and len(lines) == 1:
        level = min(len(heading[1]) + 1, 6)  # the page itself has the first level
        return f"<h{level}>{_inline(heading[2].strip('# '))}</h{level}>"
    if len(lines) >= 2 and "|" in lines[0] and _RULE.match(lines[1]):
        body = "".join(_cells(line, "td") for line in lines[2:])
        return (
            f'<div tabindex="0" class="scroll"><table><thead>{_cells(lines[0], "th")}</thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    for mark, tag in ((_BULLET, "ul"), (_NUMBER, "ol")):
        if mark.match(lines[0]):
            return _items(lines, mark, tag)
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _blocks(text: str) -> Iterator[str]:
    """Yield the HTML of each block: blocks end at blank lines, headings stand alone."""
    lines: list[str] = []
    fence: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        starts_new = line.startswith("#") or (
            bool(_BULLET.match(line) or _NUMBER.match(line))
            and bool(lines)
            and not (_BULLET.match(lines[0]) or _NUMBER.match(lines[0]))
        )
        if lines and fence is None and (not line.strip() or starts_new or line.startswith("```")):
            yield _block(lines)
            lines = []
        if line.startswith("```"):
            if fence is not None:
                yield f'<pre tabindex="0"><code>{escape(chr(10).join(fence))}</code></pre>'
            fence = [] if fence is None else None
        elif fence is not None:
            fence.append(line)
        elif line.startswith("#"):
            yield _block([line])
        elif line.strip():
            lines.append(line)
    if fence:
        yield f'<pre tabindex="0"><code>{escape(chr(10).join(fence))}</code></pre>'


def render(text: str) -> Markup:
    """Return headings, paragraphs, lists, tables and code of a Markdown text as HTML, all else escaped."""
    return Markup("\n".join(_blocks(text)))  # noqa: S704 - every piece was escaped above
