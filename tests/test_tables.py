import csv

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasets.ground_truth import read_positives
from datasets.image_lists import list_images
from datasets.tables import TABLE, escape_cell, parse_json, read_json, unescape_cell, write_table
from reports.runs import iterate_queries

FORMULAS = ("=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=1,2")
HARMLESS = ("", "a=b", "-", "@", "-1.5", "+3", "-1e-5", "-inf", " =1", "plain", "'quoted'")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe_and_loses_it(text):
    assert escape_cell(text) == "'" + text
    assert unescape_cell("'" + text) == text


@pytest.mark.parametrize("text", [*HARMLESS, -1.5, None, 3])
def test_numbers_and_other_texts_stay(text):
    assert escape_cell(text) == text


@settings(database=None, derandomize=True)
@given(st.text("='-1@+\ta", max_size=5))
@example("'=1")
@example("''@a")
@example("'-1")
def test_every_text_comes_back(text):
    assert unescape_cell(escape_cell(text)) == text


COLUMNS = ("query_num", "query", "rank", "prediction", "distance_m", "correct")


def test_a_table_of_predictions_has_no_formula_and_is_read_with_the_true_names(tmp_path):
    file = tmp_path / "predictions.csv"
    write_table(file, COLUMNS, [(0, "=a.jpg", 1, "@b\udcff.jpg", "-3.25", 1)])
    with open(file, **TABLE) as text:
        assert list(csv.reader(text))[1] == ["0", "'=a.jpg", "1", "'@b\udcff.jpg", "-3.25", "1"]
    [[row]] = iterate_queries(file)
    assert (row["query"], row["prediction"], row["distance_m"]) == (
        "=a.jpg",
        "@b\udcff.jpg",
        "-3.25",
    )


def test_positives_may_be_written_as_predictions_are(tmp_path):
    for role, names in (("database", ("@a.jpg", "'@a.jpg", "@b.jpg")), ("queries", ("=q.jpg",))):
        (tmp_path / role).mkdir()
        for name in names:
            (tmp_path / role / name).touch()
    database, queries = (list_images(tmp_path / role) for role in ("database", "queries"))
    (tmp_path / "positives.csv").write_text("query,database\n'=q.jpg,'@a.jpg\n=q.jpg,'@b.jpg\n")
    [positives] = read_positives(tmp_path / "positives.csv", database, queries).positives_per_query
    assert [database.name(index) for index in positives] == ["'@a.jpg", "@b.jpg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "is damaged: it is nested too deeply"),
        ('{"a":' * 100_000, "is damaged: it is nested too deeply"),
        ("{", "is not JSON: Expecting"),
        (b"\xff\xfe{", "is not JSON: "),
        ("[1]", "is damaged: it holds a list, not an object"),
        ("NaN", "is damaged: it holds a number, not an object"),
        ("null", "is damaged: it holds null, not an object"),
        ("1" * 5000, "is not JSON: Exceeds the limit"),
    ],
)
def test_other_json_is_refused_by_a_sentence(tmp_path, text, reason):
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"a\.json " + reason) as error:
        read_json(file)
    assert "\n" not in str(error.value)


def test_json_of_the_right_kind_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"]}
    assert parse_json("[1]", "a text", list) == [1]
