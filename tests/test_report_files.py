import json
import re

import numpy as np
import pytest
from report_runs import change_arrays, write_run

from reports.report import main


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run")


def test_missing_and_damaged_files_are_named(run_folder, refused):
    argv = [str(run_folder)]
    csv_lines = (run_folder / "predictions.csv").read_text().splitlines(keepends=True)
    for content, message in (
        ("".join(csv_lines[1:]), "predictions.csv has no column query_num, query, rank"),
        (
            "".join([*csv_lines, "8,q,1,p,0.5,1.0,1\n"]),
            "has a query of number 8, .* only 8 queries",
        ),
        (csv_lines[0] + "x" * 200_000, "predictions.csv is not a table: field larger"),
        ("".join([*csv_lines, "x,q,1\n"]), "Line 42 of .* is damaged"),
    ):
        (run_folder / "predictions.csv").write_text(content)
        assert re.search(message, refused(main, argv, 1))
    change_arrays(run_folder, correct=np.ones((8, 3), bool))
    assert r"correct in" in refused(main, argv, 1)
    change_arrays(run_folder, remove=("distances_m",))
    assert "lacks the arrays distances_m" in refused(main, argv, 1)
    (run_folder / "predictions.npz").write_bytes(b"PK")
    assert "predictions.npz is damaged" in refused(main, argv, 1)
    write_run(run_folder, num_queries=3)
    results = json.loads((run_folder / "results.json").read_text()) | {"num_queries": 4}
    (run_folder / "results.json").write_text(json.dumps(results))
    assert "files of different runs" in refused(main, argv, 1)
    (run_folder / "results.json").write_text('{"dataset": "city", "recalls": {}}')
    assert "results.json is not of an evaluation: it has no num_queries, num_database" in refused(
        main, argv, 1
    )
    (run_folder / "results.json").write_text("{")
    assert "results.json is not JSON" in refused(main, argv, 1)
    assert not (run_folder / "report.html").exists()
    for file in ("predictions.csv", "predictions.npz", "results.json"):
        write_run(run_folder, num_queries=3)
        (run_folder / file).unlink()
        assert f"There is no {run_folder / file}" in refused(main, argv, 1)


@pytest.mark.parametrize(
    ("array", "shape"),
    [("query_years", (7,)), ("query_headings_deg", (8, 2)), ("places_m", (64, 3))],
)
def test_arrays_of_wrong_shape_are_named(tmp_path, refused, array, shape):
    folder = write_run(tmp_path)
    change_arrays(folder, **{array: np.zeros(shape)})
    text = refused(main, [str(folder)], 1)
    assert f"{array} in {folder / 'predictions.npz'} has the shape {shape}" in text
