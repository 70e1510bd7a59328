"""Time from the names of an evaluation set to positions and positives, against plain loops.

python -m benchmarks.eval_sets
python -m benchmarks.eval_sets --num_database 10000000

The reference is the obvious program: it reads the lists line by line, splits each name, keeps two
floats of it, and asks sklearn's NearestNeighbors for all within 25 m. Ours is what eval.py does to
load a set, which also counts images that are listed twice.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks.common import write_remark, write_table, write_title
from benchmarks.make_names import write_names
from datasets.eval_set import load_own_set
from datasets.ground_truth import within_distance
from datasets.positions import Positions

THRESHOLD_M = 25
SPREAD = 4  # test images of a city are not as dense as those to train on


def main() -> None:
    """Write names, load them both ways in turns, print times side by side."""
    args = parse_arguments()
    write_title(
        "Evaluation sets",
        f"From lists of {args.num_database:,} database images and {args.num_queries:,} queries to "
        f"their positions and the positives of each query, {THRESHOLD_M} m. Medians of "
        f"{args.repetitions} interleaved runs in one process, page cache warm; both give the same "
        "positives.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = write_set(Path(name) / "set", args.num_database, args.num_queries)
        ours, plain = (
            lambda: load_own_set(folder).truth.positives_per_query,
            lambda: load_plainly(folder),
        )
        total = race(ours, plain, args.repetitions)
        database_m, queries_m = (read_plainly(folder, part) for part in ("database", "queries"))
    positions = Positions(SPREAD * database_m, SPREAD * queries_m)
    parts = [
        race(
            lambda of=of: within_distance(of, THRESHOLD_M).positives_per_query,
            lambda of=of: search_plainly(of.database_m, of.queries_m),
            args.repetitions,
        )
        for of in (Positions(database_m, queries_m), positions)
    ]
    whats = ("total", "positives, dense city", f"positives, {SPREAD} times as far apart")
    rows = [
        (what, f"{ours_s:.2f} s", f"{plain_s:.2f} s", f"{ratio:.1f}", bar)
        for what, (ours_s, plain_s, ratio), bar in zip(
            whats, (total, *parts), (">= 3", "", ""), strict=True
        )
    ]
    write_table(("what", "ours", "reference", "ratio", "bar"), rows)
    write_remark(
        f"The dense city has {args.num_database / np.prod(np.ptp(database_m, axis=0)) * 1e6:,.0f} "
        "images a square kilometre, as SF-XL's training images."
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_database", type=int, default=2_800_000)
    cli.add_argument("--num_queries", type=int, default=1_000)
    cli.add_argument("--repetitions", type=int, default=3)
    cli.add_argument("--quick", action="store_true", help="1,000,000 database images")
    args = cli.parse_args()
    args.num_database = 1_000_000 if args.quick else args.num_database
    return args


def write_set(folder: Path, num_database: int, num_queries: int) -> Path:
    """Write lists of a database and of queries; of each only the first image exists."""
    write_names(folder / "database", num_database)
    lines = (folder / "database_images_paths.txt").read_text().splitlines()
    indices = np.random.default_rng(0).choice(num_database, num_queries, replace=False)
    queries = [lines[index] for index in indices]
    (folder / "queries_images_paths.txt").write_text("\n".join(queries))
    first = folder / "queries" / queries[0]
    first.parent.mkdir(parents=True)
    first.touch()
    return folder


def load_plainly(folder: Path) -> list[np.ndarray]:
    """Read positions and find positives by the reference."""
    return search_plainly(read_plainly(folder, "database"), read_plainly(folder, "queries"))


def read_plainly(folder: Path, part: str) -> np.ndarray:
    """Read the positions in a list, name by name. float64 [num_images, 2]."""
    lines = (folder / f"{part}_images_paths.txt").read_text().splitlines()
    paths = [os.path.join(folder / part, line) for line in lines]
    return np.array([(path.split("@")[1], path.split("@")[2]) for path in paths]).astype(float)


def search_plainly(database_m: np.ndarray, queries_m: np.ndarray) -> list[np.ndarray]:
    """Find the positives with a tree of all database images."""
    tree = NearestNeighbors(n_jobs=-1).fit(database_m)
    return list(tree.radius_neighbors(queries_m, THRESHOLD_M, return_distance=False))


def race(
    ours: Callable[[], list[np.ndarray]], plain: Callable[[], list[np.ndarray]], repetitions: int
) -> tuple[float, float, float]:
    """Run both in turns; return median seconds and the median ratio. Stop if results differ."""
    pairs = []
    for _ in range(repetitions):
        start_s = time.perf_counter()
        found = ours()
        middle_s = time.perf_counter()
        expected = plain()
        pairs.append((middle_s - start_s, time.perf_counter() - middle_s))
        sys.stderr.write(f"{pairs[-1][0]:.2f} s, {pairs[-1][1]:.2f} s\n")
    for ours_of_one, plain_of_one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours_of_one, np.sort(plain_of_one))
    ours_s, plain_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours_s, plain_s, statistics.median(plain / ours for ours, plain in pairs)


if __name__ == "__main__":
    main()
