import numpy as np
import pytest

from evaluation.index_kinds import INDEXES
from evaluation.indexes import (
    EXACT,
    Index,
    IndexSpec,
    build_index,
    check_fits,
    choose_params,
    describe_index,
    parse_index,
)


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("exact", "exact", {}),
        ("ivf", "ivf", {}),
        (
            "ivf_pq:nlist=1024,nprobe=32,m=64,rerank=0",
            "ivf_pq",
            {"nlist": 1024, "nprobe": 32, "m": 64, "rerank": 0},
        ),
        ("pq_fastscan:rerank=50", "pq_fastscan", {"rerank": 50}),
        ("hnsw:ef_search=7", "hnsw", {"ef_search": 7}),
        ("faiss:IVF8,PQ4x4:x=1", "faiss", {"factory": "IVF8,PQ4x4:x=1"}),
    ],
)
def test_parse_index(text, name, params):
    assert parse_index(text) == IndexSpec(name, params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("annoy", "Unknown index 'annoy': choose from exact, flat_fp16, .* faiss:FACTORY"),
        ("", "Unknown index ''"),
        ("ivf:lists=3", "'lists' is not a parameter of the index ivf .* nlist, nprobe"),
        ("ivf:m=3", "'m' is not a parameter"),
        ("flat_fp16:nlist=3", "flat_fp16 .* it has none"),
        ("ivf:nlist=3,nlist=4", "'nlist' is given twice"),
        ("ivf:nlist=three", "nlist must be a whole number above 0, not 'three'"),
        ("ivf:nlist=2.5", "not '2.5'"),
        ("ivf:nlist=0", "not '0'"),
        ("pq_fastscan:m=0", "not '0'"),
        ("pq_fastscan:rerank=-1", "not '-1'"),
        ("ivf:rerank=5", "'rerank' is not a parameter of the index ivf"),
        ("ivf:nlist", "not ''"),
        ("ivf:nlist=4,", "'' is not a parameter"),
        ("faiss:", "'faiss:' goes a factory string"),
    ],
)
def test_bad_names_and_parameters_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_index(text)


@pytest.mark.parametrize(
    ("text", "num_database", "dim", "expected"),
    [
        ("ivf", 1_000_000, 512, {"nlist": 1000, "nprobe": 126}),
        ("ivf", 50, 512, {"nlist": 1, "nprobe": 1}),
        ("ivf", 1000, 512, {"nlist": 25, "nprobe": 20}),
        ("ivf:nlist=640", 1_000_000, 512, {"nlist": 640, "nprobe": 101}),
        ("ivf:nlist=16,nprobe=99", 3900, 512, {"nlist": 16, "nprobe": 16}),
        ("ivf_pq:nlist=9", 3900, 512, {"nlist": 9, "nprobe": 9, "m": 256, "rerank": 500}),
        ("pq_fastscan", 3900, 512, {"m": 256, "rerank": 500}),
        ("pq_fastscan", 3900, 100, {"m": 50, "rerank": 500}),
        ("pq_fastscan", 3900, 7, {"m": 1, "rerank": 500}),
        ("pq_fastscan:m=7,rerank=0", 3900, 7, {"m": 7, "rerank": 0}),
        ("hnsw:M=8", 50, 24, {"M": 8, "ef_construction": 80, "ef_search": 128}),
        ("flat_int8", 50, 24, {}),
    ],
)
def test_parameters_follow_the_database(text, num_database, dim, expected):
    assert choose_params(parse_index(text), num_database, dim).params == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ivf:nlist=51", "nlist=51 needs as many descriptors and the database has 50"),
        ("ivf_pq:m=5", "m=5 does not divide the descriptor length 24: 1, 2, 3, 4, 6, 8, 12, 24"),
        ("hnsw:M=1", "M=1 is too small"),
        ("faiss:garbage", "faiss cannot make the index faiss .factory garbage.*could not parse"),
        ("faiss:IVF999,Flat", "for 50 descriptors of length 24: .*training points"),
    ],
)
def test_parameters_that_do_not_go_with_the_database_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        build_index(np.zeros((50, 24), np.float32), parse_index(text))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (EXACT, "exact L2"),
        (IndexSpec("flat_int8"), "flat_int8, approximate L2"),
        (
            IndexSpec("ivf_pq", {"nlist": 1024, "nprobe": 32, "m": 64}),
            "ivf_pq (nlist 1024, nprobe 32, m 64), approximate L2",
        ),
        (parse_index("faiss:OPQ8,Flat"), "faiss (factory OPQ8,Flat), approximate L2"),
    ],
)
def test_describe_index(spec, expected):
    assert describe_index(spec) == expected


def test_codes_must_be_of_the_descriptors():
    database = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
    index = build_index(database, parse_index("pq_fastscan"))
    assert (index.num_descriptors, index.dim, index.num_candidates) == (50, 24, 500)
    for other in (database[:49], database[:, :23]):
        with pytest.raises(ValueError, match=r"codes of \(50, 24\), descriptors of \("):
            Index(other, index.codes, 500)


@pytest.mark.parametrize("name", INDEXES)
def test_what_fits_can_be_built(name):
    check_fits(IndexSpec(name), 100, 24)
    index = build_index(np.zeros((100, 24), np.float32), IndexSpec(name))
    assert (index.num_descriptors, index.dim) == (100, 24)
