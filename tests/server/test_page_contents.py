"""Pages show every figure of their records, or that it was not measured."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from store import BuildWriter
from tests.store import synthetic

LIVE, BETTER, BOTH_BETTER = "/tiny/1-vasae/6", "/tiny/1-vasae/5", "/tiny/1-vasae/35"


def words(html: str) -> str:
    """A page as it reads: tags out, entities in, white space single."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def page(browser: TestClient, address: str) -> tuple[str, Any]:
    """A page as it reads, and its record."""
    return words(browser.get(address).text), browser.get(
        f"{address}.json" if address != "/" else "/index.json"
    ).json()


def values(html: str) -> set[float]:
    """Every number that stands on a page with its full precision behind it."""
    return {float(value) for value in re.findall(r'<data value="([^"]+)"', html)}


def test_a_feature_shows_the_moments_of_its_activation(browser: TestClient) -> None:
    html, moments = browser.get(LIVE).text, browser.get(f"{LIVE}.json").json()["feature"]["moments"]
    assert set(moments.values()) - {moments["mean"]} <= values(html)
    assert "The shape of the distribution is not known" in words(browser.get("/tiny/1-vasae/0").text), (
        "one firing has no moments"
    )


def test_a_feature_shows_where_in_a_passage_it_fires(browser: TestClient) -> None:
    html, positions = browser.get(LIVE).text, browser.get(f"{LIVE}.json").json()["feature"]["positions"]
    titles = re.findall(r"<title>positions (\d+) to (\d+): fires on (\d+) of (\d+)", html)
    bins = zip(positions["edges"], positions["edges"][1:], positions["counts"], positions["totals"])
    assert [tuple(map(int, title)) for title in titles] == [
        (a, b - 1, n, total) for a, b, n, total in bins if n
    ]


def test_ablation_evidence_is_shown_with_chance_or_as_not_measured(
    browser: TestClient,
) -> None:
    html, record = browser.get(LIVE).text, browser.get(f"{LIVE}.json").json()["feature"]["evidence"]
    shares = [
        record["causal"]["top1"],
        record["causal"]["top5"],
        record["input_score"],
        record["output_score"],
    ]
    assert {share[key] for share in shares for key in ("value", "null")} <= values(html)
    assert f"In {record['causal']['n_contexts']} contexts, feature removed" in words(html)
    assert "indexed without the ablation pass" in words(browser.get(f"/{synthetic.UNTESTED}/0-vasae/6").text)
    assert "indexed without the ablation pass" in words(browser.get(f"/{synthetic.UNTESTED}/0-vasae").text)


def test_the_verdict_comes_with_the_shares_that_decide_it(browser: TestClient) -> None:
    text, record = page(browser, LIVE)
    fires = record["feature"]["fires"]
    share = f"{fires['share'] * 100:.1f} %"
    word = fires["words"][0]["shown"]
    assert f"Fires {fires['relation']} {word} : {share} of firings" in text.replace("␣ ", "␣")
    shown = values(browser.get(LIVE).text)
    assert {fires[name] for name in ("low", "high", "chance", "judged_firings")} <= shown
    assert "Too few firings to tell" in words(browser.get("/tiny/1-vasae/4").text)


def test_a_better_name_is_called_one(browser: TestClient) -> None:
    text, record = page(browser, BOTH_BETTER)
    better = record["feature"]["afterwards"]
    assert better["beats_name"] and better["logit_beats_name"]
    assert f"{better['lift']['shown']} has a larger share of its firings" in text.replace("␣ ", "␣")
    assert f"{better['logit']['shown']} comes next after a larger share of its firings" in text.replace(
        "␣ ", "␣"
    )
    assert better["logit_share"] in values(browser.get(BOTH_BETTER).text)
    assert "comes next after a larger share" not in words(browser.get(BETTER).text)
    assert "Neither is better than the nearest anchor" in words(browser.get(LIVE).text)


def test_related_features_are_listed_by_direction_and_by_firing_together(browser: TestClient) -> None:
    html, feature = browser.get(LIVE).text, browser.get(f"{LIVE}.json").json()["feature"]
    relatives = [
        ref
        for key in ("previous_layer", "next_layer", "previous_coactive", "next_coactive")
        for ref in feature[key]
    ]
    assert len(relatives) == 20 and all(f'href="/{ref["id"]}"' in html for ref in relatives)
    assert words(html).count("Fires at the same time") == 2
    assert "The index has no dictionary of this set at that layer" in words(
        browser.get("/tiny/0-vasae/6").text
    )


def test_a_dead_feature_is_not_said_to_lack_neighbouring_dictionaries(browser: TestClient) -> None:
    text, record = page(browser, "/tiny/1-vasae/9")
    assert (record["previous_source"], record["next_source"]) == ("0-vasae", "2-vasae")
    assert "has no dictionary of this set" not in text


def test_one_is_written_as_one(browser: TestClient) -> None:
    assert not re.search(
        r"\b1 (firings|times|contexts|passages|features)\b", words(browser.get("/tiny/1-vasae/0").text)
    )


def test_a_shared_name_and_its_family_are_counted(browser: TestClient) -> None:
    text, record = page(browser, "/tiny/1-vasae/1")
    feature = record["feature"]
    assert feature["n_same_family"] > feature["n_same_name"]
    assert f"{feature['n_same_family']} one of its spelling variants" in text


def test_a_foreign_dictionary_names_its_library_and_that_its_features_were_named_afterwards(
    browser: TestClient,
) -> None:
    for address in ("/tiny/1-plain", "/tiny/1-plain/6"):
        text = words(browser.get(address).text)
        assert "SAELens" in text and "topk" in text and "afterwards" in text, address
    assert "by SAELens" not in words(browser.get("/tiny/1-vasae").text)


def test_imported_dashboards_without_weights_show_no_direction(tmp_path: Path) -> None:
    def without(table: pa.Table, **values: Any) -> pa.Table:
        for name, value in values.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(
                place, table.schema.field(name), pa.array([value] * len(table), table.schema.field(name).type)
            )
        return table

    entry = synthetic.Dictionary("m", 0)
    with BuildWriter(tmp_path) as builder:
        builder.add("token", synthetic.token_table("m"))
        builder.add("passage", synthetic.passage_table(range(4), corpus="nothing", length=64))
        dictionary = synthetic.dictionary_table(0, entry, links=(False, False))
        builder.add(
            "dictionary",
            without(
                dictionary,
                origin="neuronpedia",
                k=0,
                anchor_kind="imported: peak token",
                position_edges=[],
                position_totals=[],
            ),
        )
        builder.add("layer_summary", without(synthetic.summary_table(0, entry), random_cosine=0.0))
        features = synthetic.feature_table(0, entry, seed=0, links=(False, False))
        builder.add(
            "feature",
            without(
                features, cosine=0.0, positions=[], assigned_token=None, name_rank=None, pos_tokens=[-1] * 10
            ),
        )
        builder.add("context", synthetic.context_table(0, entry, passages=range(4), length=64))
        builder.publish()
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        feature, whole = client.get("/m/0-vasae/6").text, words(client.get("/m/0-vasae").text)
    assert "The direction is not known" in words(feature) and "Not recorded." in words(feature)
    assert "Only over the imported contexts" in words(feature) and "/tokens/m/-1" not in feature
    assert "without names and directions" in whole and "above a threshold" not in whole


@pytest.mark.parametrize(("explained", "warned"), [(0.8, False), (0.11, True), (None, False)])
def test_a_dictionary_that_hardly_explains_the_text_carries_a_warning_on_its_pages(
    explained: float | None, warned: bool, tmp_path: Path
) -> None:
    entry = synthetic.Dictionary("m", 0)
    with BuildWriter(tmp_path) as builder:
        builder.add("token", synthetic.token_table("m"))
        builder.add("passage", synthetic.passage_table(range(4), corpus="text", length=64))
        builder.add("dictionary", synthetic.dictionary_table(0, entry, links=(False, False)))
        summary = synthetic.summary_table(0, entry)
        place = summary.schema.get_field_index("fve_text")
        column = pa.array([explained], summary.schema.types[place])
        builder.add("layer_summary", summary.set_column(place, summary.schema.names[place], column))
        builder.add("feature", synthetic.feature_table(0, entry, seed=0, links=(False, False)))
        builder.add("context", synthetic.context_table(0, entry, passages=range(4), length=64))
        builder.publish()
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        record = client.get("/m/0-vasae.json").json()["summary"]
        pages = [words(client.get(address).text) for address in ("/m/0-vasae", "/m/0-vasae/6")]
    assert record["fve_text"] == (None if explained is None else pytest.approx(explained))
    assert ("another layer than the one it was trained at" in record["warning"]) == warned
    assert [unescape(record["warning"]) in page and "Read with care" in page for page in pages] == [
        warned
    ] * 2


def test_the_dictionary_page_shows_hubs_verdicts_in_words_and_ablation(browser: TestClient) -> None:
    html, record = browser.get("/tiny/1-vasae").text, browser.get("/tiny/1-vasae.json").json()
    for hub in record["hub_tokens"][:10]:
        assert f'href="/tokens/tiny/{hub["token"]["id"]}"' in html and hub["n_near"] in values(html)
    assert all(
        verdict in words(html)
        for verdict in ("At least half of its firings", "or not five times as many", "read the contexts")
    )
    assert {
        record["summary"][key] for key in ("l0", "half_live", "ablation_top1", "ablation_top5")
    } <= values(html)
    assert "median at" in words(html)


def test_home_has_a_plot_for_each_measure_and_groups_dictionaries_by_layer(browser: TestClient) -> None:
    html, record = browser.get("/").text, browser.get("/index.json").json()
    drawn = re.findall(r'data-chart="tiny-(\w+)"', html)
    assert drawn == [
        *("holds_live", "holds_firing", "specific_live", "finds", "writes", "fve", "delta_ce"),
        *("aligned_live", "aligned_firing", "aligned_live_embedding", "aligned_firing_embedding"),
        "random_cosine",
    ]
    assert 'data-chart="other-' not in html, "one layer is no line"
    for layer in (layer for model in record["models"] for layer in model["layers"]):
        assert f'href="/{layer["model"]}/{layer["source"]}"' in html
    assert '<th scope="rowgroup" class="num" rowspan="2">1</th>' in html, (
        "two dictionaries of layer 1 stand together"
    )
    assert "by SAELens" in words(html)
    assert "tokens of nothing.txt." in words(html)
    assert "tokens of nothing.txt." in words(browser.get("/tiny/1-vasae").text)


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        ({"aligned_live": 1.0}, "100 % by construction: 0-vasae, 1-vasae."),
        ({"dense_share": 0.25, "lookup_share": 0.5}, "75.0 % bypass"),
        ({"lookup_share": 0.5}, "0-vasae, 1-vasae: a look-up holds what the current token alone explains"),
    ],
)
def test_home_says_what_is_so_by_construction_and_what_bypasses_the_features(
    tmp_path: Path, summary: dict[str, float], says: str
) -> None:
    layers = [synthetic.Dictionary("m", layer) for layer in range(2)]
    with BuildWriter(Settings(index=tmp_path)) as builder:
        synthetic.add(builder, layers, summary=summary)
        builder.publish()
    with TestClient(create_app(Settings(index=tmp_path)), headers={"accept": "text/html"}) as client:
        text = words(client.get("/").text)
        assert says in text.replace(" .", ".")
        assert ("by construction" in text) == ("aligned_live" in summary)
        assert text.count("bypass") == 1 + 4 * ("lookup_share" in summary)


def test_a_token_that_is_no_name_is_marked_with_its_count(browser: TestClient) -> None:
    text, record = page(browser, f"/tokens/tiny/{synthetic.SILENT}")
    assert "Not a name." in text and f"occurs {record['count']:,} ×" in text
    assert text.count("nothing is named after it") == 4


@pytest.mark.parametrize(
    "address",
    ["/tiny/1-vasae/6", "/tiny/1-vasae/9", "/tiny/1-plain/6", "/other/0-vasae/6", "/tiny/1-plain", "/"],
)
def test_no_page_shows_none_nan_or_undefined(browser: TestClient, address: str) -> None:
    text = words(browser.get(address).text)
    assert not re.search(r"\b(None|nan|Undefined)\b", text)


def test_every_command_on_a_page_is_one_of_the_command_line(browser: TestClient) -> None:
    from typer.main import get_command

    from cli import app

    lines = [
        unescape(line)
        for address in ("/", "/tiny/1-vasae")
        for line in re.findall(r"<code[^>]*>(lexiscope .*?)</code>", browser.get(address).text)
    ]
    assert len(lines) == 7
    for line in lines:
        found: Any = get_command(app)
        words_left = line.split()[1:]
        while words_left and hasattr(found, "commands"):
            found = found.commands[words_left.pop(0)]
        options = {name for parameter in found.params for name in parameter.opts}
        assert {word for word in words_left if word.startswith("--")} <= options, line


def test_a_row_of_a_look_up_leads_to_its_tokens_page(browser: TestClient) -> None:
    found = browser.get("/tiny/1-vasae/token-3", follow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (302, "/tokens/tiny/3#rows")
    html = browser.get("/tokens/tiny/3").text
    assert 'id="rows"' in html and "feature=tiny%2F1-vasae%2Ftoken-3" in html
    assert 'title="cosine 0.75"' in html
    assert browser.get("/tiny/1-vasae/token-4", follow_redirects=False).status_code == 404
    assert 'id="rows"' not in browser.get("/tokens/tiny/4").text


def test_the_title_says_what_confirmed_that_a_feature_writes_its_tokens(browser: TestClient) -> None:
    said = {
        "both": "steering and ablation Writes",
        "steering": "steering Writes",
        "ablation": "ablation Writes",
        "none": "neither Points to",
        "untested": "untested Points to",
    }
    seen = set()
    for index in range(40):
        text, record = page(browser, f"/tiny/1-vasae/{index}")
        verdict, title = record["feature"]["write_verdict"], text[: text.index(" Contexts ")]
        if record["feature"]["writing"] is None or verdict == "dead":
            assert "Points to" not in title and "Writes" not in title
            continue
        seen.add(verdict)
        assert said[verdict] in title
        assert ("one of them is among the five that fall most" in title) == (verdict in ("both", "ablation"))
        assert ("under controls by" in title) == (verdict in ("both", "steering"))
    assert seen == set(said)


def test_an_anchor_of_the_word_that_a_feature_fires_on_is_not_called_another(browser: TestClient) -> None:
    seen = set()
    for index in range(60):
        text, record = page(browser, f"/tiny/1-vasae/{index}")
        feature = record["feature"]
        if feature["verdict"] not in ("specific", "partial") or not feature["evidence"]:
            continue
        shares = [feature["evidence"][name]["value"] for name in ("reads_family", "predicts")]
        another = "not what it fires" in text
        assert not (another and max(shares) >= 0.1), index
        seen.add(another)
    assert False in seen
