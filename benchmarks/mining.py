"""What a refresh of mining costs, extraction aside, against the matrix product that it needs.

python -m benchmarks.mining
python -m benchmarks.mining --num_database 80000 --dim 4096

A refresh draws queries and candidates, measures distances, and chooses positives and negatives. The
product is that of the same descriptors, in one call, with nothing done to its numbers. The loop
copies the descriptors of a query's candidates and searches them by faiss, query after query, as
the VGB benchmark does. Descriptors are random, of length 1; positions are random in a city.
"""

import argparse
import time
from collections.abc import Iterator

import faiss
import numpy as np

from benchmarks.common import measure, write_remark, write_table, write_title
from datasets.positions import Positions
from datasets.tuples import TupleSet, TupleSetParams, find_positives
from training.mining import Draws, Miner, MiningParams, cross_distances

ROWS = (("full", "float32"), ("full", "float16"), ("partial", "float32"))
CITY_M = 750  # side, for 10,000 images: 35 are within 25 m
NUM_LOOPED = 20  # queries
_ROWS_PER_BLOCK = 500


def main() -> None:
    """Race with the product and with the loop, measure memory, print both."""
    args = parse_arguments()
    sizes = args.num_database, args.num_queries, args.dim
    write_title(
        "Mining",
        f"A refresh of {args.num_queries:,} queries and {args.num_database:,} database images of "
        f"length {args.dim:,}, extraction aside. Times are medians of {args.repetitions} runs in "
        "turns with the product, those of the processor in brackets; memory is that of a process "
        f"beyond its descriptors. The loop is that of {NUM_LOOPED} queries, times as many.",
    )
    columns = ("mining", "refresh", "product", "ratio", "bar", "loop", "memory")
    write_table(columns, (measure_row(*row, sizes, args.repetitions) for row in ROWS))
    write_remark("The loop gave the same tuples.")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--num_database", type=int, default=10_000)
    add("--num_queries", type=int, default=1_000)
    add("--dim", type=int, default=32_768)
    add("--repetitions", type=int, default=3)
    add("--quick", action="store_true", help="one repetition")
    args = cli.parse_args()
    args.repetitions = 1 if args.quick else args.repetitions
    return args


def measure_row(
    mining: str, dtype: str, sizes: tuple[int, int, int], repetitions: int
) -> tuple[str, ...]:
    """Return the cells of a kind of mining."""
    parts, product, ratios, loop_s = measure(race, mining, dtype, sizes, repetitions).result
    cost = measure(refresh_once, mining, dtype, sizes)
    steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
    refresh_s = sum(parts.values())
    return (
        f"{mining}, {dtype}",
        f"{refresh_s:.2f} s ({steps})",
        f"{product:.2f} s",
        "{:.2f} ({:.2f})".format(*ratios),
        "<= 1.2" if mining == "full" else "",
        f"{loop_s:.0f} s",
        f"{cost.peak_mb - cost.result:,.0f} MB beyond {cost.result:,.0f} MB",
    )


def race(
    mining: str, dtype: str, sizes: tuple[int, int, int], repetitions: int
) -> tuple[dict[str, float], float, tuple[float, float], float]:
    """Measure refreshes and products in turns.

    Returns:
        Median seconds of the steps and of the product, the median ratios in elapsed and in CPU
        time, and the seconds of the loop.
    """
    tuple_set = make_tuple_set(sizes)
    miner = make_miner(tuple_set, mining)
    queries, database = make_descriptors(miner.draw(0, 0), dtype, sizes)
    single = database.astype(np.float32, copy=False)
    single_queries = queries.astype(np.float32, copy=False)
    clocks = []
    for loop in range(1 + repetitions):
        times = list(refresh(miner, queries, database))
        np.matmul(single_queries, single.T)
        clocks.append(np.diff([*times, read_clocks()], axis=0))
        if loop == 0:  # a warm-up, and nothing is remembered yet
            loop_s = time_loop(tuple_set, mining, single_queries, single)
    clocks = np.array(clocks[1:])  # [repetitions, steps and product, 2]
    ratios = np.median(clocks[:, :-1].sum(1) / clocks[:, -1], axis=0)
    *steps, product = np.median(clocks[:, :, 0], axis=0).tolist()
    names = ("draw", "distances", "choose")
    return dict(zip(names, steps, strict=True)), product, tuple(ratios.tolist()), loop_s


def refresh(
    miner: Miner, queries: np.ndarray, database: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Do what is measured; yield the clocks before and after each step."""
    yield read_clocks()
    draws = miner.draw(0, 0)
    yield read_clocks()
    distances = cross_distances(queries, database)
    yield read_clocks()
    miner.mine(draws, distances)
    yield read_clocks()


def refresh_once(mining: str, dtype: str, sizes: tuple[int, int, int]) -> float:
    """Make descriptors, refresh once; return the size of the descriptors in MB."""
    miner = make_miner(make_tuple_set(sizes), mining)
    queries, database = make_descriptors(miner.draw(0, 0), dtype, sizes)
    list(refresh(miner, queries, database))
    return (queries.nbytes + database.nbytes) / 2**20


def read_clocks() -> tuple[float, float]:
    """Return the time, and the CPU time of this process, which neighbours disturb less. Seconds."""
    return time.perf_counter(), time.process_time()


def make_tuple_set(sizes: tuple[int, int, int]) -> TupleSet:
    """Return random positions; queries are within 5 m of database images along both axes."""
    num_database, num_queries, _ = sizes
    rng = np.random.default_rng(0)
    database_m = rng.uniform(0, CITY_M * (num_database / 10_000) ** 0.5, (num_database, 2))
    queries_m = rng.choice(database_m, num_queries) + rng.uniform(-5, 5, (num_queries, 2))
    near = find_positives(Positions(database_m, queries_m), TupleSetParams())
    return TupleSet(range(num_database), range(num_queries), *near)


def make_miner(tuple_set: TupleSet, mining: str) -> Miner:
    """Return a miner that remembers nothing yet; a refresh has all queries."""
    params = MiningParams(mining, queries_per_refresh=len(tuple_set.queries))
    return Miner(tuple_set, params, seed=0)


def make_descriptors(
    draws: Draws, dtype: str, sizes: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return descriptors of the queries and of the database images that a refresh needs."""
    rng = np.random.default_rng(0)
    both = [np.empty((len(images), sizes[-1]), dtype) for images in (draws.queries, draws.database)]
    for descriptors in both:
        for first in range(0, len(descriptors), _ROWS_PER_BLOCK):
            block = descriptors[first : first + _ROWS_PER_BLOCK]
            values = rng.standard_normal(block.shape, np.float32)
            block[:] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return tuple(both)


def time_loop(tuple_set: TupleSet, mining: str, queries: np.ndarray, database: np.ndarray) -> float:
    """Measure the loop over queries, from a few of them; stop if it gives other tuples."""
    miner = make_miner(tuple_set, mining)
    draws = miner.draw(0, 0)
    start_s, tuples = time.perf_counter(), []
    for row, query in enumerate(draws.queries[:NUM_LOOPED]):
        candidates = np.setdiff1d(draws.candidates[row], tuple_set.near.of(query))
        chosen = []
        for images, num in ((tuple_set.positives.of(query), 1), (candidates, 10)):
            copied = database[np.searchsorted(draws.database, images)]
            chosen += images[faiss.knn(queries[row : row + 1], copied, num)[1][0]].tolist()
        tuples.append([query, *chosen])
    seconds = time.perf_counter() - start_s
    ours = miner.mine(draws, cross_distances(queries, database))
    np.testing.assert_array_equal(ours[:NUM_LOOPED], tuples)
    return seconds / NUM_LOOPED * len(queries)


if __name__ == "__main__":
    main()
