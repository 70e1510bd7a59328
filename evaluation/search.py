"""Nearest neighbours among descriptors."""

import faiss
import numpy as np

from evaluation.indexes import EXACT, IndexSpec, build_index

_NEAR = 0.01  # of the squared length of a query: below, squared distances lose digits
_PAIRS_PER_BLOCK = 4096


def find_neighbors(
    database: np.ndarray, queries: np.ndarray, k: int, index: IndexSpec = EXACT
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest database descriptors of each query by L2 distance.

    The exact search, which is the default, reads the database where it is: no copy of it is made.
    Another index is built for this call; see `build_index`.

    Args:
        database: float32 [num_database, D], in C order; may be memory-mapped.
        queries: float32 [num_queries, D].
        k: How many; at most num_database are returned.
        index: How to search.

    Returns:
        Database indices, nearest first, int64 [num_queries, k], and their L2 distances (not
        squared), float32 [num_queries, k]. Predictions of equal distance are in order of their
        index. An approximate index may find fewer than k: the row then ends in -1, distance inf;
        the exact search never does. Distances of an index that quantises (flat_fp16, flat_int8,
        ivf_pq) are those to the quantised descriptors.

    Raises:
        ValueError: If shapes or types do not fit, the descriptors are not finite, or the index
            does not go with the database.
    """
    _check(database, queries, k)
    if index.name == EXACT.name:
        return _search_exactly(database, queries, min(k, len(database)))
    return search_index(build_index(database, index), queries, k)


def search_index(index: faiss.Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search an index that `build_index` made; returns and raises like `find_neighbors`."""
    if isinstance(index, faiss.IndexFlat):
        numbers = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
        return find_neighbors(numbers.reshape(index.ntotal, index.d), queries, k)
    _check_queries(queries, index.d, k)
    squared, predictions = index.search(np.ascontiguousarray(queries), min(k, index.ntotal))
    return _by_distance(np.where(predictions < 0, np.inf, squared), predictions)


def find_neighbors_within(
    database: np.ndarray,
    queries: np.ndarray,
    k: int,
    database_groups: np.ndarray,
    queries_groups: np.ndarray,
    index: IndexSpec = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `find_neighbors` does, each query among the database images of its own group only.

    A group whose rows stand together is searched in place; of another one, its rows are copied.

    Args:
        database: float32 [num_database, D].
        queries: float32 [num_queries, D].
        k: How many.
        database_groups: Group of each database image, such as its city. int [num_database].
        queries_groups: Group of each query. int [num_queries].
        index: How to search each group.

    Returns:
        As `find_neighbors`; where a group has fewer than k images, the row ends in -1, distance
        inf.

    Raises:
        ValueError: As `find_neighbors`, or if there is not one group per descriptor.
    """
    _check(database, queries, k)
    if len(database_groups) != len(database) or len(queries_groups) != len(queries):
        raise ValueError(
            f"{len(database_groups):,} groups for {len(database):,} database images and "
            f"{len(queries_groups):,} for {len(queries):,} queries: one each is needed"
        )
    shape = (len(queries), min(k, len(database)))
    predictions, distances = np.full(shape, -1), np.full(shape, np.inf, np.float32)
    for group in np.unique(queries_groups):
        rows = np.flatnonzero(database_groups == group)
        if len(rows) == 0:
            continue
        asked = np.flatnonzero(queries_groups == group)
        found, found_distances = find_neighbors(_take(database, rows), queries[asked], k, index)
        columns = slice(found.shape[1])
        predictions[asked, columns] = np.where(found < 0, -1, rows[found])
        distances[asked, columns] = found_distances
    return predictions, distances


def measure_agreement(
    database: np.ndarray,
    queries: np.ndarray,
    predictions: np.ndarray,
    sample_size: int = 200,
    seed: int = 0,
) -> float:
    """Measure how many of the exact nearest neighbours a search has found, in percent.

    Of each query in a sample, the first k predictions are compared with the k exact nearest
    neighbours as sets, k being 10 or, if less, the number of predictions. The result is the mean
    over queries of the share that is in both.

    Args:
        database: float32 [num_database, D].
        queries: float32 [num_queries, D].
        predictions: Of the search that is measured. int [num_queries, K], -1 where there is none.
        sample_size: Number of queries, drawn without replacement; all if there are fewer.
        seed: Of the sample.

    Returns:
        0 to 100.
    """
    size = min(sample_size, len(queries))
    sample = np.sort(np.random.default_rng(seed).choice(len(queries), size, replace=False))
    k = min(10, predictions.shape[1])
    exact, _ = find_neighbors(database, queries[sample], k)
    found = [
        np.isin(right, row).mean()
        for right, row in zip(exact, predictions[sample, :k], strict=True)
    ]
    return 100 * float(np.mean(found))


def _check(database: np.ndarray, queries: np.ndarray, k: int) -> None:
    _check_descriptors(database, "database")
    _check_queries(queries, database.shape[1], k)


def _check_queries(queries: np.ndarray, dim: int, k: int) -> None:
    _check_descriptors(queries, "queries")
    if queries.shape[1] != dim:
        raise ValueError(
            f"Descriptors of the database have length {dim}, those of the queries "
            f"{queries.shape[1]}: they are of different models"
        )
    if k < 1:
        raise ValueError(f"At least 1 neighbour must be asked for, not {k}")


def _check_descriptors(descriptors: np.ndarray, role: str) -> None:
    if descriptors.ndim != 2 or descriptors.dtype != np.float32 or not len(descriptors):
        raise ValueError(
            "Descriptors must be float32 [number, length], the number above 0; those of the "
            f"{role} are {descriptors.dtype} {list(descriptors.shape)}"
        )


def _search_exactly(
    database: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    squared, predictions = faiss.knn(queries, database, k, metric=faiss.METRIC_L2)
    if (predictions < 0).any():
        raise ValueError("Some descriptors are not finite: the model's weights are broken")
    # faiss adds and subtracts squared lengths, which cancel where descriptors are almost equal
    lengths = np.einsum("qd,qd->q", queries, queries)
    rows, columns = np.nonzero(squared < _NEAR * lengths[:, None])
    for first in range(0, len(rows), _PAIRS_PER_BLOCK):
        pairs = rows[first : first + _PAIRS_PER_BLOCK], columns[first : first + _PAIRS_PER_BLOCK]
        differences = database[predictions[pairs]] - queries[pairs[0]]
        squared[pairs] = np.einsum("pd,pd->p", differences, differences)
    return _by_distance(squared, predictions)


def _by_distance(squared: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by distance, then by index, and take the root."""
    order = np.lexsort((predictions, squared))
    distances = np.sqrt(np.maximum(np.take_along_axis(squared, order, axis=1), 0))
    return np.take_along_axis(predictions, order, axis=1), distances.astype(np.float32)


def _take(database: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows, ascending; without a copy if they stand together."""
    first, last = rows[0], rows[-1]
    return database[first : last + 1] if last - first + 1 == len(rows) else database[rows]
