"""Tokens are escaped, distinguishable, and aligned in their contexts."""

import re
from html import unescape

from lexiscope.anchor_sets import DESCRIPTIONS
from lexiscope.records import Context, Token
from lexiscope.tokens import shown
from server import markup


def line(kind: str = "top") -> Context:
    tokens = [
        Token(id=1, shown="␣a"),
        Token(id=2, shown="<b>"),
        Token(id=3, shown="↵"),
        Token(id=1, shown="␣a"),
    ]
    return Context.model_validate(
        {
            "kind": kind,
            "passage": 0,
            "position": 1,
            "value": 3.0,
            "tokens": tokens,
            "values": [0, 0 if kind == "near_miss" else 3, 1.5, 0],
        }
    )


def test_tokens_are_escaped() -> None:
    chip = markup.chip(Token(id=5, shown='"><script>', raw="22"), '/x"y')
    assert "<script>" not in chip and 'href="/x&#34;y"' in chip
    assert unescape(re.sub(r"<[^>]+>", "", chip)) == '"><script>'
    assert "<b>" not in re.sub(r'title="[^"]*"', "", markup.context(line(), 3.0)).replace(
        '<span class="before">', ""
    )


def test_white_space_marks_differ_from_the_same_characters_and_the_id_is_on_hover() -> None:
    chip = markup.chip(Token(id=7, shown="␣a", raw="2061"))
    assert "<i>␣</i>a" in chip and 'title="␣a · token 7 · bytes 2061"' in chip and chip.startswith("<span")


def test_a_token_outside_the_vocabulary_is_not_a_link() -> None:
    assert 'href="/tokens/m/7"' in markup.token_link(Token(id=7, shown="a"), "m")
    assert "href" not in markup.token_link(Token(id=-1, shown="⟨unknown⟩"), "m")


def test_a_context_is_split_before_the_position_that_selected_it() -> None:
    html = markup.context(line(), 3.0)
    before, after = html.split('<span class="after">')
    assert unescape(re.sub(r"<[^>]+>", "", before)) == " a"
    assert unescape(re.sub(r"<[^>]+>", "", after)) == "<b>↵ a"
    assert after.startswith('<span class="fired heat h20"') and '"heat h10"' in after


def test_a_silent_token_is_marked_and_a_near_miss_is_not_a_firing() -> None:
    html = markup.context(line("near_miss"), 3.0)
    assert html.count("silent") == 3 and 'class="missed"' in html and 'class="fired"' not in html


def test_a_negative_activation_has_a_colour_of_its_own_and_its_sign_on_hover() -> None:
    tokens = [Token(id=1, shown="a"), Token(id=2, shown="b")]
    html = markup.running_text(tokens, [-1.5, 3.0], 3.0)
    assert "token 1 · −1.5000" in html and "token 2 · 3.0000" in html
    assert '<span class="heat h10 below"' in html and '<span class="heat h20"' in html


def test_percentages_have_significant_digits_and_the_full_value() -> None:
    shown = [
        re.sub(r"<[^>]+>", "", markup.percent(value))
        for value in (0.0, 1.0, 0.41234, 0.0032, 0.0099999, 0.0000123, 0.00005, 1e-9, -0.25, None)
    ]
    assert shown == [
        "0 %",
        "100 %",
        "41.2 %",
        "0.32 %",
        "1.0 %",
        "0.0012 %",
        "0.0050 %",
        "&lt; 0.00001 %",
        "−25.0 %",
        "–",
    ]
    assert (
        'value="0.41234"' in markup.percent(0.41234)
        and 'value="1234"' in markup.count(1234)
        and "1,234" in markup.count(1234)
    )


def test_a_bar_stays_within_its_frame() -> None:
    full = markup.bar(1.5, 1, -0.2)
    assert 'width="100%"' in full and 'class="tick" x="0%"' in full and "tick" not in markup.bar(0.5)


def test_the_parts_of_a_stack_follow_each_other_and_fill_it() -> None:
    parts = re.findall(
        r'is-(\w+)" x="([\d.]+)%" width="([\d.]+)%"', markup.stack({"dead": 1, "weak": 3}, ["weak", "dead"])
    )
    assert parts == [("weak", "0", "75"), ("dead", "75", "25")]


def test_an_activation_has_one_of_twenty_colours() -> None:
    assert [markup.heat(share) for share in (0.001, 0.5, 0.51, 1.2)] == [
        "heat h1",
        "heat h10",
        "heat h11",
        "heat h20",
    ]


def tokens_of(text: str, sizes: list[int]) -> list[Token]:
    """The text's bytes cut into tokens of so many bytes."""
    raw, tokens = text.encode(), []
    for number, size in enumerate(sizes):
        part, raw = raw[:size], raw[size:]
        tokens.append(Token(id=number, shown=shown(part), raw=part.hex()))
    assert not raw
    return tokens


def in_context(tokens: list[Token], position: int, values: list[float]) -> str:
    kept = {"kind": "top", "passage": 0, "position": position, "value": max(values)}
    return str(markup.context(Context.model_validate(kept | {"tokens": tokens, "values": values}), 4.0))


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_the_bytes_of_a_character_are_shown_as_the_character_and_as_hex_on_hover() -> None:
    tokens = tokens_of("a女の 🎉", [1, 2, 2, 2, 1, 2, 2])
    html = in_context(tokens, 2, [0, 1.0, 4.0, 0, 0, 0, 0])
    assert text_of(html) == "a女の 🎉"
    before, after = html.split('<span class="after">')
    assert text_of(before) == "a"
    fired = after[: after.index("</span>")]
    assert 'class="fired heat h20"' in fired
    assert (
        'title="女の · ⟨E5⟩⟨A5⟩ token 1 1.0000 · ⟨B3⟩⟨E3⟩ token 2 4.0000 · ⟨81⟩⟨AE⟩ token 3 silent'
        in unescape(fired)
    )


def test_each_token_is_in_one_span_and_bytes_that_are_no_character_stay_hex() -> None:
    tokens = tokens_of("女", [2, 1])
    assert text_of(in_context([tokens[0], Token(id=9, shown="x", raw="78"), tokens[1]], 1, [0, 1.0, 0])) == (
        "⟨E5⟩⟨A5⟩x⟨B3⟩"
    )


def test_emoji_that_are_joined_are_read_as_one() -> None:
    family = "👩\u200d👧!"
    html = in_context(tokens_of(family, [2, 2, 3, 4, 1]), 4, [0, 0, 0, 0, 1.0])
    assert text_of(html) == family and "👩\u200d👧</span>" in html


def test_a_line_of_hebrew_or_arabic_runs_from_right_to_left() -> None:
    for text, rtl in (
        ("ילדה קטנה", True),
        ("سلام", True),
        ("the cat", False),
        ("a ה b c", False),
        ("女", False),
    ):
        raw = text.encode()
        tokens = tokens_of(text, [1] * len(raw))
        assert bool(markup.direction(tokens)) == rtl, text
        assert text_of(in_context(tokens, 0, [1.0] + [0.0] * (len(raw) - 1))) == text


def test_an_imported_token_without_bytes_is_shown_as_it_is() -> None:
    tokens = [Token(id=-1, shown="⟨unknown⟩"), Token(id=3, shown="␣a", raw="2061")]
    assert text_of(in_context(tokens, 1, [0, 1.0])) == "⟨unknown⟩ a"


def test_every_kind_of_anchors_has_plain_words() -> None:
    plain = {kind for kind in DESCRIPTIONS.values() if not kind.startswith("control: ")}
    assert plain == set(markup.ANCHOR_WORDS)
    said = str(markup.anchor_words(DESCRIPTIONS["current"] + ", outside the top 16 principal directions"))
    assert ">the mean state on each token, without the layer's main directions<" in said
    assert markup.anchor_words("<i>") == "&lt;i&gt;"
