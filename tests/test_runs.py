import csv
import json
from pathlib import Path

import pytest
from comparison_runs import make_run, make_two_runs

from evaluation.results import PREDICTIONS_COLUMNS
from reports.compare import main
from reports.report import main as report_main
from reports.runs import find_sets, iterate_queries


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("results.json", "{", "results.json is not JSON"),
        ("results.json", "[1]", "results.json is not of an evaluation: it has no dataset"),
        ("results.json", '{"dataset": "x"}', "it has no num_queries, num_database, recalls"),
        ("predictions.csv", "", "predictions.csv has no column query_num, query, rank"),
        ("predictions.csv", "rank,query\n1,2\n", "predictions.csv has no column query_num, pred"),
        ("predictions.csv", "{header}0,q,x,d,0.5,1,1\n", "Line 2 of {file} is damaged"),
        ("predictions.csv", "{header}0,q,0,d,0.5,1,1\n", "Line 2 of {file} is damaged"),
        ("predictions.csv", "{header}0,q,1,d,0.5,1\n", "Line 2 of {file} is damaged"),
        ("predictions.csv", "{header}0,q\n", "Line 2 of {file} is damaged"),
        (
            "predictions.csv",
            "{header}0,q,1,d,.5,1,1\n1,q,1,d,.5,1,x\n",
            "Line 3 of {file} is damaged",
        ),
        ("predictions.csv", "{header}0,q,1,d,.5,far,1\n", "Line 2 of {file} is damaged"),
        ("predictions.csv", "{header}" + 200_000 * "x", "predictions.csv is not a table: field"),
    ],
)
def test_broken_files_are_named(tmp_path, refused, file, content, text):
    two_runs = make_two_runs(tmp_path)
    header = ",".join(PREDICTIONS_COLUMNS) + "\n"
    (tmp_path / "after" / file).write_text(content.replace("{header}", header))
    out = tmp_path / "out"
    text = text.replace("{file}", str(tmp_path / "after" / file))
    assert text in refused(main, [*two_runs, f"--out={out}"], 1)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"recalls": None}, "recalls is not a table of R@N"),
        ({"recalls": {"mAP": 50.0}}, "'mAP' is no recall, such as R@1"),
        ({"recalls": {"R@0": 50.0}}, "'R@0' is no recall"),
        ({"recalls": {"R@1": "50"}}, "R@1 is not a percentage"),
        ({"recalls": {"R@1": float("nan")}}, "R@1 is not a percentage"),
        ({"dataset": None}, "dataset is not a text"),
        ({"num_queries": 40.5}, "num_queries is not a whole number"),
        ({"num_queries": True}, "num_queries is not a whole number"),
        ({"num_database": 0}, "there are no queries or no database images"),
        ({"threshold_m": "25"}, "threshold_m is not a number or null"),
        ({"notes": None}, "notes is not a list of sentences"),
        ({"notes": [1]}, "notes is not a list of sentences"),
        ({"image_sizes": {"database": 3}}, "image_sizes are not by database and queries"),
        ({"queries_folder": None}, "queries_folder is not a text"),
    ],
)
def test_damaged_results_are_named(tmp_path, refused, changes, text):
    make_two_runs(tmp_path)
    file = tmp_path / "after" / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    for command in (main, report_main):
        assert f"{file} is damaged: {text}" in refused(command, [str(file.parent)], 1)


def test_queries_are_read_as_the_csv_module_reads_them(tmp_path):
    make_two_runs(tmp_path)
    file = tmp_path / "after" / "predictions.csv"
    with open(file, newline="") as text:
        expected = list(csv.DictReader(text))
    queries = list(iterate_queries(file))
    assert len(queries) == 40 and [row for rows in queries for row in rows] == expected
    assert all(len({row["query_num"] for row in rows}) == 1 for rows in queries)


def test_sets_go_by_what_results_call_them(tmp_path):
    for folder, dataset in (("a_b", "a/b"), ("c", "c")):
        make_run(tmp_path / "run" / folder, {0: 1}, tmp_path, dataset=dataset)
    one = Path(make_run(tmp_path / "one", {0: 1}, tmp_path, dataset="a/b"))
    assert find_sets(tmp_path / "run") == {
        "a/b": tmp_path / "run" / "a_b",
        "c": tmp_path / "run" / "c",
    }
    assert find_sets(one) == {"a/b": one}
    make_run(tmp_path / "run" / "again", {0: 1}, tmp_path, dataset="c")
    with pytest.raises(ValueError, match="again and .*c are both on c: give these folders"):
        find_sets(tmp_path / "run")
