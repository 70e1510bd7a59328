import numpy as np
from conftest import name
from report_runs import change_arrays, write_run

from reports.captures import read_captures, read_headings, read_years
from reports.report_charts import make_charts
from reports.run_files import read_run_arrays


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
