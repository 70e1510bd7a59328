"""Ways to search a database: exact, or by an index that trades neighbours for time or memory.

An index is named on the command line as NAME or NAME:KEY=VALUE,..., for example
`ivf_pq:nlist=1024,nprobe=32,m=64`, or as `faiss:STRING` for anything that faiss.index_factory
makes. What is left out follows the size of the database.

pq_fastscan and ivf_pq find candidates by short codes, `rerank` a query, and order them by the
descriptors themselves, which stay where they are. With rerank=0 they do without the descriptors.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import faiss
import numpy as np

from evaluation.index_kinds import INDEXES, Params

_FACTORY = "faiss"
_RERANK = "rerank"
_MIN_TRAINING = 65_536  # descriptors, or all that there are
_TRAINING_PER_LIST = 64
_PQ_CENTROIDS = 256  # at most, of 8 bits a part
_BLOCK = 65_536


@dataclass(frozen=True)
class IndexSpec:
    """A kind of index, key of INDEXES or "faiss", and the parameters that were chosen for it."""

    name: str
    params: Params = field(default_factory=dict)


EXACT = IndexSpec("exact")
_FLAT_FP16 = "flat_fp16"


@dataclass(frozen=True)
class Index:
    """Descriptors or codes of them; with both, the descriptors order what the codes find."""

    descriptors: np.ndarray | None  # float32 or float16 [num_descriptors, D]; may be memory-mapped
    codes: faiss.Index | None = None
    num_candidates: int = 0  # that the codes find for each query, if there are descriptors as well

    def __post_init__(self) -> None:
        """Raise a ValueError if codes and descriptors are not of the same images."""
        if self.codes is None or self.descriptors is None:
            return
        coded = (self.codes.ntotal, self.codes.d)
        if coded != self.descriptors.shape:
            raise ValueError(f"codes of {coded}, descriptors of {self.descriptors.shape} numbers")

    @property
    def num_descriptors(self) -> int:
        """Number of descriptors that can be found."""
        return len(self.descriptors) if self.codes is None else self.codes.ntotal

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self.descriptors.shape[1] if self.codes is None else self.codes.d


def parse_index(text: str) -> IndexSpec:
    """Read NAME, NAME:KEY=VALUE,... or faiss:STRING.

    Raises:
        ValueError: If a name or key is unknown, or a value is not a whole number above 0; only
            `rerank` may be 0.
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
        is_number = value.isascii() and value.isdecimal()
        if not is_number or (int(value) == 0 and key != _RERANK):
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
    if spec.name == _FACTORY or INDEXES[spec.name].construct is not None:
        with _explained(spec, num_database, dim):
            _construct(spec, dim)


def describe_index(spec: IndexSpec) -> str:
    """Return one phrase for results: "exact L2", "ivf (nlist 64, nprobe 8), approximate L2"."""
    if spec.name == EXACT.name:
        return "exact L2"
    params = ", ".join(f"{key} {value}" for key, value in spec.params.items())
    return f"{spec.name} ({params}), approximate L2" if params else f"{spec.name}, approximate L2"


def build_index(database: np.ndarray, spec: IndexSpec, seed: int = 0) -> Index:
    """Make an index of a database: train codes on a sample of it and put all of it in.

    The same seed and number of threads give the same index, but for hnsw, whose links depend on
    which thread comes first. At most 65,536 descriptors are trained on, or 64 a list if that is
    more. An index that is exact or re-ranks keeps the database itself, not a copy.

    Args:
        database: float32 or float16 [num_database, D]; may be memory-mapped.
        spec: Kind and parameters; those left out are chosen.
        seed: Of the sample.

    Raises:
        ValueError: If the parameters do not go with the database.
    """
    spec = choose_params(spec, *database.shape)
    if spec.name == EXACT.name:
        return Index(database)
    if spec.name == _FLAT_FP16:
        return Index(database.astype(np.float16, copy=False))
    with _explained(spec, *database.shape):
        codes = _construct(spec, database.shape[1])
        if not codes.is_trained:
            codes.train(_training_sample(codes, database, seed))
        # Codes grow once if all come at once; a transform copies its input, as float32 does.
        is_copied = isinstance(codes, faiss.IndexPreTransform) or database.dtype != np.float32
        block = _BLOCK if is_copied else len(database)
        for first in range(0, len(database), block):
            codes.add(np.ascontiguousarray(database[first : first + block], np.float32))
    logging.debug(f"Index of {len(database):,} descriptors: {describe_index(spec)}")
    num_candidates = spec.params.get(_RERANK, 0)
    return Index(database if num_candidates else None, codes, num_candidates)


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
    params = {key: value for key, value in spec.params.items() if key != _RERANK}
    return INDEXES[spec.name].construct(dim, **params)


def _training_sample(codes: faiss.Index, database: np.ndarray, seed: int) -> np.ndarray:
    """Draw rows in the order of the database; few rows are repeated, so that k-means has enough."""
    inverted = faiss.try_extract_index_ivf(codes)
    wanted = max(_MIN_TRAINING, _TRAINING_PER_LIST * (inverted.nlist if inverted else 0))
    rng = np.random.default_rng(seed)
    rows = np.arange(len(database))
    if wanted < len(rows):
        rows = np.sort(rng.choice(len(rows), wanted, replace=False))
    if len(rows) < _PQ_CENTROIDS:
        rows = np.resize(rows, _PQ_CENTROIDS)
    return np.ascontiguousarray(database[rows], np.float32)
