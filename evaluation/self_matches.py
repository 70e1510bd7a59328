"""Queries that are database images themselves: such a query finds itself, which proves nothing.

To look at all files of a database would take longer than to list it. A copy of a query has the
query's descriptor, though: only the predictions at a distance of almost zero are compared with it,
first by size, then byte by byte. So it costs nothing per database image.
"""

import contextlib
import filecmp
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

import commons
from datasets.eval_set import EvalSet

_NEAR = 0.05  # of the length of a descriptor: more than batches and 16 bits change it
_FIRST_RANKS = 5  # are compared at any distance where a copy may have another descriptor


def search_others(
    search: Callable[[int], tuple[np.ndarray, np.ndarray, float | None]],
    eval_set: EvalSet,
    descriptors: np.ndarray,
    k: int,
    are_exact: bool,
    exclude_self: bool,
) -> tuple[EvalSet, int, np.ndarray, np.ndarray, float | None]:
    """Search, find the queries that are among their own predictions, leave these out if asked for.

    Args:
        search: Gets K, returns predictions, distances, and a third value that is passed on.
        eval_set: The images.
        descriptors: Of the queries, or of their crops. float [num_queries, ..., D].
        k: Predictions per query.
        are_exact: Whether a copy of a query has its descriptor, and distances are exact.
        exclude_self: Whether they are left out.

    Returns:
        The set, with a note on these queries and, if they are left out, without them among their
        positives; how many there are; and what `search` returns.
    """
    num_more = 0  # as many as are left out
    while True:
        predictions, distances, other = search(k + num_more)
        find = partial(find_self_matches, eval_set, predictions, distances, descriptors, are_exact)
        is_self = commons.of_main_process(find)
        num_left_out = int(is_self.sum(axis=1).max()) * exclude_self
        if num_left_out <= num_more:
            break
        num_more = 2 * num_left_out
    num_self = int(is_self.any(axis=1).sum())
    if num_self and exclude_self:
        eval_set = _without_self(eval_set, predictions, is_self)
        predictions, distances = _drop(predictions, distances, is_self)
    note = _describe(num_self, len(predictions), exclude_self)
    eval_set = replace(eval_set, notes=(*eval_set.notes, *note))
    return eval_set, num_self, predictions[:, :k], distances[:, :k], other


def find_self_matches(
    eval_set: EvalSet,
    predictions: np.ndarray,
    distances: np.ndarray,
    descriptors: np.ndarray,
    are_exact: bool,
) -> np.ndarray:
    """Find the predictions that are the file of their query, or a copy of it.

    Files that are gone, as they may be with saved descriptors, are the same if their path is.

    Args:
        eval_set: The images.
        predictions: Database indices, -1 for none. int [num_queries, K].
        distances: L2 distances of their descriptors. float [num_queries, K].
        descriptors: Of the queries, or of their crops. float [num_queries, ..., D].
        are_exact: Whether a copy of a query has its descriptor, and distances are exact.

    Returns:
        bool [num_queries, K].
    """
    lengths = np.linalg.norm(descriptors, axis=-1).reshape(len(predictions), -1).max(axis=1)
    is_likely = distances <= _NEAR * lengths[:, None]
    if not are_exact:
        is_likely[:, :_FIRST_RANKS] = True
    is_likely &= predictions >= 0
    is_self = np.zeros_like(is_likely)
    for query in np.flatnonzero(is_likely.any(axis=1)):
        path = eval_set.queries[query]
        size = _size_of(path)
        for rank in np.flatnonzero(is_likely[query]):
            image = eval_set.database[predictions[query, rank]]
            is_self[query, rank] = image == path or _is_copy(path, size, image)
    return is_self


def _drop(
    predictions: np.ndarray, distances: np.ndarray, is_dropped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move the others forward; -1 and `inf` are after the last one."""
    order = np.argsort(is_dropped, axis=1, kind="stable")
    predictions = np.where(is_dropped, -1, predictions)
    distances = np.where(is_dropped, np.float32(np.inf), distances)
    return np.take_along_axis(predictions, order, 1), np.take_along_axis(distances, order, 1)


def _without_self(eval_set: EvalSet, predictions: np.ndarray, is_self: np.ndarray) -> EvalSet:
    """Return a set whose queries are no positives of themselves."""
    if eval_set.truth is None:
        return eval_set
    positives = list(eval_set.truth.positives_per_query)
    for query in np.flatnonzero(is_self.any(axis=1)):
        positives[query] = np.setdiff1d(positives[query], predictions[query, is_self[query]])
    return replace(eval_set, truth=replace(eval_set.truth, positives_per_query=positives))


def _describe(num_self: int, num_queries: int, are_left_out: bool) -> list[str]:
    if not num_self:
        return []
    text = (
        f"{num_self:,} of {num_queries:,} queries are database images themselves (same file or "
        "same bytes)"
    )
    if are_left_out:
        return [f"{text}: each is left out of its own predictions and positives"]
    return [f"{text} and find themselves: eval.py --exclude_self leaves them out"]


def _size_of(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return None


def _is_copy(path: str, size: int | None, other: str) -> bool:
    if size is None or size != _size_of(other):
        return False
    with contextlib.suppress(OSError):
        return filecmp.cmp(path, other, shallow=False)
    return False
