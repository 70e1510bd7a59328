import json
import re

import numpy as np
import pytest
from conftest import name
from report_runs import change_arrays, write_run

from reports.charts import make_charts
from reports.report import main
from reports.run_files import read_captures, read_headings, read_run_arrays, read_years


def test_file_names_tell_years_and_headings():
    times = ("2015", "201306", "20150101_101010", "", "20x1", "2013")
    paths = [f"/a/{name(0, 0, 10.5 * n, timestamp=time)}" for n, time in enumerate(times)]
    paths += ["/x@y/1.jpg", "", "/a/@5.00@6.00@.jpg", "/a/@x@y@.jpg"]
    assert read_years(paths).tolist() == [2015, 2013, 2015, 0, 0, 2013, 0, 0, 0, 0]
    headings_deg = [0, 10.5, 21, 31.5, 42, 52.5, *[np.nan] * 4]
    np.testing.assert_array_equal(read_headings(paths), headings_deg)


def test_arrays_come_before_file_names():
    paths = [name(0, 0, 90.0, timestamp="2015")]
    captures = read_captures({"query_years": np.array([2020], np.int16)}, paths, [""])
    assert captures.query_years.tolist() == [2020], "the array"
    assert captures.query_headings_deg.tolist() == [90.0], "the name"
    assert np.isnan(captures.first_prediction_headings_deg).all()


def test_charts_are_drawn_from_arrays(tmp_path):
    folder = write_run(tmp_path)
    change_arrays(
        folder,
        query_years=np.array([1999] * 4 + [2007] * 3 + [0], np.int16),
        query_headings_deg=np.full(8, 350, np.float32),
        first_prediction_headings_deg=np.array([0, 10, 80, 170, *[np.nan] * 4], np.float32),
    )
    charts = {chart.name: chart for chart in make_charts(read_run_arrays(folder))}
    assert "1999: 50.0 of 4 queries, 2007: 66.7 of 3" in charts["years"].description
    assert "The year is known for 7 queries." in charts["years"].caption
    headings = "0–15°: 100.0 of 1 queries, 15–30°: 0.0 of 1 queries, 60–90°: 100.0 of 1"
    assert headings in charts["headings"].description
    assert "Both headings are known for 4 queries." in charts["headings"].caption


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
            "has the query index 8, .* only 8 queries",
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
