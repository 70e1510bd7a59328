"""The numbers behind the charts of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ERROR_EDGES_M = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
HEADING_EDGES_DEG = (0, 15, 30, 60, 90, 180)
_Z_95 = 1.959964  # standard deviations on both sides that hold 95% of a normal distribution


@dataclass(frozen=True)
class Groups:
    """Number of correct top-1 predictions in each group of queries."""

    labels: list[str]
    num_correct: np.ndarray  # int [num_groups]
    num_queries: np.ndarray  # int [num_groups]

    @property
    def recalls(self) -> np.ndarray:
        """Return R@1 in percent. float64 [num_groups]."""
        return 100 * self.num_correct / self.num_queries

    @property
    def interval(self) -> np.ndarray:
        """Return the ends of Wilson's 95% interval of R@1 in percent. float64 [2, num_groups]."""
        n, share, z2 = self.num_queries, self.num_correct / self.num_queries, _Z_95**2
        centre = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z_95 * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2)) / (1 + z2 / n)
        return 100 * np.stack([centre - half, centre + half])


def recall_curve(correct: np.ndarray) -> np.ndarray:
    """Return R@1, R@2, ... R@K in percent.

    Args:
        correct: Which predictions are correct, nearest first. bool [num_queries, K].
    """
    return 100 * np.logical_or.accumulate(correct, axis=1).mean(axis=0)


def recalls_by_threshold(
    distances_m: np.ndarray, recall_values: Sequence[int], thresholds_m: Sequence[float]
) -> np.ndarray:
    """Return R@N for each threshold: predictions within it, inclusive, are correct.

    Args:
        distances_m: From queries to predictions, nearest descriptor first; NaN counts as far.
            float32 [num_queries, K].
        recall_values: The values of N, at most K.
        thresholds_m: Ascending or not.

    Returns:
        Percent. float64 [len(recall_values), len(thresholds_m)].
    """
    nearest = np.fmin.accumulate(distances_m, axis=1)  # of the first 1, 2, ... K; passes over NaN
    nearest = np.sort(nearest[:, [n - 1 for n in recall_values]], axis=0)  # NaN last
    counts = [column.searchsorted(thresholds_m, side="right") for column in nearest.T]
    return 100 * np.array(counts) / len(distances_m)


def count_errors(errors_m: np.ndarray) -> np.ndarray:
    """Count errors between ERROR_EDGES_M, upper edges inclusive, and beyond the last edge.

    Args:
        errors_m: Metres, inf allowed, NaN is not counted. float [n].

    Returns:
        int [len(ERROR_EDGES_M)].
    """
    known = errors_m[~np.isnan(errors_m)]
    bins = np.searchsorted(ERROR_EDGES_M[1:], known, side="left")
    return np.bincount(bins, minlength=len(ERROR_EDGES_M))


def group_by_year(years: np.ndarray, correct: np.ndarray) -> Groups | None:
    """Group queries by year; None if fewer than two years are known.

    Args:
        years: Of the queries, 0 if unknown. int [num_queries].
        correct: Which top-1 predictions are correct. bool [num_queries].
    """
    labels = [year for year in np.unique(years) if year]
    if len(labels) < 2:
        return None
    members = [correct[years == year] for year in labels]
    return _count_groups([str(year) for year in labels], members)


def group_by_heading(
    queries_deg: np.ndarray, predictions_deg: np.ndarray, correct: np.ndarray
) -> Groups | None:
    """Group queries by the heading difference to their top-1 prediction; None if all unknown.

    Args:
        queries_deg: Headings of the queries, NaN if unknown. float [num_queries].
        predictions_deg: Headings of their top-1 predictions. float [num_queries].
        correct: Which top-1 predictions are correct. bool [num_queries].
    """
    differences_deg = abs((queries_deg - predictions_deg + 180) % 360 - 180)
    groups = np.searchsorted(HEADING_EDGES_DEG[1:], differences_deg, side="left")
    groups[np.isnan(differences_deg)] = -1
    edges = list(zip(HEADING_EDGES_DEG, HEADING_EDGES_DEG[1:], strict=False))
    there = [group for group in range(len(edges)) if (groups == group).any()]
    if not there:
        return None
    labels = ["{}–{}°".format(*edges[group]) for group in there]
    return _count_groups(labels, [correct[groups == group] for group in there])


def _count_groups(labels: list[str], members: list[np.ndarray]) -> Groups:
    counts = np.array([[correct.sum(), len(correct)] for correct in members])
    return Groups(labels, *counts.T)
