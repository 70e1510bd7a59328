"""What each way to search costs, what it finds, and which one to take for which size.

python -m benchmarks.indexes
python -m benchmarks.indexes --searches exact "IVF316,Flat;nprobe=32" "IVF316,Flat;nprobe=64"

The descriptors are those of a mini city, repeated with noise (see benchmarks.tiled_city). Each
index is built and searched in a process of its own. Costs of other sizes follow from the measured
ones by how the work grows with the size, and are said to be projected.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from benchmarks.common import write_remark, write_table, write_title
from benchmarks.tiled_city import DIM, TiledCity, make_tiled_city
from evaluation.search import EXACT, FP16, IVF_PQ, Index, build_index, choose_search, find_neighbors

NUM_NEIGHBORS = 20
PQ, HNSW = f"PQ{DIM // 2}x4fs,RFlat", "HNSW32;efConstruction=80,efSearch=128"
DEFAULT_SEARCHES = (EXACT, FP16, "SQ8", PQ, IVF_PQ, HNSW)
SIZES = (10**5, 10**6, 10**7, 10**8)
MEMORY_GB, DISK_GB_PER_S = 64, 1.0  # of the machine that settings are recommended for
MIN_TOP_1 = 97.0  # percent
NUM_SEARCHES, PATIENCE_S = 3, 15
NUM_TRAINED, TRAINED_PER_LIST = 65_536, 64  # descriptors, at least; see `build_index`
WORTH_IT = 0.8  # of the time of the exact search, below which another one is recommended


class IndexCost(NamedTuple):
    """What an index took, and what it found."""

    search: str  # as on the command line
    build_s: float
    train_s: float  # of it, before the descriptors are put in
    search_s: float  # all queries
    bytes_in_memory: float  # a vector
    bytes_on_disk: float  # a vector, mapped and read where needed: the descriptors themselves
    predictions: np.ndarray


def main() -> None:
    """Make descriptors, build and search each index, print costs and settings to take."""
    args = parse_arguments()
    write_title(
        "Indexes",
        f"{args.num_queries:,} queries, {NUM_NEIGHBORS} neighbours among {args.num_database:,} "
        f"descriptors of length {DIM}: a mini city described by an EfficientNet-Lite0 with "
        "ImageNet weights, repeated with noise. Each in a process of its own; the search is "
        f"the median of {NUM_SEARCHES} runs, or of fewer if they take {PATIENCE_S} s. Bytes are "
        "of a vector: in memory, and in a mapped file. Top-1 and top-20 are how many of the exact "
        "neighbours are found.",
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        city = make_tiled_city(Path(folder), args.num_database, args.num_queries)
        exact = measure(city, EXACT)
        costs = [exact] + [measure(city, one) for one in args.searches if one != EXACT]
        columns = ("search", "build", "search", "times exact", "bytes", "top-1", "top-20", "R@1")
        write_table(columns, (describe(city, cost, exact) for cost in costs))
    by_name = {cost.search: cost for cost in costs if measure_top_1(cost, exact) >= MIN_TOP_1}
    columns = ("descriptors", f"for {args.num_queries:,} queries once", "for a place index")
    write_remark(
        "The least of build and search, and the least search, that these measurements lead to "
        f"where the nearest neighbour is the exact one in at least {MIN_TOP_1:.0f}% of cases and "
        f"the index fits {MEMORY_GB} GB of memory. At other sizes than {args.num_database:,} they "
        "are projected: products, codes and scans grow with the number of descriptors, assignments "
        "to lists with its power of 1.5, scans of lists with that of 0.75, graphs with N log N, "
        "training with the sample and the lists; "
        f"what does not fit the memory is read from a disk at {DISK_GB_PER_S} GB/s. How many "
        "neighbours are found is not projected."
    )
    write_table(columns, (recommend(by_name, args.num_database, size) for size in SIZES))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--num_database", type=int, default=1_000_000)
    add("--num_queries", type=int, default=1_000)
    add("--searches", nargs="+", default=DEFAULT_SEARCHES)
    add("--folder", help="for the descriptors (default: a temporary one)")
    add("--quick", action="store_true", help="100,000 descriptors")
    args = cli.parse_args()
    args.num_database = 100_000 if args.quick else args.num_database
    return args


def measure(city: TiledCity, search: str) -> IndexCost:
    """Build and search in a new process."""
    sys.stderr.write(f"{search}\n")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (city, search))


def _measured(city: TiledCity, search: str) -> IndexCost:
    database, queries = city.database, city.queries
    chosen = choose_search(search, *database.shape)
    find_neighbors(database, queries[:1], 1)  # so that the file is in memory
    start_s = time.perf_counter()
    index = build_index(database, chosen)
    build_s = time.perf_counter() - start_s
    train_s = measure_training(database, chosen, build_s)
    searches_s = []
    while len(searches_s) < NUM_SEARCHES and sum(searches_s) < PATIENCE_S:
        start_s = time.perf_counter()
        predictions, _ = find_neighbors(index, queries, NUM_NEIGHBORS)
        searches_s.append(time.perf_counter() - start_s)
    in_memory, on_disk = measure_bytes(index, city.folder)
    search_s = statistics.median(searches_s)
    return IndexCost(search, build_s, train_s, search_s, in_memory, on_disk, predictions)


def measure_training(database: np.ndarray, search: str, build_s: float) -> float:
    """Return the seconds of a build that do not depend on how many descriptors are put in.

    They follow from a second build with half of the descriptors, which trains on as many.
    """
    few = database[: max(NUM_TRAINED, len(database) // 2)]
    if not ("IVF" in search or "PQ" in search) or len(few) == len(database):
        return 0.0
    start_s = time.perf_counter()
    build_index(few, search)
    few_s = time.perf_counter() - start_s
    per_descriptor_s = max(build_s - few_s, 0.0) / (len(database) - len(few))
    return max(build_s - per_descriptor_s * len(database), 0.0)


def measure_bytes(index: Index, folder: Path) -> tuple[float, float]:
    """Return the bytes of a vector in memory and on disk: of codes, and of descriptors."""
    if isinstance(index, np.ndarray):
        return 0.0, index.itemsize * index.shape[1]
    on_disk = 4 * index.d if isinstance(index, faiss.IndexRefine) else 0
    faiss.write_index(index, str(folder / "index.faiss"))
    return os.path.getsize(folder / "index.faiss") / index.ntotal - on_disk, on_disk


def describe(city: TiledCity, cost: IndexCost, exact: IndexCost) -> tuple[str, ...]:
    """Return a row of the table."""
    shared = [
        np.isin(nearest, row).mean()
        for nearest, row in zip(exact.predictions, cost.predictions, strict=True)
    ]
    return (
        cost.search,
        f"{cost.build_s:.1f} s",
        f"{cost.search_s:.2f} s",
        f"{exact.search_s / cost.search_s:.1f}",
        f"{cost.bytes_in_memory:,.0f} + {cost.bytes_on_disk:,.0f}",
        f"{measure_top_1(cost, exact):.1f}%",
        f"{100 * float(np.mean(shared)):.1f}%",
        f"{city.recall_at_1(cost.predictions):.1f}",
    )


def measure_top_1(cost: IndexCost, exact: IndexCost) -> float:
    """Return how many nearest neighbours are the exact ones, in percent."""
    return 100 * float((cost.predictions[:, 0] == exact.predictions[:, 0]).mean())


def recommend(costs: Mapping[str, IndexCost], num_measured: int, size: int) -> tuple[str, ...]:
    """Return a row with the cheapest index for a database of some size, used once or kept."""
    projected = {name: project(costs, name, num_measured, size) for name in costs}
    fitting = {
        name: seconds
        for name, seconds in projected.items()
        if costs[name].bytes_in_memory * size <= MEMORY_GB * 1e9
    }
    once = min(fitting, key=lambda name: sum(fitting[name]))
    if sum(fitting[once]) > WORTH_IT * sum(fitting[EXACT]):
        once = EXACT
    kept = min(fitting, key=lambda name: fitting[name][1])
    cells = []
    for name in (once, kept):
        build_s, search_s = fitting[name]
        memory_gb = costs[name].bytes_in_memory * size / 1e9
        disk_gb = costs[name].bytes_on_disk * size / 1e9
        cells.append(
            f"`{name}`: {build_s:,.1f} s + {search_s:,.2f} s, {memory_gb:.2f} GB in memory, "
            f"{disk_gb:.1f} GB mapped"
        )
    return f"{size:,}{'' if size == num_measured else ' (projected)'}", *cells


def project(
    costs: Mapping[str, IndexCost], name: str, num_measured: int, size: int
) -> tuple[float, float]:
    """Return the seconds of build and search at another size than the measured one."""
    cost, growth = costs[name], size / num_measured
    put_in_s, search_s = cost.build_s - cost.train_s, cost.search_s * growth
    build_s = cost.train_s + put_in_s * growth
    if name.upper().startswith("IVF"):
        codes = costs.get(PQ, cost)
        coding_s = min(codes.build_s - codes.train_s, put_in_s)
        build_s = cost.train_s * work_of_training(size) / work_of_training(num_measured)
        build_s += coding_s * growth + (put_in_s - coding_s) * growth**1.5
        search_s = cost.search_s * growth**0.75  # 4 sqrt(nlist) of nlist lists are searched
    elif name.startswith("HNSW"):
        deeper = math.log(size) / math.log(num_measured)
        build_s, search_s = build_s * deeper, cost.search_s * deeper
    mapped_gb = cost.bytes_on_disk * size / 1e9
    if not cost.bytes_in_memory and mapped_gb > MEMORY_GB:  # all of it is read for each search
        search_s = max(search_s, mapped_gb / DISK_GB_PER_S)
    return build_s, search_s


def work_of_training(size: int) -> float:
    """Return a number that the training of sqrt(N) lists is proportional to."""
    num_lists = math.sqrt(size)
    return num_lists * min(size, max(NUM_TRAINED, TRAINED_PER_LIST * num_lists))


if __name__ == "__main__":
    main()
