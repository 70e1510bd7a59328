"""The exact search: matrix products find candidates, distances of pairs decide among them.

A matrix product is as fast as the machine computes, but the last bits of its numbers depend on
where in a block a row stands. So it only finds candidates, a few more than are asked for. Their
distances are then computed pair by pair, always in the same way, and a bound on the rounding of the
product tells whether another row could still be nearer. The result depends on nothing but the
descriptors: neither on blocks, nor on how a database is split over processes.
"""

import warnings
from collections.abc import Iterator

import faiss
import numpy as np
import torch

_WIDER = 8  # times as many candidates where rounding leaves a doubt
_BYTES_PER_BLOCK = 1 << 28  # of float32 rows where they are
_BYTES_PER_BUFFER = 1 << 27  # of float32 rows that are made
_PAIRS_PER_BLOCK = 1 << 20
_ROUNDING = 2.0**-24  # of float32, relative


class RowBlocks:
    """Some or all rows of a database, read as float32 block by block, never all at once."""

    def __init__(self, database: np.ndarray, numbers: np.ndarray | None = None) -> None:
        """Take rows by number, all if None; those that stand together are not copied.

        Args:
            database: float32 or float16 [num_database, D]; may be memory-mapped.
            numbers: Ascending, at least one. int [num_rows].
        """
        if numbers is not None and len(numbers) == numbers[-1] - numbers[0] + 1:
            database, numbers = database[numbers[0] : numbers[-1] + 1], None
        self._database, self._numbers = database, numbers
        self._is_in_place = numbers is None and database.dtype == np.float32
        self._is_in_place &= database.flags.c_contiguous

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._database if self._numbers is None else self._numbers)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of a first row, and rows from there on, until the next are asked for.

        The rows are float32 [num_rows, D], in C order.
        """
        dim = self._database.shape[1]
        num_bytes = _BYTES_PER_BLOCK if self._is_in_place else _BYTES_PER_BUFFER
        step = min(max(num_bytes // (4 * dim), 1), len(self))
        buffer = None if self._is_in_place else np.empty((step, dim), np.float32)
        for first in range(0, len(self), step):
            wanted = slice(first, first + step)
            if buffer is None:
                yield first, self._database[wanted]
            else:
                yield first, self._read(wanted, buffer[: len(self) - first])

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return an array with some rows, and where they are in it; the database itself if it can.

        Args:
            wanted: int64 [num_queries, K].

        Returns:
            float32 [num_rows, D] and int64 [num_queries, K].
        """
        if self._is_in_place:
            return self._database, wanted
        distinct, places = np.unique(wanted, return_inverse=True)
        buffer = np.empty((len(distinct), self._database.shape[1]), np.float32)
        return self._read(distinct, buffer), places.reshape(wanted.shape)

    def _read(self, wanted: slice | np.ndarray, buffer: np.ndarray) -> np.ndarray:
        """Fill a buffer with rows."""
        if self._numbers is not None:
            wanted = self._numbers[wanted]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that must not be written to: they are not
            rows = torch.from_numpy(self._database[wanted])
        torch.from_numpy(buffer).copy_(rows)  # ten times as fast as NumPy from float16
        return buffer


def search_exactly(rows: RowBlocks, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of each query; of equal distances the lower row comes first.

    Args:
        rows: What is searched.
        queries: float32 [num_queries, D], in C order.
        k: How many, at most len(rows).

    Returns:
        Numbers of rows, int64 [num_queries, k], and L2 distances, float32 [num_queries, k].

    Raises:
        ValueError: If descriptors are not finite.
    """
    num_candidates = k + k // 2 + 32
    predictions, distances, is_certain = _search_by_products(rows, queries, k, num_candidates)
    doubtful = np.flatnonzero(~is_certain)
    if len(doubtful):
        predictions[doubtful], distances[doubtful], is_certain = _search_by_products(
            rows, queries[doubtful], k, _WIDER * num_candidates
        )
        doubtful = doubtful[~is_certain]
    if len(doubtful):
        predictions[doubtful], distances[doubtful] = _search_by_pairs(rows, queries[doubtful], k)
    return predictions, distances


def measure_distances(rows: RowBlocks, queries: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Measure from each query to rows of its own; a pair has the same distance in any call.

    Args:
        rows: What is searched.
        queries: float32 [num_queries, D], in C order.
        wanted: Numbers of rows; distances to negative ones are infinite. int64 [num_queries, K].

    Returns:
        L2 distances. float32 [num_queries, K].
    """
    squared = np.empty(wanted.shape, np.float32)
    step = max(_PAIRS_PER_BLOCK // max(wanted.shape[1], 1), 1)
    for first in range(0, len(queries), step):
        block = slice(first, first + step)
        array, places = rows.take(np.maximum(wanted[block], 0))
        _measure_squared(array, queries[block], places, squared[block])
    return np.where(wanted < 0, np.float32(np.inf), np.sqrt(squared))


def order_by_distance(
    predictions: np.ndarray, distances: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k of each row by distance, then by index; -1 comes last."""
    order = np.lexsort((predictions, distances))[:, :k]
    return np.take_along_axis(predictions, order, 1), np.take_along_axis(distances, order, 1)


def _search_by_products(
    rows: RowBlocks, queries: np.ndarray, k: int, num_candidates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions, distances, and whether no other row can belong to the predictions."""
    num_candidates = min(num_candidates, len(rows))
    rounded, candidates = _find_candidates(rows, queries, num_candidates)
    if (candidates < 0).any():
        raise ValueError("Some descriptors are not finite: the model's weights are broken")
    distances = measure_distances(rows, queries, candidates)
    predictions, distances = order_by_distance(candidates, distances, k)
    if num_candidates == len(rows):
        return predictions, distances, np.ones(len(queries), bool)
    # A row that is as near as the last prediction is at most `longest` long: its squared distance,
    # |q|^2 + |x|^2 - 2 q x, is off by at most the rounding of D products of that size.
    last = distances[:, -1].astype(np.float64)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    longest = length + last
    error = _ROUNDING * (queries.shape[1] + 16) * ((length + longest) ** 2 + last**2)
    return predictions, distances, rounded.max(axis=1) > last**2 + error


def _find_candidates(
    rows: RowBlocks, queries: np.ndarray, num_candidates: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances, rounded, and rows, unordered, -1 where none is finite."""
    best = np.full((len(queries), num_candidates), np.inf, np.float32)
    candidates = np.full((len(queries), num_candidates), -1, np.int64)
    for first, block in rows.blocks():
        squared, found = faiss.knn(queries, block, min(num_candidates, len(block)))
        squared = np.concatenate((best, np.where(found < 0, np.inf, squared)), axis=1)
        found = np.concatenate((candidates, np.where(found < 0, -1, found + first)), axis=1)
        order = np.argpartition(squared, num_candidates - 1, axis=1)[:, :num_candidates]
        best = np.take_along_axis(squared, order, axis=1)
        candidates = np.take_along_axis(found, order, axis=1)
    return best, candidates


def _search_by_pairs(rows: RowBlocks, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure every pair: where all descriptors are almost the same, nothing less decides."""
    predictions = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.inf, np.float32)
    for first, block in rows.blocks():
        step = max(_PAIRS_PER_BLOCK // len(block), 1)
        numbers = np.arange(len(block))
        for query in range(0, len(queries), step):
            asked = slice(query, query + step)
            all_rows = np.broadcast_to(numbers, (len(queries[asked]), len(block)))
            near = measure_distances(RowBlocks(block), queries[asked], all_rows)
            found = np.argsort(near, axis=1, kind="stable")[:, :k]
            predictions[asked], distances[asked] = order_by_distance(
                np.concatenate((predictions[asked], found + first), axis=1),
                np.concatenate((distances[asked], np.take_along_axis(near, found, 1)), axis=1),
                k,
            )
    return predictions, distances


def _measure_squared(
    array: np.ndarray, queries: np.ndarray, places: np.ndarray, squared: np.ndarray
) -> None:
    """Fill in squared distances [num_queries, K] to rows at places [num_queries, K]."""
    asked = np.repeat(np.arange(len(places), dtype=np.int64), places.shape[1])
    places = np.ascontiguousarray(places, np.int64)
    pointers = [faiss.swig_ptr(a) for a in (queries, asked, array, places, squared)]
    queries_at, asked_at, array_at, places_at, squared_at = pointers
    faiss.pairwise_indexed_L2sqr(
        queries.shape[1], places.size, queries_at, asked_at, array_at, places_at, squared_at
    )
