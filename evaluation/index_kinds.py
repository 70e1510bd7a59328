"""The kinds of indexes: what each is made of, and the parameters that follow the database."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import faiss

Params = Mapping[str, int | str]
_MIN_TRAINING_PER_LIST = 39  # below that faiss warns of poor centroids
_PQ_BITS = 4  # for each of the m parts of a code: what the registers of a processor look up
_NUM_RERANKED = 500


class Kind(NamedTuple):
    """One kind of index; parameters are whole numbers."""

    # (num_database, dim, parameters given) -> all parameters; those given are left as they are
    complete: Callable[[int, int, Params], dict[str, int]]
    # (dim, **parameters without `rerank`) -> untrained codes; None: the descriptors are searched
    construct: Callable[..., faiss.Index] | None


def _no_params(num_database: int, dim: int, given: Params) -> dict[str, int]:
    return dict(given)


def _lists(num_database: int, dim: int, given: Params) -> dict[str, int]:
    """As many lists as each has descriptors: 4 times as many took 25 times as long to train."""
    nlist = min(round(math.sqrt(num_database)), num_database // _MIN_TRAINING_PER_LIST)
    params = {"nlist": max(nlist, 1)} | dict(given)
    nprobe = max(8, round(4 * math.sqrt(params["nlist"])))
    return {"nlist": params["nlist"], "nprobe": nprobe} | params


def _parts(num_database: int, dim: int, given: Params) -> dict[str, int]:
    """A part for every two numbers, or for the next more that divide the descriptor length."""
    m = max(n for n in range(1, max(1, dim // 2) + 1) if dim % n == 0)
    return {"m": m, "rerank": _NUM_RERANKED} | dict(given)


def _lists_and_parts(num_database: int, dim: int, given: Params) -> dict[str, int]:
    return _lists(num_database, dim, _parts(num_database, dim, given))


def _links(num_database: int, dim: int, given: Params) -> dict[str, int]:
    return {"M": 32, "ef_construction": 80, "ef_search": 128} | dict(given)


def _int8(dim: int) -> faiss.Index:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit)


def _pq_fastscan(dim: int, m: int) -> faiss.Index:
    index = faiss.IndexPQFastScan(dim, m, _PQ_BITS)
    index.pq.cp.min_points_per_centroid = 1  # a small database is no reason for warnings
    return index


def _ivf(dim: int, nlist: int, nprobe: int) -> faiss.Index:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, nlist)
    index.nprobe, index.cp.min_points_per_centroid = nprobe, 1
    return index


def _ivf_pq(dim: int, nlist: int, nprobe: int, m: int) -> faiss.Index:
    index = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(dim), dim, nlist, m, _PQ_BITS)
    index.nprobe, index.cp.min_points_per_centroid = nprobe, 1
    index.pq.cp.min_points_per_centroid = 1
    return index


def _hnsw(dim: int, M: int, ef_construction: int, ef_search: int) -> faiss.Index:
    index = faiss.IndexHNSWFlat(dim, M)
    index.hnsw.efConstruction, index.hnsw.efSearch = ef_construction, ef_search
    return index


INDEXES = {
    "exact": Kind(_no_params, None),
    "flat_fp16": Kind(_no_params, None),  # half the memory, as fast
    "flat_int8": Kind(_no_params, _int8),  # a quarter
    "pq_fastscan": Kind(_parts, _pq_fastscan),  # m / 2 bytes a descriptor
    "ivf": Kind(_lists, _ivf),  # nprobe of nlist lists are searched
    "ivf_pq": Kind(_lists_and_parts, _ivf_pq),  # both
    "hnsw": Kind(_links, _hnsw),  # a graph of M links a descriptor
}
