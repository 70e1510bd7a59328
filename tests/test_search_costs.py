import sys

import numpy as np
import pytest

from benchmarks.common import measure
from benchmarks.indexes import HNSW, PQ, IndexCost, measure_bytes, project, recommend
from evaluation.search import EXACT, IVF_PQ, build_index


def cost(search, build_s, train_s, search_s, in_memory, on_disk):
    return IndexCost(search, build_s, train_s, search_s, in_memory, on_disk, np.zeros((1, 1), int))


COSTS = {
    EXACT: cost(EXACT, 0, 0, 10, 0, 2048),
    PQ: cost(PQ, 10, 2, 3, 128, 2048),
    IVF_PQ: cost(IVF_PQ, 18, 5, 0.5, 140, 2048),
    HNSW: cost(HNSW, 300, 0, 0.2, 2300, 0),
}


def test_costs_grow_as_the_work_does():
    assert project(COSTS, EXACT, 10**6, 10**6) == (0, 10)
    assert project(COSTS, EXACT, 10**6, 10**7) == (0, 100)
    assert project(COSTS, EXACT, 10**6, 10**5) == (0, 1)
    assert project(COSTS, PQ, 10**6, 10**8) == (802, 300)
    assert project(COSTS, IVF_PQ, 10**6, 10**6) == pytest.approx((18, 0.5))
    trained = 5 * (64 * 10**8) / (65_536 * 10**3)  # on 64 for each of 10,000 lists
    expected = (trained + 8 * 100 + 5 * 1000, 0.5 * 10**1.5)
    assert project(COSTS, IVF_PQ, 10**6, 10**8) == pytest.approx(expected)
    assert project(COSTS, HNSW, 10**6, 10**8) == pytest.approx((300 * 100 * 8 / 6, 0.2 * 8 / 6))
    slow = {EXACT: COSTS[EXACT]._replace(search_s=0.1)}
    assert project(slow, EXACT, 10**6, 10**8)[1] == pytest.approx(204.8), "the disk decides"


def test_what_does_not_fit_the_memory_is_not_recommended():
    size, once, kept = recommend(COSTS, 10**6, 10**6)
    assert size == "1,000,000" and once.startswith("`exact`: 0.0 s + 10.00 s, 0.00 GB in memory")
    assert kept.startswith(f"`{HNSW}`: 300.0 s + 0.20 s, 2.30 GB in memory, 0.0 GB mapped")
    size, _, kept = recommend(COSTS, 10**6, 10**8)
    assert size == "100,000,000 (projected)" and kept.startswith("`ivf_pq`")


def test_bytes_are_those_of_the_codes_and_of_the_mapped_descriptors(tmp_path):
    database = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
    assert measure_bytes(build_index(database, EXACT), tmp_path) == (0, 64)
    in_memory, on_disk = measure_bytes(build_index(database, "PQ8x4fs,RFlat"), tmp_path)
    assert 4 <= in_memory < 5 and on_disk == 64


def take_memory(file):
    own, mapped = np.ones(3 << 20), np.load(file, mmap_mode="r")
    sums = [own.sum() + mapped.sum() for _ in range(50)]  # as long as some looks at the memory
    return float(sums[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_is_mapped_is_counted_apart(tmp_path):
    np.save(tmp_path / "numbers.npy", np.ones(1 << 21))
    cost = measure(take_memory, tmp_path / "numbers.npy")
    assert cost.result == 5 << 20
    assert 20 < cost.peak_mb < 40 and 12 < cost.mapped_mb < 32
