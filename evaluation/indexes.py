"""Ways to search a database: exact, or by an index that trades neighbours for time or memory.

An index is named on the command line as NAME or NAME:KEY=VALUE,..., for example
`ivf_pq:nlist=1024,nprobe=32,m=64`, or as `faiss:STRING` for anything that faiss.index_factory
makes. What is left out follows the size of the database.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import faiss
import numpy as np

Params = Mapping[str, int | str]
_FACTORY = "faiss"
_MIN_TRAINING = 65_536  # descriptors, or all that there are
_TRAINING_PER_LIST = 64
_MIN_TRAINING_PER_LIST = 39  # below that faiss warns of poor centroids
_PQ_CENTROIDS = 256  # 8 bits for each of the m parts
_BLOCK = 65_536


@dataclass(frozen=True)
class IndexSpec:
    """A kind of index, key of INDEXES or "faiss", and the parameters that were chosen for it."""

    name: str
    params: Params = field(default_factory=dict)


EXACT = IndexSpec("exact")


class _Kind(NamedTuple):
    # (num_database, dim, parameters given) -> all parameters; those given are left as they are
    complete: Callable[[int, int, Params], dict[str, int]]
    construct: Callable[..., faiss.Index]  # (dim, **parameters) -> untrained index


def parse_index(text: str) -> IndexSpec:
    """Read NAME, NAME:KEY=VALUE,... or faiss:STRING.

    Raises:
        ValueError: If a name or key is unknown, or a value is not a whole number above 0.
    """
    name, _, rest = text.partition(":")
    if name == _FACTORY:
        if not rest:
            raise ValueError("After 'faiss:' goes a factory string, as in 'faiss:IVF1024,PQ64'")
        return IndexSpec(_FACTORY, {"factory": rest})
    _check_name(name)
    keys, params = list(INDEXES[name].complete(1, 1, {})), {}
    for item in rest.split(",") if rest else []:
        key, _, value = item.partition("=")
        if key not in keys or key in params:
            there_are = f"choose from {', '.join(keys)}" if keys else "it has none"
            what = "is given twice" if key in params else "is not a parameter"
            raise ValueError(f"'{key}' {what} of the index {name} in '{text}': {there_are}")
        if not (value.isascii() and value.isdecimal() and int(value) > 0):
            raise ValueError(f"{key} must be a whole number above 0, not '{value}', in '{text}'")
        params[key] = int(value)
    return IndexSpec(name, params)


def choose_params(spec: IndexSpec, num_database: int, dim: int) -> IndexSpec:
    """Fill in the parameters that were left out, for a database of this size.

    Args:
        spec: With none, some or all parameters.
        num_database: Number of descriptors.
        dim: Their length.

    Returns:
        The spec with all parameters; `nprobe` is at most `nlist`.

    Raises:
        ValueError: If the parameters do not go with the database.
    """
    if spec.name == _FACTORY:
        return spec
    _check_name(spec.name)
    params = INDEXES[spec.name].complete(num_database, dim, spec.params)
    if params.get("nlist", 1) > num_database:
        raise ValueError(
            f"nlist={params['nlist']} needs as many descriptors and the database has "
            f"{num_database:,}: give a smaller one, or none to have it chosen"
        )
    if dim % params.get("m", 1):
        divisors = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise ValueError(f"m={params['m']} does not divide the descriptor length {dim}: {divisors}")
    if params.get("M", 2) < 2:
        raise ValueError(f"M={params['M']} is too small for hnsw: a node needs 2 links or more")
    if "nprobe" in params:
        params["nprobe"] = min(params["nprobe"], params["nlist"])
    return IndexSpec(spec.name, params)


def check_fits(spec: IndexSpec, num_database: int, dim: int) -> None:
    """Raise a ValueError if an index cannot be made for a database; nothing is trained."""
    spec = choose_params(spec, num_database, dim)
    with _explained(spec, num_database, dim):
        _construct(spec, dim)


def describe_index(spec: IndexSpec) -> str:
    """Return one phrase for results: "exact L2", "ivf (nlist 64, nprobe 8), approximate L2"."""
    if spec.name == EXACT.name:
        return "exact L2"
    params = ", ".join(f"{key} {value}" for key, value in spec.params.items())
    return f"{spec.name} ({params}), approximate L2" if params else f"{spec.name}, approximate L2"


def build_index(database: np.ndarray, spec: IndexSpec, seed: int = 0) -> faiss.Index:
    """Train an index on a sample of the database and put all of the database in.

    The same seed and number of threads give the same index, but for hnsw, whose links depend on
    which thread comes first. At most 65,536 descriptors are trained on, or 64 a list if that is
    more.

    Args:
        database: float32 [num_database, D]; may be memory-mapped. It is copied into the index, in
            the form that the index keeps.
        spec: Kind and parameters; those left out are chosen.
        seed: Of the sample.

    Raises:
        ValueError: If the parameters do not go with the database.
    """
    spec = choose_params(spec, *database.shape)
    with _explained(spec, *database.shape):
        index = _construct(spec, database.shape[1])
        if not index.is_trained:
            index.train(_training_sample(index, database, seed))
        # The codes of a plain index grow once if all come at once; a transform copies its input.
        block = _BLOCK if isinstance(index, faiss.IndexPreTransform) else len(database)
        for first in range(0, len(database), block):
            index.add(np.ascontiguousarray(database[first : first + block]))
    logging.debug(f"Index of {len(database):,} descriptors: {describe_index(spec)}")
    return index


@contextlib.contextmanager
def _explained(spec: IndexSpec, num_database: int, dim: int) -> Iterator[None]:
    """Turn an error of faiss into a sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).rsplit("failed: ", 1)[-1]
        raise ValueError(
            f"faiss cannot make the index {describe_index(spec)} for {num_database:,} descriptors "
            f"of length {dim}: {reason}"
        ) from None


def _check_name(name: str) -> None:
    if name not in INDEXES:
        known = ", ".join(INDEXES)
        raise ValueError(f"Unknown index '{name}': choose from {known}, or faiss:FACTORY_STRING")


def _construct(spec: IndexSpec, dim: int) -> faiss.Index:
    if spec.name == _FACTORY:
        return faiss.index_factory(dim, spec.params["factory"])
    return INDEXES[spec.name].construct(dim, **spec.params)


def _training_sample(index: faiss.Index, database: np.ndarray, seed: int) -> np.ndarray:
    """Draw rows in the order of the database; few rows are repeated, so that k-means has enough."""
    inverted = faiss.try_extract_index_ivf(index)
    wanted = max(_MIN_TRAINING, _TRAINING_PER_LIST * (inverted.nlist if inverted else 0))
    rng = np.random.default_rng(seed)
    rows = np.arange(len(database))
    if wanted < len(rows):
        rows = np.sort(rng.choice(len(rows), wanted, replace=False))
    if len(rows) < _PQ_CENTROIDS:
        rows = np.resize(rows, _PQ_CENTROIDS)
    return np.ascontiguousarray(database[rows])


def _no_params(num_database: int, dim: int, given: Params) -> dict[str, int]:
    return dict(given)


def _lists(num_database: int, dim: int, given: Params) -> dict[str, int]:
    """About 4 sqrt(N) lists, fewer where they would hold too few to train on."""
    nlist = min(round(4 * math.sqrt(num_database)), num_database // _MIN_TRAINING_PER_LIST)
    params = {"nlist": max(nlist, 1)} | dict(given)
    return {"nlist": params["nlist"], "nprobe": max(8, params["nlist"] // 32)} | params


def _lists_and_parts(num_database: int, dim: int, given: Params) -> dict[str, int]:
    """One byte for 8 numbers, or for the next more that divide the descriptor length."""
    m = max(n for n in range(1, max(1, dim // 8) + 1) if dim % n == 0)
    return _lists(num_database, dim, {"m": m} | dict(given))


def _links(num_database: int, dim: int, given: Params) -> dict[str, int]:
    return {"M": 32, "ef_construction": 80, "ef_search": 128} | dict(given)


def _scalar(quantizer: int) -> Callable[[int], faiss.Index]:
    return lambda dim: faiss.IndexScalarQuantizer(dim, quantizer)


def _ivf(dim: int, nlist: int, nprobe: int) -> faiss.Index:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, nlist)
    index.nprobe, index.cp.min_points_per_centroid = nprobe, 1
    return index


def _ivf_pq(dim: int, nlist: int, nprobe: int, m: int) -> faiss.Index:
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dim), dim, nlist, m, 8)
    index.nprobe, index.cp.min_points_per_centroid = nprobe, 1
    index.pq.cp.min_points_per_centroid = 1  # a small database is no reason for warnings
    return index


def _hnsw(dim: int, M: int, ef_construction: int, ef_search: int) -> faiss.Index:
    index = faiss.IndexHNSWFlat(dim, M)
    index.hnsw.efConstruction, index.hnsw.efSearch = ef_construction, ef_search
    return index


INDEXES = {
    "exact": _Kind(_no_params, faiss.IndexFlatL2),
    "flat_fp16": _Kind(_no_params, _scalar(faiss.ScalarQuantizer.QT_fp16)),  # half the memory
    "flat_int8": _Kind(_no_params, _scalar(faiss.ScalarQuantizer.QT_8bit)),  # a quarter
    "ivf": _Kind(_lists, _ivf),  # nprobe of nlist lists are searched
    "ivf_pq": _Kind(_lists_and_parts, _ivf_pq),  # m bytes a descriptor
    "hnsw": _Kind(_links, _hnsw),  # a graph of M links a descriptor
}
