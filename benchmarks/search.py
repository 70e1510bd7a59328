"""What each way to search costs, and how many of the exact neighbours it finds.

python -m benchmarks.search --num_database 1000000 --dim 512 --num_queries 1000
python -m benchmarks.search --indexes exact ivf:nprobe=16 ivf:nprobe=64

The descriptors are made up: places scattered with a spectrum that decays like 1/sqrt(rank), as
those of networks do, ten images each, normalised; queries are further images of the places. Every
search is a process of its own, so that peak memories compare.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.memory import read_memory_mb
from evaluation.indexes import (
    EXACT,
    INDEXES,
    IndexSpec,
    build_index,
    choose_params,
    describe_index,
    parse_index,
)
from evaluation.search import find_neighbors, measure_agreement, search_index

NUM_NEIGHBORS = 20
IMAGES_PER_PLACE = 10
NOISE = 0.6  # spread of the images of a place, against 1 of the places
_ROWS_PER_BLOCK = 50_000


class Cost(NamedTuple):
    """What one search took."""

    build_s: float
    search_s: float
    memory_ratio: float  # peak of descriptors, index and search together / descriptors
    agreement: float  # see `measure_agreement`


def main() -> None:
    """Make descriptors, search them each way, print the costs side by side."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_database", type=int, default=1_000_000)
    cli.add_argument("--num_queries", type=int, default=1_000)
    cli.add_argument("--dim", type=int, default=512)
    cli.add_argument("--indexes", nargs="+", type=parse_index, default=[*map(IndexSpec, INDEXES)])
    args = cli.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_descriptors(Path(folder), args.num_database, args.num_queries, args.dim)
        sys.stdout.write(
            f"{args.num_queries:,} queries, {NUM_NEIGHBORS} neighbours among "
            f"{args.num_database:,} descriptors of length {args.dim} "
            f"({4e-9 * args.num_database * args.dim:.2f} GB)\n"
        )
        for spec in args.indexes:
            cost = measure(Path(folder), spec)
            label = describe_index(choose_params(spec, args.num_database, args.dim))
            sys.stdout.write(
                f"{label}: built in {cost.build_s:.1f} s, searched in {cost.search_s:.2f} s, "
                f"{cost.memory_ratio:.2f} x the descriptors, {cost.agreement:.1f}% of the exact\n"
            )
            sys.stdout.flush()


def write_descriptors(folder: Path, num_database: int, num_queries: int, dim: int) -> None:
    """Write database.npy and queries.npy, float32, the database block by block."""
    rng = np.random.default_rng(0)
    spectrum = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    num_places = -(-num_database // IMAGES_PER_PLACE)
    places = rng.standard_normal((num_places, dim), np.float32) * spectrum

    def draw(num_images: int) -> np.ndarray:
        descriptors = NOISE * rng.standard_normal((num_images, dim), np.float32) * spectrum
        descriptors += places[rng.integers(num_places, size=num_images)]
        return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)

    database = np.lib.format.open_memmap(
        folder / "database.npy", "w+", np.float32, (num_database, dim)
    )
    for first in range(0, num_database, _ROWS_PER_BLOCK):
        rows = database[first : first + _ROWS_PER_BLOCK]
        rows[:] = draw(len(rows))
    np.save(folder / "queries.npy", draw(num_queries))


def measure(folder: Path, spec: IndexSpec) -> Cost:
    """Search in a new process, with the descriptors in its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (folder, spec))


def _measured(folder: Path, spec: IndexSpec) -> Cost:
    database, queries = np.load(folder / "database.npy"), np.load(folder / "queries.npy")
    before_mb = read_memory_mb("VmRSS")
    start = time.perf_counter()
    if spec == EXACT:
        built = start
        predictions, _ = find_neighbors(database, queries, NUM_NEIGHBORS)
    else:
        index = build_index(database, spec)
        built = time.perf_counter()
        predictions, _ = search_index(index, queries, NUM_NEIGHBORS)
    searched = time.perf_counter()
    extra_mb = read_memory_mb("VmHWM") - before_mb
    return Cost(
        build_s=built - start,
        search_s=searched - built,
        memory_ratio=1 + extra_mb * 2**20 / database.nbytes,
        agreement=measure_agreement(database, queries, predictions),
    )


if __name__ == "__main__":
    main()
