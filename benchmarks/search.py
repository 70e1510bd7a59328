"""What the exact search costs, against a copy of the descriptors in an index, and a bare product.

python -m benchmarks.search
python -m benchmarks.search --num_database 1000000 --dim 2048

The reference puts the descriptors into faiss.IndexFlatL2 and searches that. The rate of the machine
is that of the same matrix product, queries by database, over blocks of the database, with nothing
done to its numbers. Ours reads descriptors that are mapped from a file, of float32 or float16. The
descriptors are made up: places scattered with a spectrum that decays like 1/sqrt(rank), as those of
networks do, ten images each, normalised; queries are further images of the places.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np

from benchmarks.common import measure, write_remark, write_table, write_title
from evaluation.search import find_neighbors, merge_neighbors

NUM_NEIGHBORS = 20
NUM_PARTS = 3
IMAGES_PER_PLACE = 10
NOISE = 0.6  # spread of the images of a place, against 1 of the places
_ROWS_PER_BLOCK = 50_000
_ROWS_PER_PRODUCT = 65_536
Found = tuple[np.ndarray, np.ndarray]  # predictions and distances


def main() -> None:
    """Make descriptors, search them each way, print the costs side by side."""
    args = parse_arguments()
    gigabytes = 4e-9 * args.num_database * args.dim
    write_title(
        "Exact search",
        f"{args.num_queries:,} queries, {NUM_NEIGHBORS} neighbours among {args.num_database:,} "
        f"descriptors of length {args.dim} ({gigabytes:.2f} GB as float32), on disk with a warm "
        f"page cache. Times are medians of {args.repetitions} runs in turns with the reference: "
        "searches alone in one process, all of a search, opening included, in a process of its "
        "own. Memory is the most of that process, descriptors included.",
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_descriptors(folder, args.num_database, args.num_queries, args.dim)
        rows = measure_all(folder, args.repetitions)
        write_table(("what", "ours", "reference", "ratio", "bar"), rows)
        in_own_process(check_parts, folder)
    write_remark(
        "The reference of times is the bare matrix product, and, for all of a search, "
        "IndexFlatL2 with the descriptors put in. A search of "
        f"{NUM_PARTS} parts, merged, gave the same neighbours and distances to the last bit."
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--num_database", type=int, default=2_800_000)
    add("--num_queries", type=int, default=1_000)
    add("--dim", type=int, default=512)
    add("--repetitions", type=int, default=3)
    add("--folder", help="for the descriptors, 6 bytes a number (default: a temporary one)")
    add("--quick", action="store_true", help="300,000 descriptors")
    args = cli.parse_args()
    args.num_database = 300_000 if args.quick else args.num_database
    return args


def write_descriptors(folder: Path, num_database: int, num_queries: int, dim: int) -> None:
    """Write float32.npy, float16.npy and queries.npy, the database block by block."""
    rng = np.random.default_rng(0)
    spectrum = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    num_places = -(-num_database // IMAGES_PER_PLACE)
    places = rng.standard_normal((num_places, dim), np.float32) * spectrum

    def draw(num_images: int) -> np.ndarray:
        descriptors = NOISE * rng.standard_normal((num_images, dim), np.float32) * spectrum
        descriptors += places[rng.integers(num_places, size=num_images)]
        return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)

    single, half = (
        np.lib.format.open_memmap(folder / f"{dtype}.npy", "w+", dtype, (num_database, dim))
        for dtype in ("float32", "float16")
    )
    for first in range(0, num_database, _ROWS_PER_BLOCK):
        block = slice(first, first + _ROWS_PER_BLOCK)
        single[block] = draw(len(single[block]))
        half[block] = single[block]
    np.save(folder / "queries.npy", draw(num_queries))


def measure_all(folder: Path, repetitions: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    for dtype in ("float32", "float16"):
        ours, product, ratios = in_own_process(race_with_product, folder, dtype, repetitions)
        cells = [f"{seconds:.2f} s ({cpu_s:.1f} s)" for seconds, cpu_s in (ours, product)]
        ratio = "{:.2f} ({:.2f})".format(*ratios)
        yield f"search of {dtype} (CPU)", *cells, ratio, "<= 1.25"
    size_mb = (folder / "float32.npy").stat().st_size / 2**20
    seconds, peaks_mb = [], []
    for _ in range(repetitions):
        costs = [measure(search, folder) for search in (search_mapped, search_in_flat_index)]
        check_equal(*(cost.result for cost in costs))
        seconds.append([cost.seconds for cost in costs])
        all_mb = [cost.peak_mb + cost.mapped_mb for cost in costs]
        peaks_mb.append((*all_mb, *(cost.peak_mb for cost in costs)))
    cells = [f"{statistics.median(column):.2f} s" for column in zip(*seconds, strict=True)]
    speed_up = statistics.median(plain_s / ours_s for ours_s, plain_s in seconds)
    yield row("all of a search", *cells, speed_up, ">= 1.15")
    ours_mb, plain_mb, ours_own_mb, plain_own_mb = np.max(peaks_mb, axis=0)
    sizes = [f"{peak_mb / size_mb:.2f} x" for peak_mb in (ours_mb, plain_mb)]
    yield row("memory / descriptors", *sizes, plain_mb / ours_mb, "ours <= 1.15 x")
    sizes = [f"{own_mb:,.0f} MB" for own_mb in (ours_own_mb, plain_own_mb)]
    yield row("of it not mapped", *sizes, plain_own_mb / ours_own_mb, "")


def row(what: str, ours: str, reference: str, ratio: float, bar: str) -> tuple[str, ...]:
    """Return the cells of a row."""
    return what, ours, reference, f"{ratio:.2f}", bar


def in_own_process(work: Callable, *arguments: object) -> object:
    """Call a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def race_with_product(folder: Path, dtype: str, repetitions: int) -> tuple[np.ndarray, ...]:
    """Measure our search and the product in turns.

    Returns:
        Medians for our search, the product, and the ratio: each of elapsed and of CPU seconds.
    """
    database = np.load(folder / f"{dtype}.npy", mmap_mode="r")
    single = np.load(folder / "float32.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    pairs = []
    for _ in range(1 + repetitions):
        clocks = [read_clocks()]
        find_neighbors(database, queries, NUM_NEIGHBORS)
        clocks.append(read_clocks())
        multiply(single, queries)
        clocks.append(read_clocks())
        pairs.append(np.diff(clocks, axis=0))
    pairs = np.array(pairs[1:])  # [repetitions, 2, 2]; the first one warmed up
    ours, product = np.median(pairs, axis=0)
    return ours, product, np.median(pairs[:, 0] / pairs[:, 1], axis=0)


def read_clocks() -> tuple[float, float]:
    """Return the time, and the CPU time of this process, which neighbours disturb less. Seconds."""
    return time.perf_counter(), time.process_time()


def multiply(database: np.ndarray, queries: np.ndarray) -> None:
    """Multiply all queries by all of a database, and keep nothing."""
    products = np.empty((len(queries), _ROWS_PER_PRODUCT), np.float32)
    for first in range(0, len(database), _ROWS_PER_PRODUCT):
        block = database[first : first + _ROWS_PER_PRODUCT]
        np.matmul(queries, block.T, out=products[:, : len(block)])


def search_mapped(folder: Path) -> Found:
    """Search descriptors where they are, on disk."""
    database = np.load(folder / "float32.npy", mmap_mode="r")
    return find_neighbors(database, np.load(folder / "queries.npy"), NUM_NEIGHBORS)


def search_in_flat_index(folder: Path) -> Found:
    """Put all descriptors into an index and search that."""
    database = np.load(folder / "float32.npy")
    index = faiss.IndexFlatL2(database.shape[1])
    index.add(database)
    squared, predictions = index.search(np.load(folder / "queries.npy"), NUM_NEIGHBORS)
    return predictions, np.sqrt(np.maximum(squared, 0))


def check_equal(ours: Found, reference: Found) -> None:
    """Stop if neighbours differ other than in the order of almost equal distances."""
    np.testing.assert_allclose(ours[1], reference[1], atol=1e-3)
    differing = (ours[0] != reference[0]).mean()
    assert differing < 1e-3, f"{differing:.2%} of the neighbours differ"


def check_parts(folder: Path) -> None:
    """Stop if searching parts of the database gives other results than all of it."""
    database = np.load(folder / "float32.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")[:100]
    whole = find_neighbors(database, queries, NUM_NEIGHBORS)
    firsts = np.linspace(0, len(database), NUM_PARTS + 1).astype(int)
    parts = [
        find_neighbors(database[first:end], queries, NUM_NEIGHBORS)
        for first, end in zip(firsts[:-1], firsts[1:], strict=True)
    ]
    merged = merge_neighbors(
        [found + first for (found, _), first in zip(parts, firsts[:-1], strict=True)],
        [distances for _, distances in parts],
        NUM_NEIGHBORS,
    )
    for of_parts, of_whole in zip(merged, whole, strict=True):
        np.testing.assert_array_equal(of_parts, of_whole)


if __name__ == "__main__":
    main()
