"""What it costs to list a folder of images that has no list file, against glob.

python -m benchmarks.listing
python -m benchmarks.listing --num_images 200000 --folder /disk
"""

import argparse
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import measure, median_cost
from benchmarks.make_names import write_names
from datasets.image_lists import LIST_ENDING, list_images, walk_images

QUICK = {"num_images": 150_000, "repetitions": 1}
_ID_PLACE = 7  # part of a name that begins with random letters


def main(argv: Sequence[str] | None = None) -> None:
    """Make a tree of empty files, list it, print a Markdown table."""
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary) / "train"
        num_folders = make_tree(folder, args.num_images)
        costs = compare(folder, args.repetitions)
        measure(check_same, folder)
    sys.stdout.write(
        "## Listing: a folder tree without a list file\n\n"
        f"{args.num_images:,} empty files in {num_folders:,} folders, all known to the system's "
        f"cache. Medians of {args.repetitions}, in turn, each run a process of its own; memory is "
        "the peak of anonymous memory above the imports.\n\n"
        "| step | s | of a processor, s | memory, MB | x faster than glob | bar |\n"
        "|---|---:|---:|---:|---:|---:|\n"
    )
    reference = costs[list_by_glob].seconds
    for task, what, bar in (
        (list_by_glob, "sorted(glob(recursive=True))", ""),
        (list_by_walk, "walk", ">= 3"),
        (list_by_file, "read a list file", ""),
    ):
        cost = costs[task]
        sys.stdout.write(
            f"| {what} | {cost.seconds:.2f} | {cost.cpu_seconds:.2f} | {cost.peak_mb:,.0f} | "
            f"{reference / cost.seconds:.1f} | {bar} |\n"
        )
    sys.stdout.write("\nAll three give the same paths in the same order.\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=1_000_000)
    cli.add_argument("--repetitions", type=int, default=3, help="of which the median is shown")
    cli.add_argument(
        "--folder", type=Path, help="for the generated files (default: that of tempfile)"
    )
    cli.add_argument("--quick", action="store_true", help=f"as {QUICK}")
    if cli.parse_args(argv).quick:
        cli.set_defaults(**QUICK)
    return cli.parse_args(argv)


def make_tree(folder: Path, num_images: int) -> int:
    """Make empty files below folders of latitudes and of two letters; return how many folders."""
    list_file = write_names(folder, num_images)
    lines = list_file.read_text().splitlines()
    list_file.unlink()
    shutil.rmtree(folder)
    made = set()
    for line in lines:
        latitude, _, name = line.partition("/")
        parent = folder / latitude / name.split("@")[_ID_PLACE][:2]
        if parent not in made:
            parent.mkdir(parents=True)
            made.add(parent)
        os.close(os.open(parent / name, os.O_CREAT | os.O_WRONLY))
    return sum(len(folders) for _, folders, _ in os.walk(folder)) + 1


def compare(folder: Path, repetitions: int) -> dict:
    """List the tree each way, in turn; return the median costs."""
    runs = []
    for _ in range(repetitions):
        runs.append({task: measure(task, folder) for task in (list_by_glob, list_by_walk)})
        list_file = write_list(folder)
        runs[-1][list_by_file] = measure(list_by_file, folder)
        list_file.unlink()
        sys.stderr.write(", ".join(f"{cost.seconds:.2f} s" for cost in runs[-1].values()) + "\n")
    return {task: median_cost([run[task] for run in runs]) for task in runs[0]}


def write_list(folder: Path) -> Path:
    """Write the list of a folder beside it."""
    list_file = folder.with_name(f"{folder.name}{LIST_ENDING}")
    list_file.write_bytes(walk_images(folder)[0])
    return list_file


def list_by_glob(folder: Path) -> int:
    """List images as sorted strings."""
    return len(sorted(glob.glob(f"{folder}/**/*.jpg", recursive=True)))


def list_by_walk(folder: Path) -> int:
    """List images by a walk."""
    return len(list_images(folder))


def list_by_file(folder: Path) -> int:
    """List images by the list file beside the folder."""
    return len(list_images(folder))


def check_same(folder: Path) -> None:
    """Check that all ways give the same paths in the same order."""
    expected = sorted(glob.glob(f"{folder}/**/*.jpg", recursive=True))
    assert list(list_images(folder)) == expected
    list_file = write_list(folder)
    assert list(list_images(folder)) == expected
    list_file.unlink()


if __name__ == "__main__":
    main()
