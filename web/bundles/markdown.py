"""Shows a bundle's card: Markdown as safe HTML. No HTML of the card's own gets through, and no picture."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup


class _Renderer(RendererHTML):
    """Tables and code that scroll by keyboard, links that tell the other side nothing."""

    def renderToken(  # noqa: N802 - the library's name
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """Return a tag."""
        token = tokens[idx]
        token.attrs.pop("style", None)  # the alignment of cells, which the pages' policy does not allow
        if token.type == "link_open":
            token.attrSet("rel", "noopener noreferrer")
        html = super().renderToken(tokens, idx, options, env)
        if token.type == "table_open":
            return '<div tabindex="0" class="scroll">' + html
        return html.rstrip("\n") + "</div>\n" if token.type == "table_close" else html

    def fence(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """Return a block of code."""
        return super().fence(tokens, idx, options, env).replace("<pre>", '<pre tabindex="0">', 1)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("js-default", renderer_cls=_Renderer).disable("image")
    parser.validateLink = lambda url: url.startswith(("https://", "http://"))  # type: ignore[method-assign]

    def lower(state: Any) -> None:
        for token in state.tokens:
            if token.tag in {"h1", "h2", "h3", "h4", "h5"}:  # the page itself has the first level
                token.tag = f"h{int(token.tag[1]) + 1}"

    parser.core.ruler.push("lower_headings", lower)
    return parser


_PARSER = _parser()


def render(text: str) -> Markup:
    """Return a Markdown text as HTML, all else escaped."""
    return Markup(_PARSER.render(text))  # noqa: S704 - the preset lets no HTML through
