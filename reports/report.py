"""One page about one evaluation: protocol, curves, map, and the most informative queries.

python -m reports.report RUN_FOLDER --num_gallery 24

The page is one file that needs no network: it can be mailed, and opens from disk.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import commons
from command_line import CommandLine
from reports.run_files import read_run_arrays
from reports.runs import find_sets

NUM_GALLERY = 24


def write_report(run_folder: Path, num_gallery: int = NUM_GALLERY) -> Path:
    """Write RUN_FOLDER/report.html from the results of a run and the images they name.

    Args:
        run_folder: Holds results.json, predictions.csv and predictions.npz.
        num_gallery: Number of queries shown with their images; the page marks missing images.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If one of the three files is missing.
        ImportError: If a package is missing that draws the page.
        ValueError: If one of them is damaged, or they are of different runs.
    """
    from reports.report_page import render_page  # seconds, and packages that draw

    page = render_page(read_run_arrays(run_folder), num_gallery)
    path = run_folder / "report.html"
    with commons.atomic_write(path) as temporary:
        # file names may be any bytes: those that are not text become question marks
        temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of a finished run."""
    cli = CommandLine(prog="python -m reports.report", description=__doc__.splitlines()[0])
    cli.add_argument("run_folder", type=Path, help="folder of an evaluation, of one set or several")
    cli.add_argument(
        "--num_gallery",
        type=int,
        default=NUM_GALLERY,
        help=f"queries to show with their images (default: {NUM_GALLERY})",
    )
    args = cli.parse_args(argv)
    if args.num_gallery < 0:
        cli.error(f"--num_gallery must be at least 0, it is {args.num_gallery}")
    for folder in find_sets(args.run_folder).values():
        logging.info(f"The report is {write_report(folder, args.num_gallery)}")


if __name__ == "__main__":
    commons.run_command(main)
