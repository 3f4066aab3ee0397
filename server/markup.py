"""The HTML of what a page holds by the thousand, made here because a Jinja macro call costs more than all the rest of a token.

`chip` is a token as other pages point at it; `context` is one line of text around a firing position. Both come out escaped.
"""

from functools import lru_cache

from markupsafe import Markup, escape

from lexiscope.records import Context, Token

REMEMBERED = 1 << 16
"""tokens whose HTML is kept; frequent tokens are most of every page"""


def chip(token: Token, href: str = "", extra: str = "") -> Markup:
    """A token in a box, a link where `href` says where to; its id and bytes on hover."""
    tag, target = ("a", f' href="{escape(href)}"') if href else ("span", "")
    title = f"{token.shown} · token {token.id}" + (f" · bytes {token.raw}" if token.raw else "")
    classes = f"chip {extra}".rstrip()
    return Markup(f'<{tag} class="{classes}"{target} title="{escape(title)}">{_marked(token.shown)}</{tag}>')


def context(line: Context, top: float) -> Markup:
    """The tokens of a context, split before the position that put it here so that those positions line up down the page.

    `top` is the activation that is shown in full colour.
    """
    spans = [
        _firing(token, value, top) if value > 0 else _silent(token.shown, token.id)
        for token, value in zip(line.tokens, line.values, strict=True)
    ]
    kind = "missed" if line.kind == "near_miss" else "fired"
    spans[line.position] = spans[line.position].replace("<span", f'<span class="{kind}"', 1)
    before, after = "".join(spans[: line.position]), "".join(spans[line.position :])
    return Markup(f'<span class="before"><span>{before}</span></span><span class="after">{after}</span>')


@lru_cache(REMEMBERED)
def _marked(shown: str) -> str:
    """Marks for white space stand out from the same character in a token."""
    text = str(escape(shown))
    for mark in "␣↵⇥":
        text = text.replace(mark, f"<i>{mark}</i>")
    return text


@lru_cache(REMEMBERED)
def _silent(shown: str, token_id: int) -> str:
    text = str(escape(shown))
    return f'<span title="{text} · token {token_id} · silent">{text.replace("␣", " ")}</span>'


def _firing(token: Token, value: float, top: float) -> str:
    text, share = str(escape(token.shown)), min(value / top, 1.0)
    return f'<span style="--a:{share:.3f}" title="{text} · token {token.id} · {value:.4f}">{text.replace("␣", " ")}</span>'
