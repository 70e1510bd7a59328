import numpy as np
import pytest

from reports import curves
from reports.curves import Groups


@pytest.fixture
def distances_m():
    """Return distances of 40 queries with 6 predictions, some unknown, some in other zones."""
    rng = np.random.default_rng(0)
    distances_m = (10 ** rng.uniform(-0.5, 3.5, (40, 6))).astype(np.float32)
    distances_m[3] = np.nan
    distances_m[4, 0] = np.nan
    distances_m[5, :3] = np.inf
    distances_m[6, 0] = 25  # thresholds and edges are inclusive
    distances_m[7, 0] = 1000
    return distances_m


def test_recall_curve_counts_queries_found_so_far():
    correct = np.random.default_rng(0).random((31, 9)) < 0.15
    expected = []
    for n in range(1, 10):
        found = sum(any(row[rank] for rank in range(n)) for row in correct)
        expected.append(100 * found / 31)
    np.testing.assert_allclose(curves.recall_curve(correct), expected)


def test_recalls_by_threshold_count_each_query_once(distances_m):
    thresholds_m = (1, 5, 25, 100, 1000)
    recalls = curves.recalls_by_threshold(distances_m, (1, 3, 6), thresholds_m)
    assert recalls.shape == (3, 5)
    for row, n in zip(recalls, (1, 3, 6), strict=True):
        for recall, threshold_m in zip(row, thresholds_m, strict=True):
            found = 0
            for query in distances_m:
                if any(metres <= threshold_m for metres in query[:n].tolist()):
                    found += 1
            assert recall == pytest.approx(100 * found / 40), (n, threshold_m)


def test_errors_are_counted_once_between_inclusive_edges(distances_m):
    errors_m = distances_m[:, 0]
    counts = curves.count_errors(errors_m)
    edges = [*curves.ERROR_EDGES_M[1:], np.inf]
    below = -1.0
    for count, edge in zip(counts, edges, strict=True):
        assert count == sum(below < metres <= edge for metres in errors_m.tolist()), edge
        below = edge
    assert counts.sum() == 38, "two errors are not known"


def test_errors_on_the_edges():
    counts = curves.count_errors(np.array([0, 1, 1.5, 25, 1000, 1000.5, np.inf, np.nan]))
    assert counts.tolist() == [2, 1, 0, 0, 1, 0, 0, 0, 0, 1, 2]


def test_groups_by_year_leave_out_what_is_not_known():
    years = np.array([2015, 2013, 2015, 0, 0, 2013, 0], np.int16)
    groups = curves.group_by_year(years, np.array([1, 0, 0, 1, 1, 1, 1], bool))
    assert groups.labels == ["2013", "2015"]
    assert groups.num_queries.tolist() == [2, 2] and groups.num_correct.tolist() == [1, 1]
    assert groups.recalls.tolist() == [50, 50]


def test_one_year_is_no_chart():
    assert curves.group_by_year(np.array([2015, 2015, 0]), np.ones(3, bool)) is None


def test_groups_by_heading_wrap_at_north():
    nan = np.nan
    pairs = [(350, 5), (10, 355), (0, 180), (90, 44), (270, 240), (0, nan), (nan, 0), (5, 5)]
    queries_deg, predictions_deg = np.array(pairs, np.float32).T
    correct = np.array([1, 0, 0, 1, 1, 1, 1, 1], bool)
    groups = curves.group_by_heading(queries_deg, predictions_deg, correct)
    assert groups.labels == ["0–15°", "15–30°", "30–60°", "90–180°"]
    assert groups.num_queries.tolist() == [3, 1, 1, 1]  # 15, 15, 0 | 30 | 46 | 180 degrees
    assert groups.num_correct.tolist() == [2, 1, 1, 0]
    assert curves.group_by_heading(queries_deg[5:7], predictions_deg[5:7], correct[:2]) is None


def test_interval_is_wilsons():
    groups = Groups(["a", "b"], np.array([8, 0]), np.array([10, 10]))
    np.testing.assert_allclose(groups.interval, [[49.02, 0], [94.33, 27.75]], atol=0.01)
