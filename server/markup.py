"""HTML of the elements that a page has by the hundred: tokens, numbers, bars. In Python, because a Jinja
macro call takes longer than they do.

Templates import them from `macros.html`. Text from a vocabulary or a corpus is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil, floor, log10
from unicodedata import bidirectional

from markupsafe import Markup, escape

from lexiscope.measures import DIGITS, Measure
from lexiscope.records import RELATION_WORDS, VERDICT_WORDS, WRITE_VERDICT_WORDS, Context, Token
from lexiscope.tokens import Run, readable_runs

REMEMBERED = 1 << 16
"""tokens whose HTML is cached; most tokens of a page are frequent ones"""
HEAT_STEPS = 20
RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
"""the blocks of the scripts that are written so"""
MAX_SHOWN = 120
"""characters of one token that a page shows"""
RTL, NOTHING = Markup(' dir="rtl"'), Markup("")
ANCHOR_WORDS = {
    "mean state by current token, shrunk to the transported embedding": "the mean state on each token",
    "mean state by next token, shrunk to the transported embedding": "the mean state before each token",
    "mean state by previous token, shrunk to the transported embedding": "the mean state after each token",
    "embedding carried to the layer by one ridge map": "the token embedding, carried to this layer",
    "state of the token alone after BOS, centred": "the state on each token alone",
    "unembedding times the covariance of the residual stream": "the unembedding, turned into directions",
    "raw token embedding": "the token embedding W_E",
    "token embedding, centred by frequency": "the token embedding W_E, centred",
}
"""`lexiscope.anchor_sets.DESCRIPTIONS` in words that need no reading beforehand"""
UNMEASURED = Markup('<span class="muted" title="not measured">–</span>')


def clipped(text: str) -> str:
    """At most MAX_SHOWN characters of a token: some vocabularies and texts have tokens of thousands."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def chip(token: Token, href: str = "", extra: str = "") -> Markup:
    """A token in a box, with its id and bytes on hover; a link if `href` is given."""
    tag, target = ("a", f' href="{escape(href)}"') if href else ("span", "")
    raw = f" · bytes {clipped(token.raw)}" if token.raw else ""
    title = f"{isolated(clipped(token.shown))} · token {token.id}{raw}"
    classes = f"chip {extra}".rstrip()
    return Markup(f'<{tag} class="{classes}"{target} title="{escape(title)}">{_marked(token.shown)}</{tag}>')


def token_link(token: Token, model: str) -> Markup:
    """A chip that links to the token's page; without a link if the vocabulary does not have the token."""
    return chip(token, f"/tokens/{model}/{token.id}" if token.id >= 0 else "")


def context(line: Context, top: float) -> Markup:
    """The tokens of a context, split before the position that selected it, so that these positions are
    aligned down the page. `top` is the activation shown in full colour. Tokens that are
    parts of one character are shown as the character.
    """
    spans = _spans(line.tokens, line.values, top)
    at = next(number for number, (end, _) in enumerate(spans) if end > line.position)
    html = [span for _, span in spans]
    kind = "missed" if line.kind == "near_miss" else "fired"
    html[at] = _with_class(html[at], kind)
    before, after = "".join(html[:at]), "".join(html[at:])
    return Markup(f'<span class="before"><span>{before}</span></span><span class="after">{after}</span>')


def running_text(tokens: Sequence[Token], values: Sequence[float], top: float) -> Markup:
    """The tokens of a text with the activation at each."""
    return Markup("".join(span for _, span in _spans(tokens, values, top)))


def direction(tokens: Sequence[Token]) -> Markup:
    """The `dir` attribute of a line of tokens that is mostly written from right to left."""
    text = "".join(token.shown for token in tokens)
    if "⟨" in text:
        text = "".join(run.text for run in _runs(tokens))
    if RIGHT_TO_LEFT.search(text) is None:
        return NOTHING
    kinds = [bidirectional(char) for char in text]
    return RTL if sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L") else NOTHING


def _spans(tokens: Sequence[Token], values: Sequence[float], top: float) -> list[tuple[int, str]]:
    """The HTML of each run of tokens, with the place after its last token."""
    if not any("⟨" in token.shown for token in tokens):  # none is a part of a character
        return [
            (place, _firing(token, value, top) if value else _silent(token.shown, token.id))
            for place, (token, value) in enumerate(zip(tokens, values, strict=True), 1)
        ]
    return [
        (run.end, _run(run, tokens[run.first : run.end], values[run.first : run.end], top))
        for run in _runs(tokens)
    ]


def _runs(tokens: Sequence[Token]) -> list[Run]:
    raws = [bytes.fromhex(token.raw) if token.raw else token.shown.encode() for token in tokens]
    return readable_runs(raws, [token.shown for token in tokens])


def _run(run: Run, tokens: Sequence[Token], values: Sequence[float], top: float) -> str:
    """The text of some tokens in one span, with each of them on hover."""
    value = max(values, key=abs)
    if len(tokens) == 1:
        said = _said(value)
        title = f"{isolated(tokens[0].shown)} · token {tokens[0].id} · {said}"
    else:
        parts = [
            f"{isolated(token.shown)} token {token.id} {_said(value)}"
            for token, value in zip(tokens, values, strict=True)
        ]
        title = " · ".join([isolated(clipped(run.text)), *map(clipped, parts)])
    colour = f' class="{heat(value / top)}"' if value else ""
    return f'<span{colour} title="{escape(title)}">{escape(clipped(run.text))}</span>'


def badge(verdict: str) -> Markup:
    """A verdict, with its meaning on hover."""
    meaning = escape(VERDICT_WORDS[verdict])
    return Markup(f'<span class="badge is-{verdict}" title="{meaning}">{verdict}</span>')


def write_badge(verdict: str) -> Markup:
    """A verdict on what a feature writes, with its meaning on hover."""
    look = {"both": "specific", "steering": "partial", "ablation": "weak"}.get(verdict, verdict)
    label = {"both": "steering and ablation", "none": "neither"}.get(verdict, verdict)
    meaning = escape(WRITE_VERDICT_WORDS[verdict])
    return Markup(f'<span class="badge is-{look}" title="{meaning}">{label}</span>')


def ordinal(rank: float | None) -> Markup:
    """A rank counted from 0, as 1st, 2nd, …; half ranks (medians of two) are rounded up."""
    if rank is None:
        return UNMEASURED
    place = int(rank + 1.5)
    teen = 10 < place % 100 < 14
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if not teen else "th"
    return Markup(f'<data value="{rank}">{place:,}{ending}</data>')


def fires(relation: str | None, words: Sequence[Token], href: str = "", extra: str = "") -> Markup:
    """What a feature fires on: its relation and words, with the relation's meaning on hover; a link if `href`
    is given.
    """
    if relation is None:
        return Markup('<span class="muted" title="no word and relation could be chosen">–</span>')
    tag, target = ("a", f' href="{escape(href)}"') if href else ("span", "")
    meaning = escape(RELATION_WORDS[relation])
    chips = " ".join(chip(word, "", extra) for word in words)
    return Markup(
        f'<{tag} class="{f"fires {extra}".rstrip()}"{target} title="{meaning}">'
        f'<span class="relation">{"fires " if extra else ""}{relation}</span> {chips}</{tag}>'
    )


def number(value: float | None, digits: int = 3) -> Markup:
    """A number with `digits` decimals; the full value is in the element."""
    return (
        UNMEASURED
        if value is None
        else Markup(f'<data value="{value}">{f"{value:.{digits}f}".replace("-", "−")}</data>')
    )


def count(value: int) -> Markup:
    """An integer with thousands separators."""
    return Markup(f'<data value="{value}">{value:,}</data>')


def counted(value: int, singular: str, plural: str = "") -> Markup:
    """A number with what is counted: `1 firing`, `2 firings`."""
    return count(value) + " " + escape(singular if value == 1 else plural or singular + "s")


def isolated(text: str) -> str:
    """A piece of foreign text for a page's title or an attribute, which have no elements: its direction does
    not turn the words around it.
    """
    return f"\u2068{text}\u2069" if RIGHT_TO_LEFT.search(text) else text


def inline_code(text: str) -> Markup:
    """A description whose `parts between backticks` are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def breakable(path: str) -> Markup:
    """A path that a line may break before each slash."""
    return Markup("<wbr>/").join(path.split("/"))


def percent(value: float | None) -> Markup:
    """A share as a percentage, with more digits for smaller values; scores may be negative."""
    if value is None:
        return UNMEASURED
    size, sign = abs(value), "−" if value < 0 else ""
    digits = 0 if size in (0, 1) else 1 if size >= 0.00995 else 2 if size >= 1e-3 else -floor(log10(size)) - 1
    shown = f"{sign}{size * 100:.{digits}f}" if size == 0 or size >= 1e-7 else "&lt; 0.00001"
    return Markup(f'<data value="{value}">{shown} %</data>')


def measured(measure: Measure, value: float | None) -> Markup:
    """A value of a measure, as its unit is written."""
    if measure.unit == "share":
        return percent(value)
    if value is None or measure.unit in DIGITS:
        return number(value, DIGITS.get(measure.unit, 0))
    return count(int(value))


def anchor_words(kind: str) -> Markup:
    """A kind of anchors in plain words, with its exact description on hover."""
    described, _, inside = kind.partition(", outside the top ")
    plain = ANCHOR_WORDS.get(described)
    if plain is None:
        return escape(kind)
    outside = ", without the layer's main directions" if inside else ""
    return Markup(f'<abbr title="{escape(kind)}">{plain}{outside}</abbr>')


def term(measure: Measure) -> Markup:
    """A measure's label, its meaning on hover."""
    return Markup(f'<abbr title="{escape(measure.sentence)}">{escape(measure.label)}</abbr>')


def heat(share: float) -> str:
    """The class that colours an activation by its share of the strongest shown, in HEAT_STEPS steps. Colours
    are classes because the site's policy allows no style attributes. A negative one has another hue.
    """
    below = " below" if share < 0 else ""
    return f"heat h{min(max(ceil(abs(share) * HEAT_STEPS), 1), HEAT_STEPS)}{below}"


def bar(value: float, scale: float = 1, tick: float | None = None, extra: str = "") -> Markup:
    """A bar that `scale` would fill; `tick` marks a second value on it (chance, a baseline)."""

    def percentage(part: float) -> str:
        return f"{100 * min(max(part / scale, 0), 1):.4g}%"

    filled = f'<rect width="{percentage(value)}" height="100%"/>'
    marked = "" if tick is None else f'<rect class="tick" x="{percentage(tick)}" width="3" height="100%"/>'
    classes = f"bar {extra}".rstrip()
    return Markup(f'<svg class="{classes}" aria-hidden="true">{filled}{marked}</svg>')


def stack(counts: Mapping[str, int], verdicts: Sequence[str]) -> Markup:
    """One bar of the verdicts' shares, in the order given."""
    total, start, html = sum(counts.values()) or 1, 0.0, []
    for verdict in verdicts:
        share = counts.get(verdict, 0) / total
        at, width = f"{100 * start:.4g}%", f"{100 * share:.4g}%"
        html.append(f'<rect class="is-{verdict}" x="{at}" width="{width}" height="100%"/>')
        start += share
    return Markup(f'<svg class="stack" aria-hidden="true">{"".join(html)}</svg>')


def _with_class(html: str, name: str) -> str:
    """An element with one more class, the first."""
    if html.startswith('<span class="'):
        return html.replace('class="', f'class="{name} ', 1)
    return html.replace("<span", f'<span class="{name}"', 1)


@lru_cache(REMEMBERED)
def _marked(shown: str) -> str:
    """Visible white space, in italics to differ from the same characters in a token."""
    text = str(escape(clipped(shown)))
    for mark in "␣↵⇥":
        text = text.replace(mark, f"<i>{mark}</i>")
    return text


@lru_cache(REMEMBERED)
def _silent(shown: str, token_id: int) -> str:
    text = str(escape(clipped(shown)))
    return f'<span title="{isolated(text)} · token {token_id} · silent">{text.replace("␣", " ")}</span>'


def _firing(token: Token, value: float, top: float) -> str:
    text = str(escape(clipped(token.shown)))
    title = f"{isolated(text)} · token {token.id} · {_said(value)}"
    return f'<span class="{heat(value / top)}" title="{title}">{text.replace("␣", " ")}</span>'


def _said(value: float) -> str:
    return f"{value:.4f}".replace("-", "−") if value else "silent"
