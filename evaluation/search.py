"""Nearest neighbours among descriptors."""

from collections.abc import Sequence

import numpy as np

from evaluation.exact_search import RowBlocks, measure_distances, order_by_distance, search_exactly
from evaluation.indexes import Index


def find_neighbors(
    database: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest database descriptors of each query by L2 distance, exactly.

    The database is read where it is, block by block; no copy of it is made.

    Args:
        database: float32 or float16 [num_database, D]; may be memory-mapped.
        queries: float32 [num_queries, D].
        k: How many; at most num_database are returned.

    Returns:
        Database indices, nearest first, int64 [num_queries, k], and their L2 distances (not
        squared), float32 [num_queries, k]. Predictions of equal distance are in order of their
        index. The same pair of descriptors has the same distance to the last bit in any search.

    Raises:
        ValueError: If shapes or types do not fit, or descriptors are not finite.
    """
    _check(database, queries, k)
    return search_exactly(RowBlocks(database), np.ascontiguousarray(queries), min(k, len(database)))


def merge_neighbors(
    predictions: Sequence[np.ndarray], distances: Sequence[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge what was found in the parts of a database: exactly what a search of all of it finds.

    Args:
        predictions: One array per part: indices of the whole database, -1 for none, of the k
            nearest, or of all in a part that has fewer. int64 [num_queries, K of the part].
        distances: Of those, inf for none. float32 [num_queries, K of the part].
        k: How many; at most as many as there are in all parts are returned.

    Returns:
        Indices, int64 [num_queries, k], and distances, float32 [num_queries, k], as
        `find_neighbors`; rows of which less was found end in -1, distance inf.

    Raises:
        ValueError: If there is no part, or parts do not fit.
    """
    shapes = [[list(a.shape) for a in arrays] for arrays in (predictions, distances)]
    if not shapes[0] or shapes[0] != shapes[1] or len({shape[0] for shape in shapes[0]}) > 1:
        raise ValueError(
            f"Parts must be of the same queries, with one distance per prediction: predictions are "
            f"{shapes[0]}, distances {shapes[1]}"
        )
    return order_by_distance(
        np.concatenate(predictions, axis=1), np.concatenate(distances, axis=1), k
    )


def search_index(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search an index that `build_index` made.

    Args:
        index: What is searched.
        queries: float32 [num_queries, D].
        k: How many; at most as many as there are descriptors are returned.

    Returns:
        As `find_neighbors`, but that codes may find fewer than k: the row then ends in -1, distance
        inf. Distances are those to the codes, unless the index has descriptors beside them: then
        to these.

    Raises:
        ValueError: As `find_neighbors`.
    """
    if index.codes is None:
        return find_neighbors(index.descriptors, queries, k)
    _check_queries(queries, index.dim, k)
    queries, k = np.ascontiguousarray(queries), min(k, index.num_descriptors)
    num_candidates = min(max(k, index.num_candidates), index.num_descriptors)
    squared, candidates = index.codes.search(queries, num_candidates)
    if index.descriptors is None:
        distances = np.sqrt(np.maximum(np.where(candidates < 0, np.inf, squared), 0))
    else:
        distances = measure_distances(RowBlocks(index.descriptors), queries, candidates)
    return order_by_distance(candidates, distances.astype(np.float32), k)


def find_neighbors_within(
    database: np.ndarray,
    queries: np.ndarray,
    k: int,
    database_groups: np.ndarray,
    queries_groups: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `find_neighbors` does, each query among the database images of its own group only.

    Args:
        database: float32 or float16 [num_database, D].
        queries: float32 [num_queries, D].
        k: How many.
        database_groups: Group of each database image, such as its city. int [num_database].
        queries_groups: Group of each query. int [num_queries].

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
    predictions, distances = np.full(shape, -1, np.int64), np.full(shape, np.inf, np.float32)
    for group in np.unique(queries_groups):
        numbers = np.flatnonzero(database_groups == group)
        if len(numbers) == 0:
            continue
        asked = np.flatnonzero(queries_groups == group)
        rows = RowBlocks(database, numbers)
        found, found_distances = search_exactly(rows, queries[asked], min(k, len(rows)))
        columns = slice(found.shape[1])
        predictions[asked, columns] = numbers[found]
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
        database: float32 or float16 [num_database, D].
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
    _check_descriptors(database, "database", (np.float32, np.float16))
    _check_queries(queries, database.shape[1], k)


def _check_queries(queries: np.ndarray, dim: int, k: int) -> None:
    _check_descriptors(queries, "queries", (np.float32,))
    if queries.shape[1] != dim:
        raise ValueError(
            f"Descriptors of the database have length {dim}, those of the queries "
            f"{queries.shape[1]}: they are of different models"
        )
    if k < 1:
        raise ValueError(f"At least 1 neighbour must be asked for, not {k}")


def _check_descriptors(descriptors: np.ndarray, role: str, dtypes: Sequence[type]) -> None:
    if descriptors.ndim != 2 or descriptors.dtype not in dtypes or not len(descriptors):
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(
            f"Descriptors must be {names} [number, length], the number above 0; those of the "
            f"{role} are {descriptors.dtype} {list(descriptors.shape)}"
        )
