"""The tables of measures are complete and well formed, and records and docs hold what they say."""

from pathlib import Path

import pytest

from lexiscope.measures import DERIVED, DICTIONARY, FEATURE, RUN, TRAINING, Measure, as_text, placed
from lexiscope.measures.document import with_tables
from lexiscope.records import FeatureRecord, LayerSummary, NameEvidence, measures_of

TABLES = {"feature": FEATURE, "dictionary": DICTIONARY, "run": RUN, "training": TRAINING}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_measure_has_a_label_and_a_definition_without_a_final_stop(table: dict[str, Measure]) -> None:
    for name, measure in table.items():
        assert measure.name == name and measure.label and measure.meaning, name
        assert not measure.meaning.endswith((".", " ")) and not measure.meaning[0].isspace(), name
    labels = [measure.label for measure in table.values()]
    assert len(set(labels)) == len(labels), "two measures of one table under one label"


def test_a_name_is_a_relation_to_words_and_the_nearest_anchor_is_called_so() -> None:
    for name, measure in FEATURE.items():
        said = f"{measure.label} {measure.meaning}"
        assert "name" not in said.replace("_name", "") or name.startswith("relation_"), name


def test_a_record_field_is_described_by_the_measure_it_holds() -> None:
    schema = NameEvidence.model_json_schema()["properties"]
    assert schema["recall"]["description"] == FEATURE["recall"].meaning
    assert schema["recall"]["x-unit"] == "share"
    assert measures_of(NameEvidence)["reads_here"] is FEATURE["reads_here"]
    assert "verdict_words" not in measures_of(FeatureRecord)


def test_a_dictionary_s_line_holds_every_dictionary_measure_under_its_own_name() -> None:
    assert {name: measure.name for name, measure in measures_of(LayerSummary).items()} == {
        name: name for name in (*DICTIONARY, *DERIVED)
    }


def test_values_read_as_their_unit() -> None:
    assert as_text(DICTIONARY["coverage"], 0.1234) == "12.3 %"
    assert as_text(DICTIONARY["l0"], 31.96) == "32.0"
    assert as_text(DICTIONARY["n_live"], 12345) == "12,345"
    assert as_text(DICTIONARY["fve"], None) == "–"


def test_places_keep_the_order_of_the_table() -> None:
    assert [measure.name for measure in placed(FEATURE, "ablation")] == ["ablation_top1", "ablation_top5"]


def test_the_tables_of_the_method_page_are_those_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python -m lexiscope.measures.document docs/method.md"


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- measures -->"):
        with_tables("# No tables here\n")
