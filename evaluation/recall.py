"""Recall@N: how many queries have a true place among their first N predictions."""

from collections.abc import Sequence

import numpy as np


def compute_recalls(
    predictions: np.ndarray,
    positives_per_query: Sequence[np.ndarray],
    recall_values: Sequence[int],
) -> np.ndarray:
    """Compute Recall@N over all queries, in percent.

    A query without positives counts as a miss: published numbers are made that way.

    Args:
        predictions: Database indices, nearest first. int [num_queries, K].
        positives_per_query: Database indices that are right for each query. num_queries int
            arrays.
        recall_values: The values of N. Those above K count all K predictions.

    Returns:
        Recalls, 0 to 100. float64 [len(recall_values)].

    Raises:
        ValueError: If the inputs disagree on the number of queries, or there are none.
    """
    if len(predictions) != len(positives_per_query) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} rows of predictions for {len(positives_per_query)} queries"
        )
    hits = np.stack(
        [np.isin(row, right) for row, right in zip(predictions, positives_per_query, strict=True)]
    )  # [num_queries, K]
    num_found = np.array([hits[:, :n].any(axis=1).sum() for n in recall_values])
    return 100 * num_found / len(hits)
