"""A bundle's card as HTML: Markdown, and never the card's own HTML."""

from __future__ import annotations

from web.bundles.markdown import render


def test_blocks() -> None:
    text = "# Card\nOne *two* **three** `x<y`\n\n- a\n- b\n  more\n\n1. c\n\n```\n<b>\n```\n"
    shown = render(text)
    for html in (
        "<h2>Card</h2>",
        "<p>One <em>two</em> <strong>three</strong> <code>x&lt;y</code></p>",
        "<li>b\nmore</li>",
        "<ol>\n<li>c</li>\n</ol>",
        '<pre tabindex="0"><code>&lt;b&gt;\n</code></pre>',
    ):
        assert html in shown


def test_a_table_scrolls_by_keyboard() -> None:
    shown = render("| Region | AUC |\n|---|---:|\n| hand | 0.91 |")
    assert shown.startswith('<div tabindex="0" class="scroll"><table>')
    assert shown.endswith("</table></div>\n")
    assert "<td>hand</td>" in shown
    assert "style" not in shown, "the pages' policy allows none"


def test_nothing_of_the_cards_own_html_gets_through() -> None:
    shown = render(
        "<script>alert(1)</script> <b> [x](javascript:alert(1)) ![y](https://a.example/y.png)\n\n"
        "<div onclick=a>\n\n[z](https://a.example/) [file](file:///etc/passwd) [own](/account)"
    )
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "<div" not in shown
    assert "<img" not in shown
    assert 'href="https://a.example/" rel="noopener noreferrer"' in shown
    assert shown.count("href=") == 2  # ![y](...) is a link with a sign before it
