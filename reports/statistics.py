"""Intervals and tests of recalls, over the queries."""

from collections.abc import Sequence

import numpy as np

LEVEL_PERCENT = 95
_COUNTS_PER_BLOCK = 1 << 22  # 32 MB of int64


def mcnemar(wins: int, losses: int) -> float:
    """Test whether two models have the same R@1, by McNemar's exact test.

    Only queries that are correct in one of the two models are informative: for equal models, each
    is a win or a loss like the toss of a coin.

    Args:
        wins: Queries with a correct top-1 in the second model only.
        losses: Queries with a correct top-1 in the first model only.

    Returns:
        The two-sided binomial p-value, 0 to 1; 1 if there are neither wins nor losses.
    """
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest  # takes a second, and no --help should

    return float(binomtest(wins, wins + losses).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct several p-values by Holm's step-down method.

    Returns:
        Corrected p-values in the same order; among equal models, the chance that any is below a
        level is at most that level.
    """
    corrected = np.empty(len(p_values))
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - place) * p_values[index])
        corrected[index] = min(1.0, largest)
    return corrected.tolist()


def bootstrap_intervals(values: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Compute 95% percentile intervals of the mean of each column, resampling the rows.

    Rows are queries; a column is the contribution of each query to one figure, for example 1 for
    correct and 0 for wrong, or the difference of that between two models (a paired interval).
    Such columns have few distinct rows. The counts of these in a resample are multinomial, so
    that resamples need not list every query.

    Args:
        values: Contributions of each query. float or int [num_queries, C].
        num_resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        Lower and upper ends, in the unit of the values. float64 [C, 2].
    """
    num_queries = len(values)
    rows, counts = np.unique(values, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    block = max(1, _COUNTS_PER_BLOCK // len(rows))
    means = np.empty((num_resamples, rows.shape[1]))
    for first in range(0, num_resamples, block):
        size = min(block, num_resamples - first)
        drawn = rng.multinomial(num_queries, counts / num_queries, size)  # [size, distinct rows]
        means[first : first + size] = drawn @ rows / num_queries
    tail = (100 - LEVEL_PERCENT) / 2
    return np.percentile(means, (tail, 100 - tail), axis=0).T
