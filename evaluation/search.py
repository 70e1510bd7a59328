"""Nearest neighbours among descriptors."""

import faiss
import numpy as np


def find_neighbors(
    database: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest database descriptors of each query, exactly, by L2 distance.

    The database is searched where it is: no copy of it is made.

    Args:
        database: float32 [num_database, D].
        queries: float32 [num_queries, D].
        k: How many; at most num_database are returned.

    Returns:
        Database indices, nearest first, int64 [num_queries, k], and their L2 distances,
        float32 [num_queries, k].
    """
    k = min(k, len(database))
    squared, predictions = faiss.knn(queries, database, k, metric=faiss.METRIC_L2)
    return predictions, np.sqrt(np.maximum(squared, 0))
