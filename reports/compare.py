"""Compare runs on the same test sets: recalls with intervals, queries won and lost.

python -m reports.compare RUN_A RUN_B --names before after
python -m reports.compare RUN_A RUN_B RUN_C --out FOLDER    # tables and a page with pictures
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import commons
from command_line import CommandLine
from datasets.tables import write_table
from reports.compare_page import make_page
from reports.compare_tables import (
    QUERIES_COLUMNS,
    RECALLS_COLUMNS,
    count_tests,
    describe_comparison,
    describe_method,
    format_markdown,
    format_text,
    list_queries,
    list_recalls,
    printable,
    tabulate,
    tabulate_sets,
)
from reports.comparison import Bootstrap, Comparison, compare_runs, correct_p_values
from reports.runs import find_sets, read_run

FILES = ("comparison.html", "comparison.md", "comparison.csv", "comparison_queries.csv")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare every run with the first one."""
    cli = CommandLine(prog="python -m reports.compare", description=__doc__.splitlines()[0])
    cli.add_argument(
        "runs", nargs="+", type=Path, help="folders of runs; the first is the baseline"
    )
    cli.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the runs (default: those of their folders)"
    )
    cli.add_argument("--out", type=Path, help=f"write {', '.join(FILES)} into this folder")
    cli.add_argument(
        "--num_pictures",
        type=int,
        default=12,
        help="queries won, and queries lost, shown on the page (default: 12)",
    )
    cli.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    cli.add_argument(
        "--num_resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)"
    )
    args = cli.parse_args(argv)
    for flag, smallest in (("num_pictures", 0), ("seed", 0), ("num_resamples", 100)):
        if (value := getattr(args, flag)) < smallest:
            cli.error(f"--{flag} must be at least {smallest}, it is {value}")
    if len({os.path.realpath(run) for run in args.runs}) < len(args.runs):
        cli.error("a run is given twice")
    if args.names and len(set(args.names)) != len(args.runs):
        cli.error(f"--names: give {len(args.runs)} different names, one for each run")
    if args.out:
        check_free(args.out)
    bootstrap = Bootstrap(args.num_resamples, args.seed)
    comparisons = compare_folders(args.runs, bootstrap, args.names)
    logging.info(printable(format_comparisons(comparisons, bootstrap)))
    if args.out:
        write_files(comparisons, bootstrap, args.num_pictures, args.out)


def check_free(out: Path) -> None:
    """Check that a comparison can be written into a folder.

    Raises:
        FileExistsError: If it holds one already.
        NotADirectoryError: If it is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is not a folder")
    if taken := [name for name in FILES if (out / name).exists()]:
        raise FileExistsError(f"{out} already holds {taken[0]}: give another --out")


def compare_folders(
    runs: Sequence[Path], bootstrap: Bootstrap, names: Sequence[str] | None = None
) -> list[Comparison]:
    """Compare runs on every test set that they share.

    Args:
        runs: Their folders.
        bootstrap: How intervals are found.
        names: Of the runs; None for those of their folders.

    Raises:
        FileNotFoundError: If a run has no results.
        ValueError: If they have no test set in common, or a file is broken.
    """
    labels = names or name_runs(runs)
    sets = [find_sets(run) for run in runs]
    if all(len(folders) == 1 for folders in sets):  # on different sets too: the table says so
        shared = {next(iter(sets[0])): [next(iter(folders.values())) for folders in sets]}
    else:
        common = [name for name in sets[0] if all(name in folders for folders in sets)]
        shared = {name: [folders[name] for folders in sets] for name in common}
        _report_left_out(labels, [folders.keys() - shared.keys() for folders in sets])
    if not shared:
        held = "; ".join(
            f"{label} has {', '.join(folders)}" for label, folders in zip(labels, sets, strict=True)
        )
        raise ValueError(f"The runs have no test set in common: {held}")
    return correct_p_values(
        [
            compare_runs(name, list(map(read_run, labels, folders)), bootstrap)
            for name, folders in shared.items()
        ]
    )


def name_runs(runs: Sequence[Path]) -> list[str]:
    """Return distinct names of runs: those of their folders, or else the paths as given."""
    names = [os.path.basename(os.path.abspath(run)) for run in runs]
    return names if len(set(names)) == len(names) else list(map(str, runs))


def _report_left_out(labels: Sequence[str], left_out: Iterable[set[str]]) -> None:
    for label, names in zip(labels, left_out, strict=True):
        if names:
            logging.info(printable(f"Not in all runs: {', '.join(sorted(names))} of {label}"))


def format_comparisons(comparisons: Sequence[Comparison], bootstrap: Bootstrap) -> str:
    """Return tables and sentences for the terminal, and the folder of each run."""
    parts = []
    for comparison in comparisons:
        sentences = describe_comparison(comparison, count_tests(comparisons))
        parts += [format_text(tabulate(comparison)), "\n".join(sentences)]
    if len(comparisons) > 1:
        parts.append(format_text(tabulate_sets(comparisons)))
    runs = [run for comparison in comparisons for run in comparison.runs]
    places = [f"Logs and predictions of {run.label}: {run.folder}" for run in runs]
    places += [
        f"Pictures of {run.label}: {run.folder / 'preds'}"
        for run in runs
        if (run.folder / "preds").is_dir()
    ]
    parts += [*describe_method(comparisons, bootstrap), "\n".join(places)]
    return "\n\n".join(filter(None, parts))


def write_files(
    comparisons: Sequence[Comparison], bootstrap: Bootstrap, num_pictures: int, out: Path
) -> None:
    """Write page, Markdown, recalls and queries, all of FILES, into a folder."""
    page, gone = make_page(comparisons, bootstrap, num_pictures)
    out.mkdir(parents=True, exist_ok=True)
    with commons.atomic_write(out / "comparison.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    with commons.atomic_write(out / "comparison.md") as temporary:
        temporary.write_text(format_markdown(comparisons, bootstrap), encoding="utf-8")
    write_table(out / "comparison.csv", RECALLS_COLUMNS, list_recalls(comparisons))
    write_table(out / "comparison_queries.csv", QUERIES_COLUMNS, list_queries(comparisons))
    if gone:
        logging.warning(printable(gone))
    logging.info(f"The comparison is in {', '.join(str(out / name) for name in FILES)}")


if __name__ == "__main__":
    commons.run_command(main)
