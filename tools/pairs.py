"""Write the predictions of a run as the image pairs that COLMAP and hloc match.

python -m tools.pairs logs/RUN --k 20
python -m tools.pairs logs/RUN --k 20 --out outputs/pairs-query-20.txt

A line is `QUERY DATABASE_IMAGE`, nearest first, for match_features and localize_sfm of hloc and for
match_type pairs of COLMAP's matches_importer. Paths are relative to --image_root, the folder that
is hloc's image_dir and COLMAP's image_path: by default the one that holds database and queries.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commons
from command_line import CommandLine, positive_int
from reports.runs import find_set, iterate_queries, read_results


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pairs of a finished run."""
    cli = CommandLine(prog="python -m tools.pairs", description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("run_folder", type=Path, metavar="RUN", help="folder of an evaluation of one set")
    add("--k", type=positive_int, default=20, help="database images per query (default: 20)")
    add(
        "--out", type=Path, metavar="FILE", help="where to; replaced if it exists (RUN/pairs_K.txt)"
    )
    add(
        "--image_root",
        metavar="FOLDER",
        help="folder that paths are relative to (default: the one that holds database and queries)",
    )
    args = cli.parse_args(argv)
    folder = find_set(args.run_folder)
    results = read_results(folder)
    root = args.image_root or find_image_root(folder, results)
    pairs, num_queries = read_pairs(folder, results, args.k, os.path.realpath(root))
    out = args.out or folder / f"pairs_{args.k}.txt"
    with commons.atomic_write(out) as path:
        path.write_bytes(b"".join(b"%s %s\n" % pair for pair in pairs))
    logging.info(f"Wrote {out}: {len(pairs):,} pairs of {num_queries:,} queries, below {root}")
    if num_left := results["num_queries"] - num_queries:
        logging.warning(f"{num_left:,} queries without predictions are left out")


def find_image_root(folder: Path, results: dict[str, Any]) -> str:
    """Return the folder that holds the database and the queries of a run.

    Raises:
        ValueError: If results.json does not say where they are, or no folder holds both.
    """
    try:
        return os.path.commonpath([results[f"{role}_folder"] for role in ("database", "queries")])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{folder / 'results.json'} names no folder that holds database and queries: give "
            "--image_root"
        ) from None


def read_pairs(
    folder: Path, results: dict[str, Any], k: int, root: str
) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return the top-k of each query as pairs of paths, and the number of queries.

    A query that is predicted for itself is no pair.

    Args:
        folder: Of the run.
        results: Its results.json.
        k: Pairs per query.
        root: Real path of the folder that paths are relative to.

    Raises:
        ValueError: If the run saved fewer predictions, or a path cannot stand in such a file.
    """
    file, pairs, num_queries, num_saved = folder / "predictions.csv", [], 0, 0
    for rows in iterate_queries(file):
        num_queries += 1
        num_saved = max(num_saved, int(rows[-1]["rank"]))
        query = relative_path(rows[0]["query"], root)
        images = [relative_path(row["prediction"], root) for row in rows[:k]]
        pairs += [(query, image) for image in images if image != query]
    if num_saved < k and num_saved < results["num_database"]:
        raise ValueError(
            f"{file} has {num_saved} predictions per query, not {k}: evaluate again with "
            f"--recall_values 1 5 10 20 {k}, or give --k {num_saved}"
        )
    return pairs, num_queries


def relative_path(path: str, root: str) -> bytes:
    """Return a path below a folder, as bytes.

    Raises:
        ValueError: If it is not below it, or has white space, at which lines are split.
    """
    relative = path.removeprefix(os.path.join(root, ""))
    if relative == path:
        raise ValueError(f"{path} is not below {root}: give another --image_root")
    if relative.split() != [relative]:
        raise ValueError(
            f"{relative} has white space, at which COLMAP and hloc split lines: rename the file or "
            "folder, and evaluate again"
        )
    return os.fsencode(relative.replace(os.sep, "/"))


if __name__ == "__main__":
    commons.run_command(main)
