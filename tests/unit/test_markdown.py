"""A bundle's card as HTML: a small part of Markdown, and never the card's own HTML."""

from __future__ import annotations

from web.markdown import render


def test_blocks() -> None:
    text = "# Card\nOne *two* **three** `x<y`\nfour\n\n- a\n- b\n  more\n\n1. c\n\n```\n<b>\n```\n"
    assert str(render(text)).split("\n") == [
        "<h2>Card</h2>",
        "<p>One <em>two</em> <strong>three</strong> <code>x&lt;y</code> four</p>",
        "<ul><li>a</li><li>b more</li></ul>",
        "<ol><li>c</li></ol>",
        '<pre tabindex="0"><code>&lt;b&gt;</code></pre>',
    ]


def test_a_table() -> None:
    assert "<tr><th>Region</th><th>AUC</th></tr></thead><tbody><tr><td>hand</td><td>0.91</td></tr>" in render(
        "| Region | AUC |\n|---|---:|\n| hand | 0.91 |"
    )


def test_nothing_of_the_cards_own_html_gets_through() -> None:
    shown = render('<script>alert(1)</script> <b> [x](javascript:alert(1)) [y](https://a.example/"onclick=1)')
    assert shown == (
        "<p>&lt;script&gt;alert(1)&lt;/script&gt; &lt;b&gt; [x](javascript:alert(1)) "
        "[y](https://a.example/&#34;onclick=1)</p>"
    )
