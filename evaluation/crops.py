"""Predictions of several crops of a query, merged to one ranking."""

import numpy as np

_VOTING_RANKS = (1, 5, 10)


def merge_crops(
    predictions: np.ndarray, distances: np.ndarray, majority_weight: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the predictions of all crops of each query by distance; each image counts once.

    With a weight, predictions that several crops share come nearer first: for n = 1, 5, 10, the
    squared distance of what stands c > 1 times among the first n of all crops is reduced by
    weight * c / n, there (deep visual geo-localization benchmark, "maj_voting"; 0.01 there).

    Args:
        predictions: Database indices, -1 where there is none. int [num_queries, V, K].
        distances: L2 distances of the descriptors. float [num_queries, V, K].
        majority_weight: 0 merges by distance alone ("nearest_crop").

    Returns:
        Database indices, int64 [num_queries, K], and distances, float32 [num_queries, K]; -1 and
        `inf` after the last one.
    """
    num_queries, _, k = predictions.shape
    merged = np.full((num_queries, k), -1, np.int64)
    merged_distances = np.full((num_queries, k), np.inf, np.float32)
    for query in range(num_queries):
        squared = distances[query].astype(np.float64) ** 2
        if majority_weight:
            for n in _VOTING_RANKS:
                _vote(predictions[query, :, :n], squared[:, :n], majority_weight / n)
        order = np.argsort(squared, axis=None, kind="stable")
        ranked = predictions[query].ravel()[order]
        _, first = np.unique(ranked, return_index=True)
        first = np.sort(first[ranked[first] >= 0])[:k]
        merged[query, : len(first)] = ranked[first]
        nearest = squared.ravel()[order[first]]
        merged_distances[query, : len(first)] = np.sqrt(np.maximum(nearest, 0))
    return merged, merged_distances


def _vote(predictions: np.ndarray, squared_distances: np.ndarray, weight: float) -> None:
    """Reduce, in place, the distances of what is predicted more than once."""
    _, place, counts = np.unique(predictions, return_inverse=True, return_counts=True)
    times = counts[place].reshape(predictions.shape)
    squared_distances -= np.where(times > 1, weight * times, 0)
