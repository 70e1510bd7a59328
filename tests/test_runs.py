import pytest
from comparison_runs import make_two_runs

from evaluation.results import PREDICTIONS_COLUMNS
from reports.compare import main


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("results.json", "{", "results.json is not JSON"),
        ("results.json", "[1]", "results.json is not of an evaluation: it has no dataset"),
        ("results.json", '{"dataset": "x"}', "it has no num_queries, num_database, recalls"),
        ("predictions.csv", "", "predictions.csv has no column query_num, query, rank"),
        ("predictions.csv", "rank,query\n1,2\n", "predictions.csv has no column query_num, pred"),
        ("predictions.csv", "{header}0,q,x,d,0.5,1,1\n", "has a row of q that is broken"),
        ("predictions.csv", "{header}0,q,1,d,0.5,1\n", "has a row of q that is broken"),
        ("predictions.csv", "{header}0,q\n", "has a row of q that is broken"),
        ("predictions.csv", "{header}0,q,1,d,.5,1,1\n1,q,1,d,.5,1,0\n", "has the query q twice"),
        ("predictions.csv", "{header}" + 200_000 * "x", "predictions.csv is not a table: field"),
    ],
)
def test_broken_files_are_named(tmp_path, refused, file, content, text):
    two_runs = make_two_runs(tmp_path)
    header = ",".join(PREDICTIONS_COLUMNS) + "\n"
    (tmp_path / "after" / file).write_text(content.replace("{header}", header))
    out = tmp_path / "out"
    assert text in refused(main, [*two_runs, f"--out={out}"], 1)
    assert not out.exists()
