"""Nearest neighbours among descriptors: exact, or by an index of faiss that trades some for speed.

A search is named as on the command line: `exact`; `fp16`, which stores descriptors as float16;
`ivf_pq`, whose parameters follow the size of the database; or any factory string of faiss, with
search parameters behind a semicolon, as in "IVF1024,Flat;nprobe=32".
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence

import faiss
import numpy as np
import torch

EXACT, FP16, IVF_PQ = "exact", "fp16", "ivf_pq"
Index = np.ndarray | faiss.Index  # an array [num_database, D] is searched exactly
Neighbors = tuple[np.ndarray, np.ndarray]  # int64 and float32 [num_queries, k]

_NUM_SPARE = 32  # candidates beyond k: a matrix product may rank almost equal ones differently
_BYTES_PER_BLOCK = 1 << 27  # of float32 descriptors
_NUM_REFINED = 500  # candidates that an index with refinement ranks by the descriptors themselves
_MIN_TRAINING, _TRAINING_PER_LIST = 65_536, 64  # descriptors, or all
_MIN_PER_CENTROID = 39  # below that faiss warns of poor centroids
_PQ_CENTROIDS = 256  # at most, of codes with 8 bits
_ANY_DIM = 1024  # to check a factory string before the length of descriptors is known


def find_neighbors(
    index: Index, queries: np.ndarray, k: int, rows: np.ndarray | None = None
) -> Neighbors:
    """Find the k nearest database descriptors of each query by L2 distance.

    An array is searched exactly and where it is, block by block, without a copy of it. Matrix
    products find candidates, a few more than k. Their distances are then measured pair by pair, so
    that a pair has the same distance to the last bit in any search.

    Args:
        index: float32 or float16 [num_database, D], may be memory-mapped; or an index of faiss.
        queries: float32 [num_queries, D].
        k: At most the number of descriptors is returned.
        rows: Indices of the database that are searched, ascending; those that an index of faiss
            holds. None: all. int64 [num_rows].

    Returns:
        Database indices, nearest first, int64 [num_queries, k], and their L2 distances (not
        squared), float32 [num_queries, k]; equal distances in order of the indices. An index of
        faiss may find fewer than k: such rows end in -1, distance inf. Its distances are those to
        its codes, unless it refines them.

    Raises:
        ValueError: If shapes or types do not fit, or descriptors are not finite.
    """
    if isinstance(index, np.ndarray):
        _check_descriptors(index, "database", (np.float32, np.float16))
    dim = index.shape[1] if isinstance(index, np.ndarray) else index.d
    _check_descriptors(queries, "queries", (np.float32,))
    if queries.shape[1] != dim:
        raise ValueError(
            f"Descriptors of the database have length {dim}, those of the queries "
            f"{queries.shape[1]}: they are of different models"
        )
    if k < 1:
        raise ValueError(f"At least 1 neighbour must be asked for, not {k}")
    queries = np.ascontiguousarray(queries)
    if isinstance(index, np.ndarray):
        found, distances = _search_exactly(index, queries, k, rows)
    else:
        found, distances = _search_index(index, queries, min(k, index.ntotal))
    return (found if rows is None else np.where(found < 0, -1, rows[found])), distances


def find_neighbors_within(
    database: np.ndarray,
    queries: np.ndarray,
    k: int,
    database_groups: np.ndarray,
    queries_groups: np.ndarray,
) -> Neighbors:
    """Search exactly, for each query among the database images of its own group only.

    Args:
        database: float32 or float16 [num_database, D].
        queries: float32 [num_queries, D].
        k: As in `find_neighbors`.
        database_groups: Group of each database image, such as its city. int [num_database].
        queries_groups: Group of each query. int [num_queries].

    Returns:
        As `find_neighbors`; where a group has fewer than k images, the row ends in -1, distance
        inf.

    Raises:
        ValueError: As `find_neighbors`, or if there is not one group per descriptor.
    """
    if len(database_groups) != len(database) or len(queries_groups) != len(queries):
        raise ValueError(
            f"{len(database_groups):,} groups for {len(database):,} database images and "
            f"{len(queries_groups):,} for {len(queries):,} queries: one each is needed"
        )
    shape = (len(queries), min(k, len(database)))
    predictions, distances = np.full(shape, -1, np.int64), np.full(shape, np.inf, np.float32)
    for group in np.unique(queries_groups):
        rows = np.flatnonzero(database_groups == group)
        if len(rows) == 0:
            continue
        own = np.flatnonzero(queries_groups == group)
        found, found_distances = find_neighbors(database, queries[own], k, rows)
        columns = slice(found.shape[1])
        predictions[own, columns] = found
        distances[own, columns] = found_distances
    return predictions, distances


def merge_neighbors(
    predictions: Sequence[np.ndarray], distances: Sequence[np.ndarray], k: int
) -> Neighbors:
    """Merge the neighbours of the parts of a database into those of all of it.

    Args:
        predictions: One array per part: indices of the whole database, -1 for none, of the k
            nearest, or of all in a part that has fewer. int64 [num_queries, K of the part].
        distances: Of those, inf for none. float32 [num_queries, K of the part].
        k: At most the number of predictions in all parts is returned.

    Returns:
        As `find_neighbors`; rows with fewer predictions end in -1, distance inf.

    Raises:
        ValueError: If there is no part, or parts do not fit.
    """
    shapes = [[list(a.shape) for a in arrays] for arrays in (predictions, distances)]
    if not shapes[0] or shapes[0] != shapes[1] or len({shape[0] for shape in shapes[0]}) > 1:
        raise ValueError(
            f"Parts must be of the same queries, with one distance per prediction: predictions are "
            f"{shapes[0]}, distances {shapes[1]}"
        )
    return _order(np.concatenate(predictions, axis=1), np.concatenate(distances, axis=1), k)


def measure_agreement(
    predictions: np.ndarray,
    search_exactly: Callable[[np.ndarray, int], np.ndarray],
    sample_size: int = 200,
    seed: int = 0,
) -> float:
    """Measure how many of the exact nearest neighbours a search has found, in percent.

    For each query in a sample, the first k predictions are compared with the k exact nearest
    neighbours as sets; k is 10 or, if less, the number of predictions. The result is the mean over
    queries of the share that is in both.

    Args:
        predictions: Of the search that is measured. int [num_queries, K], -1 for none.
        search_exactly: Given indices of queries and k, returns their exact neighbours, int
            [len(indices), k].
        sample_size: Number of queries, drawn without replacement; all if there are fewer.
        seed: Of the sample.

    Returns:
        0 to 100.
    """
    size = min(sample_size, len(predictions))
    sample = np.sort(np.random.default_rng(seed).choice(len(predictions), size, replace=False))
    found = predictions[sample, :10]
    exact = search_exactly(sample, found.shape[1])
    shares = [np.isin(nearest, row).mean() for nearest, row in zip(exact, found, strict=True)]
    return 100 * float(np.mean(shares))


def choose_search(search: str, num_database: int, dim: int) -> str:
    """Return a search whose parameters are chosen: `ivf_pq` becomes a factory string.

    It has as many lists as each has descriptors, and probes 4 sqrt(lists) of them: 4 times as many
    lists took 25 times as long to train. A code has 4 bits for every two numbers of a descriptor.

    Args:
        search: As on the command line.
        num_database: Number of descriptors.
        dim: Their length.
    """
    if search != IVF_PQ:
        return search
    nlist = max(min(round(math.sqrt(num_database)), num_database // _MIN_PER_CENTROID), 1)
    nprobe = min(max(8, round(4 * math.sqrt(nlist))), nlist)
    m = max(n for n in range(1, max(1, dim // 2) + 1) if dim % n == 0)
    return f"IVF{nlist},PQ{m}x4fs,RFlat;nprobe={nprobe}"


def describe_search(search: str, num_database: int, dim: int) -> str:
    """Return a phrase for results: "exact L2", or "IVF64,Flat;nprobe=8, approximate L2"."""
    if search == EXACT:
        return "exact L2"
    return f"{choose_search(search, num_database, dim)}, approximate L2"


def check_search(search: str) -> None:
    """Raise a ValueError if neither we nor faiss can read a search, whatever the descriptors."""
    if search in (EXACT, FP16, IVF_PQ):
        return
    try:
        _construct(search, _ANY_DIM)
    except RuntimeError as error:
        if "could not" in str(error):  # otherwise it is about the length of descriptors
            raise ValueError(
                f"Unknown search '{search}': choose {EXACT}, {FP16}, {IVF_PQ}, or a factory string "
                "of faiss, with parameters behind a semicolon as in 'IVF1024,Flat;nprobe=32' "
                f"({_reason(error)})"
            ) from None


def check_fits(search: str, num_database: int, dim: int) -> None:
    """Raise a ValueError if an index cannot be built for a database; nothing is trained."""
    search = choose_search(search, num_database, dim)
    if search in (EXACT, FP16):
        return
    with _explained(search, num_database, dim):
        inverted = faiss.try_extract_index_ivf(_construct(search, dim))
    if inverted is not None and inverted.nlist > num_database:
        raise ValueError(
            f"--search {search} needs at least one descriptor for each of its {inverted.nlist:,} "
            f"lists, the database has {num_database:,}: take fewer lists, or {IVF_PQ}"
        )


def build_index(
    database: np.ndarray, search: str, rows: np.ndarray | None = None, seed: int = 0
) -> Index:
    """Build the index of a search: train it on a sample of a database, then add all of it.

    The same seed and number of threads give the same index, except for HNSW, whose links depend on
    which thread comes first.

    Args:
        database: float32 or float16 [num_database, D]; may be memory-mapped.
        search: As on the command line. `exact` gives the database itself, not a copy, and `fp16`
            all of it as float16. Refinement (",RFlat") keeps a copy of the descriptors.
        rows: Indices of the database that the index holds; None: all. int64 [num_rows].
        seed: Of the sample: 65,536 descriptors, or 64 a list if that is more.

    Raises:
        ValueError: If the search does not go with the database.
    """
    if search == EXACT:
        return database
    if search == FP16:
        return database.astype(np.float16, copy=False)
    num_rows, dim = len(database) if rows is None else len(rows), database.shape[1]
    check_fits(search, num_rows, dim)
    search = choose_search(search, num_rows, dim)
    with _explained(search, num_rows, dim):
        index = _construct(search, dim)
        if not index.is_trained:
            index.train(_training_sample(index, database, rows, seed))
        # An index grows once if all comes at once; a transform copies its input, as float32 does.
        is_copied = isinstance(index, faiss.IndexPreTransform) or database.dtype != np.float32
        step = _rows_per_block(dim) if is_copied or rows is not None else max(num_rows, 1)
        for _, block in _blocks(database, rows, step):
            index.add(block)
    logging.debug(f"Index of {num_rows:,} descriptors: {search}")
    return index


def _search_exactly(
    database: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None
) -> Neighbors:
    """Search rows of a database; the indices are positions among these rows."""
    found = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0), np.float32)
    for first, block in _blocks(database, rows, _rows_per_block(database.shape[1])):
        _, candidates = faiss.knn(queries, block, min(k + _NUM_SPARE, len(block)))
        if (candidates < 0).any():
            raise ValueError("Some descriptors are not finite: the model's weights are broken")
        measured = _measure_distances(block, queries, candidates)
        found, distances = _order(
            np.concatenate((found, candidates + first), axis=1),
            np.concatenate((distances, measured), axis=1),
            k,
        )
    return found, distances


def _search_index(index: faiss.Index, queries: np.ndarray, k: int) -> Neighbors:
    params = None
    if isinstance(index, faiss.IndexRefine) and index.k_factor == 1:  # nobody has set it
        params = faiss.IndexRefineSearchParameters(k_factor=max(1, _NUM_REFINED / k))
    squared, found = index.search(queries, k, params=params)
    distances = np.sqrt(np.maximum(np.where(found < 0, np.inf, squared), 0), dtype=np.float32)
    return _order(found, distances, k)


def _order(found: np.ndarray, distances: np.ndarray, k: int) -> Neighbors:
    """Return the first k of each row by distance, then by index; -1 comes last."""
    order = np.lexsort((found, distances))[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)


def _measure_distances(
    block: np.ndarray, queries: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Measure L2 distances from each query to rows of a block, int64 [num_queries, K]."""
    squared = np.empty(candidates.shape, np.float32)
    own = np.repeat(np.arange(len(queries), dtype=np.int64), candidates.shape[1])
    candidates = np.ascontiguousarray(candidates)
    pointers = [faiss.swig_ptr(a) for a in (queries, own, block, candidates, squared)]
    faiss.pairwise_indexed_L2sqr(queries.shape[1], candidates.size, *pointers)
    return np.sqrt(squared)


def _rows_per_block(dim: int) -> int:
    return max(_BYTES_PER_BLOCK // (4 * dim), 1)


def _blocks(
    database: np.ndarray, rows: np.ndarray | None, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield positions among the rows, and float32 [at most step, D] from there on, in C order."""
    for first in range(0, len(database) if rows is None else len(rows), step):
        wanted = slice(first, first + step)
        yield first, _as_float32(database[wanted if rows is None else rows[wanted]])


def _as_float32(descriptors: np.ndarray) -> np.ndarray:
    if descriptors.dtype == np.float16:  # NumPy takes ten times as long
        return torch.from_numpy(np.array(descriptors, order="C")).float().numpy()
    return np.ascontiguousarray(descriptors)


def _construct(search: str, dim: int) -> faiss.Index:
    factory, _, params = search.partition(";")
    index = faiss.index_factory(dim, factory)
    faiss.ParameterSpace().set_index_parameters(index, params)
    return index


def _training_sample(
    index: faiss.Index, database: np.ndarray, rows: np.ndarray | None, seed: int
) -> np.ndarray:
    """Draw rows in the order of the database; few are repeated, so that k-means has enough."""
    inverted = faiss.try_extract_index_ivf(index)
    wanted = max(_MIN_TRAINING, _TRAINING_PER_LIST * (inverted.nlist if inverted else 0))
    rows = np.arange(len(database)) if rows is None else rows
    if wanted < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, wanted, replace=False))
    enough = _PQ_CENTROIDS * _MIN_PER_CENTROID
    return _as_float32(database[np.resize(rows, enough) if len(rows) < enough else rows])


@contextlib.contextmanager
def _explained(search: str, num_database: int, dim: int) -> Iterator[None]:
    """Turn an error of faiss into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"faiss cannot make the index of --search {search} for {num_database:,} descriptors of "
            f"length {dim}: {_reason(error)}"
        ) from None


def _reason(error: RuntimeError) -> str:
    return str(error).rsplit("failed: ", 1)[-1].rsplit(": ", 1)[-1]


def _check_descriptors(descriptors: np.ndarray, role: str, dtypes: Sequence[type]) -> None:
    if descriptors.ndim != 2 or descriptors.dtype not in dtypes or not len(descriptors):
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(
            f"Descriptors must be {names} [number, length], the number above 0; those of the "
            f"{role} are {descriptors.dtype} {list(descriptors.shape)}"
        )
