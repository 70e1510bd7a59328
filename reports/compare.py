"""Recalls of several runs side by side.

python -m reports.compare RUN_FOLDER RUN_FOLDER ...
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commons


def main(argv: Sequence[str] | None = None) -> None:
    """Print one column per run, one row per R@N."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("runs", nargs="+", type=Path, help="folders with a results.json")
    runs = cli.parse_args(argv).runs
    logging.info(compare_recalls(runs, [read_results(run) for run in runs]))


def read_results(run: Path) -> dict[str, Any]:
    """Read the results of a run.

    Raises:
        FileNotFoundError: If the run has none.
    """
    file = run / "results.json"
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: was that run finished?")
    return json.loads(file.read_text())


def compare_recalls(runs: Sequence[Path], results: Sequence[dict[str, Any]]) -> str:
    """Return a table of the recalls, and where each run's files are.

    Runs on different queries or databases stand side by side too: the row of data sets says so.
    """
    names = [name for name in results[0]["recalls"] if all(name in r["recalls"] for r in results)]
    rows = [
        ["", *(run.name for run in runs)],
        ["data set", *(result["dataset"] for result in results)],
        ["queries", *(f"{result['num_queries']:,}" for result in results)],
        ["database images", *(f"{result['num_database']:,}" for result in results)],
        *([name, *(f"{result['recalls'][name]:.1f}" for result in results)] for name in names),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    if len({result["dataset"] for result in results}) > 1:
        table.append("Different data sets: these recalls do not compare.")
    places = [f"Logs and predictions of {run.name}: {run}" for run in runs]
    places += [
        f"Pictures of {run.name}: {run / 'preds'}" for run in runs if (run / "preds").is_dir()
    ]
    return "\n".join([*table, "", *places])


if __name__ == "__main__":
    commons.run_command(main)
