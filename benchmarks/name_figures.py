"""How long figures 1 to 3 of the paper take from a list of names, against a plain loop.

python -m benchmarks.name_figures --num_images 41200000

Both count the panoramas of a list of a million names. The loop is the obvious program: split each
name, put its panorama into a dict. Then the figures are drawn from a list as long as SF-XL.
Every run is a process of its own, so that peak memories compare.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.common import measure, write_table, write_title
from benchmarks.make_names import write_names
from datasets.partition import PartitionParams
from paper.name_figures import draw_panorama_figures, draw_query_years
from paper.panoramas import count_per_cell, read_panoramas

NUM_QUERIES = 1000


def main() -> None:
    """Write lists of names, count and draw, print times and memory."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=41_200_000)
    cli.add_argument("--num_compared", type=int, default=1_000_000, help="names of both ways")
    cli.add_argument(
        "--folder", type=Path, help="with room for 100 bytes a name (default: that of tempfile)"
    )
    cli.add_argument("--quick", action="store_true", help="4,120,000 and 500,000 names")
    args = cli.parse_args()
    if args.quick:
        args.num_images, args.num_compared = 4_120_000, 500_000
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        root = Path(temporary)
        write_names(root / "queries", NUM_QUERIES)
        write_names(root / "few", args.num_compared)
        write_names(root / "train", args.num_images)
        loop = measure(count_by_loop, root / "few")
        fast = measure(count_by_columns, root / "few")
        figures = measure(draw, root / "train")
    assert loop.result == fast.result, "both ways count the same panoramas"
    write_title(
        "Figures 1 to 3 of the paper, from a list of names",
        "Panoramas are counted by a loop over names and by columns, with the same result; then the "
        "figures are drawn. Each in a process of its own; memory is the peak of anonymous memory "
        "above the imports.",
    )
    write_table(
        ("what", "names", "seconds", "processor seconds", "peak MB"),
        [
            (
                label,
                f"{count:,}",
                f"{cost.seconds:.1f}",
                f"{cost.cpu_seconds:.1f}",
                f"{cost.peak_mb:,.0f}",
            )
            for label, count, cost in (
                ("plain loop", args.num_compared, loop),
                ("columns", args.num_compared, fast),
                ("figures 1 to 3", args.num_images, figures),
            )
        ],
    )


def count_by_loop(train: Path) -> tuple[Counter, Counter]:
    """Count cells by their number of panoramas, and panoramas by year, name by name."""
    panoramas = {}
    with open(train.with_name(f"{train.name}_images_paths.txt")) as file:
        for line in file:
            fields = line.split("@")
            east, north, pano_id, timestamp = fields[1], fields[2], fields[7], fields[13]
            place = (float(east), float(north), int(timestamp[:4]))
            panoramas[east, north, pano_id, timestamp] = place
    side_m = PartitionParams().M
    cells = Counter(
        (east_m // side_m, north_m // side_m) for east_m, north_m, _ in panoramas.values()
    )
    return Counter(cells.values()), Counter(year for *_, year in panoramas.values())


def count_by_columns(train: Path) -> tuple[Counter, Counter]:
    """Count like `count_by_loop`."""
    panoramas = read_panoramas(train)
    per_cell, _ = count_per_cell(panoramas, PartitionParams().M)
    counted = (np.unique(values, return_counts=True) for values in (per_cell, panoramas.years))
    cells, years = (
        Counter(dict(zip(*(part.tolist() for part in parts), strict=True))) for parts in counted
    )
    return cells, years


def draw(train: Path) -> list[str]:
    """Draw figures 1 and 2 of the names, and figure 3 of as many queries as test v1 has."""
    out = train.parent / "figures"
    files = draw_panorama_figures(train, out) + draw_query_years(train.parent / "queries", out)
    return [file.name for file in files]


if __name__ == "__main__":
    main()
