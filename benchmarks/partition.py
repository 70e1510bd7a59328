"""How long a list of file names takes to become classes and groups, against a plain loop.

python -m benchmarks.partition --num_images 1000000

Both split the same list: 12 crops a panorama, several years, streets that are not aligned with
the UTM axes. The loop is the obvious program: split each name, put its path into a dict of lists.
Every run is a process of its own, so that peak memories compare.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.memory import read_memory_mb
from datasets.class_index import load_index
from datasets.partition import PartitionParams


def main() -> None:
    """Write a list of names, split it both ways, print times and memory side by side."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=1_000_000)
    num_images = cli.parse_args().num_images
    with tempfile.TemporaryDirectory() as folder:
        train_folder = write_names(Path(folder), num_images)
        rows = [
            ("plain loop", *measure(split_by_loop, train_folder)),
            ("class index", *measure(split_by_index, train_folder)),
            ("open it again", *measure(split_by_index, train_folder)),
        ]
    for label, seconds, megabytes, groups in rows:
        sys.stdout.write(
            f"{label:13s} {seconds:7.2f} s  {megabytes:7.0f} MB  {num_images:,} images, "
            f"first groups {groups}\n"
        )
    assert len({row[3] for row in rows}) == 1, "both ways give the same groups"


def write_names(folder: Path, num_images: int) -> Path:
    """Write `train_images_paths.txt` for a made-up city; only the first image exists."""
    rng = np.random.default_rng(0)
    num_spots = -(-num_images // (12 * 8))
    side = int(np.sqrt(num_spots / 20)) + 1  # streets are 100 m apart and driven every 5 m
    street, along = rng.integers(side, size=num_spots), rng.uniform(0, 100 * side, num_spots)
    turned = rng.random(num_spots) < 0.5
    x_m, y_m = np.where(turned, along, 100 * street), np.where(turned, 100 * street, along)
    east_m, north_m = 551_000 + 0.99 * x_m - 0.16 * y_m, 4_180_000 + 0.16 * x_m + 0.99 * y_m
    spots = rng.permutation(np.repeat(np.arange(num_spots), 8))
    names = (
        f"37.{spot % 9}0/@{east_m[spot] + rng.normal():010.2f}"
        f"@{north_m[spot] + rng.normal():010.2f}@10@S@037.70098@-122.49646"
        f"@kPnABhWJ1kA61eM{visit:07d}@@{30 * crop + spot % 30}"
        f"@@@@{2008 + spot % 13}06@@.jpg"
        for visit, spot in enumerate(spots)
        for crop in range(12)
    )
    lines = sorted(name for _, name in zip(range(num_images), names, strict=False))
    (folder / "train" / lines[0]).parent.mkdir(parents=True)
    (folder / "train" / lines[0]).touch()
    (folder / "train_images_paths.txt").write_text("\n".join(lines))
    return folder / "train"


def split_by_loop(train_folder: Path) -> tuple[int, ...]:
    """Split names one by one; return the numbers of classes of the first groups."""
    params = PartitionParams()
    lines = train_folder.with_name("train_images_paths.txt").read_text().splitlines()
    images_per_class = defaultdict(list)
    for path in (f"{train_folder}/{line}" for line in lines):
        fields = path.split("@")
        cell = (
            int(float(fields[1]) // params.M),
            int(float(fields[2]) // params.M),
            int(float(fields[9]) % 360 // params.alpha),
        )
        images_per_class[cell].append(path)
    classes_per_group = defaultdict(list)
    for cell, paths in images_per_class.items():
        if len(paths) >= params.min_images_per_class:
            group = (cell[0] % params.N, cell[1] % params.N, cell[2] % params.L)
            classes_per_group[group].append(cell)
    return tuple(len(classes) for classes in classes_per_group.values())[:8]


def split_by_index(train_folder: Path) -> tuple[int, ...]:
    """Open the class index, building it the first time; return what `split_by_loop` does."""
    index = load_index(train_folder, PartitionParams(), train_folder.parent / "cache")
    return tuple(len(index.classes(group)) for group in range(min(8, index.num_groups)))


def measure(
    split: Callable[[Path], tuple[int, ...]], train_folder: Path
) -> tuple[float, float, tuple[int, ...]]:
    """Run in a new process; return seconds, peak memory above the imports in MB, and the result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (split, train_folder))


def _measured(
    split: Callable[[Path], tuple[int, ...]], train_folder: Path
) -> tuple[float, float, tuple[int, ...]]:
    before_mb = read_memory_mb("VmRSS")
    start = time.perf_counter()
    result = split(train_folder)
    return time.perf_counter() - start, read_memory_mb("VmHWM") - before_mb, result


if __name__ == "__main__":
    main()
