"""How far recalls can be told apart: intervals and tests over the queries."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

LEVEL_PERCENT = 95
_COUNTS_PER_BLOCK = 1 << 22  # 32 MB of int64


def mcnemar(wins: int, losses: int) -> float:
    """Test whether two models find equally many queries, by McNemar's exact test.

    Only the queries that one of the two finds say anything: without a difference between the
    models, each of them would be a win or a loss as the toss of a coin.

    Args:
        wins: Queries that only the second model finds.
        losses: Queries that only the first model finds.

    Returns:
        The two-sided binomial p-value, 0 to 1; 1 if there are neither wins nor losses.
    """
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being several, by Holm's step-down method.

    Returns:
        As many p-values in the same order; the chance that any of those below a level is there
        without a difference is at most that level.
    """
    corrected = np.empty(len(p_values))
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - place) * p_values[index])
        corrected[index] = min(1.0, largest)
    return corrected.tolist()


def bootstrap_intervals(values: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Compute 95% percentile intervals of the mean of each column, resampling the rows.

    Rows are queries; a column is what one query adds to one figure, for example 1 where it is
    found and 0 where it is not, or the difference of that between two models (which makes the
    interval a paired one). Such columns have few distinct rows. How often each of those is drawn
    is multinomial, so that no resample is ever listed query by query.

    Args:
        values: What each query adds. float or int [num_queries, C].
        num_resamples: How many times the queries are drawn.
        seed: Decides the draws.

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
