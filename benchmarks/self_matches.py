"""What it costs to find queries that are database images, against listing the database.

python -m benchmarks.self_matches
python -m benchmarks.self_matches --num_database 1000000

Listing means to read the list of names, their positions, and the positives. Predictions are made
up; the files that they are compared with are real, of 100 to 200 kB. Exact: only predictions at
almost no distance are looked at; else the first five of each query are, at any distance.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import write_remark, write_table, write_title
from datasets.eval_set import EvalSet, Labels, load_own_sets
from evaluation.self_matches import find_self_matches

NUM_PREDICTIONS, DIM, NUM_BYTES = 100, 8, 100_000


def main() -> None:
    """Make names and files, measure each kind of search, print the costs side by side."""
    args = parse_arguments()
    write_title(
        "Queries that are database images",
        f"{args.num_database:,} database images, {args.num_queries:,} queries with "
        f"{NUM_PREDICTIONS} predictions; medians of {args.repetitions} runs.",
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        eval_set, listing_s = make_set(Path(name), args.num_database, args.num_queries)
        rng = np.random.default_rng(0)
        shape = (args.num_queries, NUM_PREDICTIONS)
        # Of the files that are there, but for the copies, which are the first ones.
        predictions = rng.integers(args.num_queries, 5 * args.num_queries, shape)
        descriptors = np.eye(1, DIM, dtype=np.float32).repeat(args.num_queries, axis=0)
        far, near = np.ones(shape, np.float32), np.ones(shape, np.float32)
        near[:, 0] = 0
        predictions[::10, 0] = np.arange(0, args.num_queries, 10)  # of a tenth, the copy
        rows = []
        for what, distances, is_exact in (
            ("exact, nothing near", far, True),
            ("exact, each query has something near", near, True),
            ("crops or approximate search", near, False),
        ):

            def find(distances=distances, is_exact=is_exact) -> np.ndarray:
                return find_self_matches(eval_set, predictions, distances, descriptors, is_exact)

            found = find()  # also fills the caches of the disk
            expected = 0 if distances is far and is_exact else args.num_queries // 10
            assert int(found.any(axis=1).sum()) == expected
            seconds = measure(find, args.repetitions)
            rows.append((what, f"{1000 * seconds:.0f} ms", f"{seconds / listing_s:.1%}"))
        rows.append(("listing the database", f"{1000 * listing_s:.0f} ms", ""))
    write_table(("search", "time", "of listing"), rows)
    write_remark("Bar: 2% of listing.")


def make_set(folder: Path, num_database: int, num_queries: int) -> tuple[EvalSet, float]:
    """Write a list of names, and the files of the first ones; return set and seconds of listing."""
    (folder / "database").mkdir()
    (folder / "queries").mkdir()
    names = [
        f"@{550_000 + n % 1000:.2f}@{4_180_000 + n // 1000:.2f}@10@S@@@{n}@@0@@@@@@.jpg"
        for n in range(num_database)
    ]
    (folder / "database_images_paths.txt").write_text("\n".join(names) + "\n")
    rng = np.random.default_rng(1)
    for number in range(num_queries):
        data = rng.bytes(rng.integers(NUM_BYTES, 2 * NUM_BYTES))
        query = f"@550000.00@4180000.00@10@S@@@q{number:06d}@@@@@@@@.jpg"
        (folder / "queries" / query).write_bytes(data)
        for copy in range(5):
            file = folder / "database" / names[number + copy * num_queries]
            file.write_bytes(
                data if copy == 0 else rng.bytes(rng.integers(NUM_BYTES, 2 * NUM_BYTES))
            )
    labels = Labels(None, None, False, False)
    load = partial(load_own_sets, folder, ["queries"], labels)
    (eval_set,) = load()
    return eval_set, measure(load, 3)


def measure(task: Callable[[], object], repetitions: int) -> float:
    """Return the median seconds of a task."""
    seconds = []
    for _ in range(repetitions):
        start_s = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_database", type=int, default=2_800_000)
    cli.add_argument("--num_queries", type=int, default=1000)
    cli.add_argument("--repetitions", type=int, default=5)
    cli.add_argument("--folder", help="for temporary files, some 900 MB (default: /tmp)")
    cli.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    return cli.parse_args()


if __name__ == "__main__":
    main()
