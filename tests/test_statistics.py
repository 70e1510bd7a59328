import math
import tracemalloc

import numpy as np
import pytest

from reports import statistics
from reports.statistics import bootstrap_intervals, holm, mcnemar


@pytest.mark.parametrize(("wins", "losses"), [(61, 6), (6, 61), (5, 5), (5, 4), (3, 0), (1, 0)])
def test_mcnemar_sums_all_splits_at_most_as_likely(wins, losses):
    num_tosses = wins + losses
    ways = [math.comb(num_tosses, heads) for heads in range(num_tosses + 1)]
    expected = sum(way for way in ways if way <= ways[wins]) / 2**num_tosses
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_at_the_ends():
    assert mcnemar(0, 0) == 1
    assert mcnemar(1, 1) == 1
    assert 0 <= mcnemar(3000, 10) < 1e-300
    assert isinstance(mcnemar(np.int64(3), np.int64(1)), float)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 2 x 0.03, and not below the last
        ([0.5, 0.01], [0.5, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_on_cases_by_hand(p_values, expected):
    assert holm(p_values) == pytest.approx(expected)


def bootstrap_query_by_query(values, num_resamples, seed):
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(num_resamples):
        chosen = rng.integers(0, len(values), len(values))
        means.append([np.mean([row[column] for row in values[chosen]]) for column in (0, 1, 2)])
    return np.percentile(means, (2.5, 97.5), axis=0).T


def test_intervals_are_those_of_resampling_query_by_query():
    rng = np.random.default_rng(1)
    first = rng.random(150) < 0.5
    second = first ^ (rng.random(150) < 0.2)
    values = 100 * np.stack([first, second, second * 1 - first * 1], axis=1)
    expected = bootstrap_query_by_query(values, 2000, seed=2)
    intervals = bootstrap_intervals(values, 10_000, seed=0)
    np.testing.assert_allclose(intervals, expected, atol=1.4)  # two queries in 150
    widths = intervals[:, 1] - intervals[:, 0]
    assert widths[2] < 0.8 * widths[0] * math.sqrt(2), "differences are paired"


def test_ends_are_the_exact_ones_where_all_resamples_can_be_listed():
    values = np.array([[0], [0], [1], [10]])
    all_draws = np.stack(np.meshgrid(*[range(4)] * 4), axis=-1).reshape(-1, 4)
    exact = np.percentile(values[all_draws, 0].mean(axis=1), (2.5, 97.5))
    np.testing.assert_allclose(bootstrap_intervals(values, 50_000, seed=3), [exact])


def test_what_is_the_same_for_all_queries_has_no_spread():
    values = np.repeat([[100, 0, 0]], 12, axis=0)
    np.testing.assert_array_equal(
        bootstrap_intervals(values, 500, seed=0), [[100, 100], [0, 0], [0, 0]]
    )


def test_seed_decides_and_blocks_do_not(monkeypatch):
    values = np.random.default_rng(0).integers(0, 2, (80, 2))
    whole = bootstrap_intervals(values, 1000, seed=5)
    assert (whole != bootstrap_intervals(values, 1000, seed=6)).any()
    monkeypatch.setattr(statistics, "_COUNTS_PER_BLOCK", 17)
    np.testing.assert_array_equal(whole, bootstrap_intervals(values, 1000, seed=5))


@pytest.mark.parametrize("num_patterns", [25, 2000])
def test_memory_stays_small_with_many_queries(num_patterns):
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (num_patterns, 12))
    values = patterns[rng.integers(0, num_patterns, 11_000)]
    tracemalloc.start()
    bootstrap_intervals(values, 10_000 if num_patterns < 100 else 3000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
