"""What it costs to split a list of names into classes and groups, against a plain loop.

python -m benchmarks.partition
python -m benchmarks.partition --num_images 1000000 --num_alone 0
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import plain_partition
from benchmarks.common import Cost, measure, median_cost, read_memory_mb
from benchmarks.make_names import write_names, write_odd_names
from datasets.class_index import ClassIndex, load_index
from datasets.partition import PanoramaParams, PartitionParams

PARAMS = PartitionParams()
GROUPS_NUM = 8
NUM_DRAWN = 10_000
NUM_ODD = 20_000
NUM_LARGEST = 412_000_000  # ten times SF-XL, a country: projected
QUICK = {"num_images": 2_000_000, "num_alone": 5_000_000, "repetitions": 1}


class Both(NamedTuple):
    """What the index and the plain loop took, and their sizes on disk."""

    first: Cost  # of the index, loops being compiled
    built: Cost
    looped: Cost
    opened: Cost
    loaded: Cost
    index_bytes: int
    cache_bytes: int


class Alone(NamedTuple):
    """What the index took."""

    built: Cost
    opened: Cost
    drawn: Cost
    panoramas: Cost  # of an index of panoramas, with axes


def main(argv: Sequence[str] | None = None) -> None:
    """Write lists of names, split them, print a Markdown table."""
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        root = Path(temporary)
        compare_odd_names(root / "odd")
        both = compare(root, args.num_images, args.repetitions)
        alone = measure_alone(root, args.num_alone, args.repetitions) if args.num_alone else None
    sys.stdout.write(
        "## Partition: from a list of names to classes and groups\n\n"
        "The class index against a plain loop (a dict of lists, torch.save) on "
        f"{args.num_images:,} names of `make_names`. Medians of {args.repetitions}, in turn, each "
        "run a process of its own, lists in the page cache; memory is the peak of anonymous memory "
        "above the imports. Bars are those of 5 M and of 41.2 M names.\n\n"
        "| step | index | plain loop | ratio | bar |\n|---|---:|---:|---:|---:|\n"
    )
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows_of_both(both, args.num_images))
    if alone:
        sys.stdout.writelines(
            f"| {' | '.join(row)} |\n" for row in rows_alone(alone, args.num_alone)
        )
    sys.stdout.write(
        "\nGroups, classes and members are the same, in the same order; so they are for "
        f"{NUM_ODD:,} odd names (fractions, exponents, negative headings, '@' in folders, "
        "CRLF, a byte order mark).\n"
    )
    if alone:
        sys.stdout.write(project(both, args.num_images, alone, args.num_alone))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=5_000_000, help="names of both ways")
    cli.add_argument("--num_alone", type=int, default=41_200_000, help="names of ours; 0: none")
    cli.add_argument("--repetitions", type=int, default=3, help="of which the median is shown")
    cli.add_argument(
        "--folder", type=Path, help="with room for 100 bytes a name (default: that of tempfile)"
    )
    cli.add_argument("--quick", action="store_true", help=f"as {QUICK}")
    if cli.parse_args(argv).quick:
        cli.set_defaults(**QUICK)
    return cli.parse_args(argv)


def compare(root: Path, num_images: int, repetitions: int) -> Both:
    """Split the same names both ways, in turn."""
    list_file = write_names(root / "both", num_images)
    names, loop = (root / "both", root / "cache"), (list_file, PARAMS, root / "loop.torch")
    first = measure_compiling(*names)
    costs = []
    for _ in range(repetitions):
        shutil.rmtree(root / "cache")
        tasks = ((open_index, names), (plain_partition.build, loop))
        tasks += ((open_groups, names), (load_groups, loop[2:]))
        costs.append([measure(task, *arguments) for task, arguments in tasks])
        note(", ".join(f"{cost.seconds:.2f} s" for cost in costs[-1]))
    index = load_index(*names[:1], PARAMS, names[1])
    num_same = measure(count_same, index.index_folder, loop[2]).result
    assert num_same == len(index.image_offsets), "both ways give the same classes"
    return Both(
        first,
        *(median_cost(column) for column in zip(*costs, strict=True)),
        sum(file.stat().st_size for file in index.index_folder.iterdir()),
        loop[2].stat().st_size,
    )


def measure_alone(root: Path, num_images: int, repetitions: int) -> Alone:
    """Split names into the index only, open it, and draw from it as a loader worker does."""
    write_names(root / "alone", num_images)
    costs = []
    for _ in range(repetitions):
        shutil.rmtree(root / "cache")
        tasks = (open_index, open_index, draw_paths, open_panoramas)
        costs.append([measure(task, root / "alone", root / "cache") for task in tasks])
        note(", ".join(f"{cost.seconds:.2f} s, {cost.peak_mb:,.0f} MB" for cost in costs[-1]))
    return Alone(*(median_cost(column) for column in zip(*costs, strict=True)))


def measure_compiling(folder: Path, cache_folder: Path) -> Cost:
    """Build an index as just after an installation: loops are compiled."""
    os.environ["NUMBA_CACHE_DIR"] = str(cache_folder / "machine_code")
    try:
        return measure(open_index, folder, cache_folder)
    finally:
        del os.environ["NUMBA_CACHE_DIR"]


def open_index(folder: Path, cache_folder: Path) -> None:
    """Open the index, building it if there is none."""
    load_index(folder, PARAMS, cache_folder)


def open_panoramas(folder: Path, cache_folder: Path) -> None:
    """Open the index of EigenPlaces' classes, building it if there is none."""
    load_index(folder, PanoramaParams(), cache_folder)


def open_groups(folder: Path, cache_folder: Path) -> None:
    """Open the index and take an image of each group."""
    index = load_index(folder, PARAMS, cache_folder)
    for group in range(GROUPS_NUM):
        index.path(index.images(index.classes(group)[0])[0])


def load_groups(cache_file: Path) -> None:
    """Load as many groups, all at once, and take an image of each."""
    groups = [plain_partition.open_group(cache_file, group) for group in range(GROUPS_NUM)]
    for classes, images in groups:
        images[classes[0]][0]


def draw_paths(folder: Path, cache_folder: Path) -> tuple[float, float]:
    """Open the index and draw paths; return microseconds a path and MB of files in memory."""
    before_mb = read_memory_mb("RssFile")
    index = load_index(folder, PARAMS, cache_folder)
    images = np.random.default_rng(0).integers(len(index.image_offsets), size=NUM_DRAWN)
    start = time.perf_counter()
    for image in images:
        index.path(image)
    per_path_us = 1e6 * (time.perf_counter() - start) / NUM_DRAWN
    return per_path_us, read_memory_mb("RssFile") - before_mb


def count_same(index_folder: Path, cache_file: Path) -> int:
    """Check that groups, classes and members are the same in the same order; count members."""
    index, num_members = ClassIndex(index_folder), 0
    groups = plain_partition.load(cache_file)
    assert index.num_groups == len(groups[0])
    for group, class_ids in enumerate(groups[0]):
        cells = index.class_cells[index.group_starts[group] : index.group_starts[group + 1]]
        expected_cells = np.array(sorted(class_ids)) * (PARAMS.M, PARAMS.M, PARAMS.alpha)
        np.testing.assert_array_equal(cells, expected_cells)
        for number, class_id in zip(index.classes(group), sorted(class_ids), strict=True):
            members = [index.path(image) for image in index.images(number)]
            assert members == [f"{index.folder}/{line}" for line in groups[1][class_id]]
            num_members += len(members)
    return num_members


def compare_odd_names(root: Path) -> None:
    """Check that both ways agree on names as nobody should write them."""
    list_file = write_odd_names(root / "train", NUM_ODD)
    index = load_index(root / "train", PARAMS, root / "cache")
    plain_partition.build(list_file, PARAMS, root / "loop.torch", plain_partition.split_any_name)
    num_same = count_same(index.index_folder, root / "loop.torch")
    assert num_same == len(index.image_offsets) > NUM_ODD // 2


def rows_of_both(both: Both, num_images: int) -> list[tuple[str, ...]]:
    """Return a row for each target that compares."""
    built, looped, opened, loaded = both.built, both.looped, both.opened, both.loaded
    how_many = f"{num_images / 1e6:g} M names"
    return [
        _row(f"{how_many} to an opened index, s", built.seconds, looped.seconds, ">= 25"),
        _row("the same, of a processor, s", built.cpu_seconds, looped.cpu_seconds),
        _row("the same, once: compiling first, s", both.first.seconds, looped.seconds),
        _row("peak memory, MB", built.peak_mb, looped.peak_mb),
        _row("on disk, MB", both.index_bytes / 2**20, both.cache_bytes / 2**20),
        _row(f"{GROUPS_NUM} groups opened, s", opened.seconds, loaded.seconds),
        _row(f"memory of {GROUPS_NUM} open groups, MB", opened.peak_mb, loaded.peak_mb),
    ]


def rows_alone(alone: Alone, num_images: int) -> list[tuple[str, ...]]:
    """Return a row for each target that is a limit."""
    how_many = f"{num_images / 1e6:g} M names"
    per_path_us, mapped_mb = alone.drawn.result
    bytes_a_name = alone.built.peak_mb * 2**20 / num_images
    return [
        _row(f"{how_many} to an opened index, s", alone.built.seconds, bar="< 30"),
        _row("the same, of a processor, s", alone.built.cpu_seconds),
        _row("peak memory, MB", alone.built.peak_mb, bar="< 4,000"),
        _row("peak memory, bytes a name", bytes_a_name),
        _row("the same to EigenPlaces' classes of panoramas, s", alone.panoramas.seconds),
        _row("peak memory of that, MB", alone.panoramas.peak_mb),
        _row("an existing index opened, s", alone.opened.seconds, bar="< 0.2"),
        _row("memory of an open index, MB", alone.opened.peak_mb, bar="< 50"),
        _row(f"memory of a worker that drew {NUM_DRAWN:,} paths, MB", alone.drawn.peak_mb),
        _row("pages of the index in it, which can be given back, MB", mapped_mb),
        _row("a path drawn, microseconds", per_path_us),
    ]


def project(both: Both, num_images: int, alone: Alone, num_alone: int) -> str:
    """Extrapolate time and memory from two lists to the largest."""
    if num_alone <= num_images:
        return ""
    steps = num_alone - num_images
    per_name = (alone.built.peak_mb - both.built.peak_mb) * 2**20 / steps
    seconds = (alone.built.seconds - both.built.seconds) / steps * NUM_LARGEST
    return (
        f"\nProjected, not measured: from {num_images:,} to {num_alone:,} names, memory grows by "
        f"{per_name:.0f} bytes a name. {NUM_LARGEST:,} names would take "
        f"{per_name * NUM_LARGEST / 1e9:.0f} GB and {seconds:,.0f} s.\n"
    )


def _row(what: str, ours: float, theirs: float | None = None, bar: str = "") -> tuple[str, ...]:
    if theirs is None:
        return what, _number(ours), "", "", bar
    return what, _number(ours), _number(theirs), f"{theirs / ours:,.1f}", bar


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def note(text: str) -> None:
    """Report progress."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
