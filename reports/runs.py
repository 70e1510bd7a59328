"""Read `results.json` and `predictions.csv` of finished runs."""

import csv
import itertools
import operator
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datasets.tables import TABLE, read_json, unescape_cell

RENAMED = {"pooling": "aggregation"}  # flags and results of older runs -> of today
NUM_SHOWN = 3  # predictions of a query in reports
_NEEDED = ("dataset", "num_queries", "num_database", "recalls")
_KINDS = {  # of results.json, where present
    "dataset": (str, "a text"),
    "num_queries": (int, "a whole number"),
    "num_database": (int, "a whole number"),
    "recalls": (dict, "a table of R@N"),
    "threshold_m": (int | float | None, "a number or null"),
    "resize": (str, "a text"),
    "queries_folder": (str, "a text"),
    "image_sizes": (dict, "a table"),
    "database_folder": (str | None, "a text or null"),
    "descriptor_dim": (int, "a whole number"),
    "notes": (list, "a list of sentences"),
}
_LARGEST = 10**15  # of numbers that are counted or compared
_COLUMNS = ("query_num", "query", "rank", "prediction", "distance_m", "correct")


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run, by query: its path below the run's folder of queries.

    A query that could not be read has no predictions and is not among them.

    Attributes:
        rows: First rows of `predictions.csv` of each query, by rank.
        correct_ranks: Rank of the first correct prediction, from 1; inf if no saved one is.
        num_ranks: Predictions saved per query.
        has_labels: Whether the run had positives.
        repeated: A query that occurs twice; empty if none does.
    """

    rows: dict[str, list[dict[str, str]]]
    correct_ranks: dict[str, float]
    num_ranks: int
    has_labels: bool
    repeated: str = ""


@dataclass(frozen=True)
class Run:
    """One run on one test set, for comparisons.

    Attributes:
        label: Its name.
        folder: Of its files.
        result: Content of `results.json`.
        predictions: None if recalls cannot be computed from them.
        problem: Why not, a sentence; otherwise empty.
    """

    label: str
    folder: Path
    result: dict[str, Any]
    predictions: Predictions | None
    problem: str = ""

    @property
    def counted_recalls(self) -> dict[str, int]:
        """{"R@N": N} of the recalls that the saved predictions suffice for."""
        if self.predictions is None:
            return {}
        num_ranks, num_database = self.predictions.num_ranks, self.result["num_database"]
        values = {name: int(name.removeprefix("R@")) for name in self.result["recalls"]}
        return {name: n for name, n in values.items() if min(n, num_database) <= num_ranks}


def find_sets(run: Path) -> dict[str, Path]:
    """Return {name of a test set: folder with its results.json}.

    A run on several sets has one folder for each; a run on one set has its results at the top.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If they are not those of an evaluation, or several are of one set.
    """
    files = [run / "results.json"]
    if not files[0].is_file():
        files = sorted(run.glob("*/results.json")) or files
    sets: dict[str, Path] = {}
    for folder in (file.parent for file in files):
        name = read_results(folder)["dataset"]
        if name in sets:
            raise ValueError(
                f"{sets[name]} and {folder} are both on {name}: give these folders themselves"
            )
        sets[name] = folder
    return sets


def find_set(run: Path) -> Path:
    """Return the folder with the results of a run on one set.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: See `find_sets`; or if they are of several sets.
    """
    [folder, *others] = find_sets(run).values()
    if others:
        raise ValueError(
            f"{run} is of several sets: give the folder of one, "
            f"{' or '.join(map(str, [folder, *others]))}"
        )
    return folder


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results of a run on one set.

    Raises:
        FileNotFoundError: If the run has none.
        ValueError: If they are not those of an evaluation.
    """
    file = folder / "results.json"
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: was that run finished?")
    result = read_json(file, object)
    missing = [key for key in _NEEDED if not isinstance(result, dict) or key not in result]
    if missing:
        raise ValueError(f"{file} is not of an evaluation: it has no {', '.join(missing)}")
    if fault := _find_fault(result):
        raise ValueError(f"{file} is damaged: {fault}")
    return with_names_of_today(result)


def with_names_of_today(values: dict[str, Any]) -> dict[str, Any]:
    """Return flags or results of a run under the names that today's runs have for them."""
    return {RENAMED.get(name, name): value for name, value in values.items()}


def _find_fault(result: dict[str, Any]) -> str:
    """Return the first fault in results.json; empty if none."""
    if fault := next(filter(None, (_find_wrong_kind(key, result) for key in _KINDS)), ""):
        return fault
    if min(result["num_queries"], result["num_database"]) < 1:
        return "there are no queries or no database images"
    for name, value in result["recalls"].items():
        if not re.fullmatch(r"R@[1-9][0-9]{0,8}", name):
            return f"{name!r} is no recall, such as R@1"
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            return f"{name} is not a percentage"
    sizes = result.get("image_sizes", {}).values()
    if not all(isinstance(of_role, dict) for of_role in sizes):
        return "image_sizes are not by database and queries"
    if not all(type(number) is int for of_role in sizes for number in of_role.values()):
        return "image_sizes are not counted"
    if not all(isinstance(note, str) for note in result.get("notes", [])):
        return "notes is not a list of sentences"
    return ""


def _find_wrong_kind(key: str, result: dict[str, Any]) -> str:
    kind, what = _KINDS[key]
    value = result.get(key)
    if key in result and (not isinstance(value, kind) or isinstance(value, bool)):
        return f"{key} is not {what}"
    if isinstance(value, (int, float)) and not abs(value) < _LARGEST:
        return f"{key} is out of range"
    return ""


def read_run(label: str, folder: Path) -> Run:
    """Read results and predictions, and check that they belong together.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If a file is broken.
    """
    result = read_results(folder)
    file = folder / "predictions.csv"
    if not file.is_file():
        return Run(label, folder, result, None, f"There is no {file}: no intervals, no test.")
    run = Run(label, folder, result, read_predictions(file, result.get("queries_folder", "")))
    problem = _find_problem(run)
    return Run(label, folder, result, None, problem) if problem else run


def _find_problem(run: Run) -> str:
    if run.predictions.repeated:
        return (
            f"The predictions.csv of {run.label} has the query {run.predictions.repeated} twice: "
            "queries cannot be paired. No intervals, no test."
        )
    if not run.predictions.has_labels or not run.result["recalls"]:
        return f"{run.label} was evaluated without labels: it has no recalls to compare."
    ranks = np.array(list(run.predictions.correct_ranks.values()))
    num_queries = run.result["num_queries"]
    if len(ranks) > num_queries:
        return (
            f"The predictions.csv of {run.label} is of {len(ranks):,} queries, its results.json of "
            f"{num_queries:,}: they are not of one evaluation. No test."
        )
    for name, n in run.counted_recalls.items():
        counted, written = 100 * (ranks <= n).sum() / num_queries, run.result["recalls"][name]
        if abs(counted - written) > 0.001:
            return (
                f"The predictions.csv of {run.label} gives {name} {counted:.2f}, its results.json "
                f"says {written:.2f}: they are not of one evaluation. No test."
            )
    return ""


def read_predictions(file: Path, queries_folder: str = "") -> Predictions:
    """Read the predictions of a run.

    Args:
        file: A `predictions.csv`.
        queries_folder: Removed from the paths of queries, so that copies of a data set elsewhere
            have the same.

    Raises:
        ValueError: If the file is not one of predictions.
    """
    kept_rows, correct_ranks, num_ranks, has_labels, repeated = {}, {}, 0, True, ""
    for rows in iterate_queries(file):
        query = rows[0]["query"].removeprefix(os.path.join(queries_folder, ""))
        if query in kept_rows:
            repeated = repeated or query
        correct = [int(row["rank"]) for row in rows if row["correct"] == "1"]
        num_ranks = max(num_ranks, int(rows[-1]["rank"]))
        kept_rows[query] = rows[:NUM_SHOWN]
        correct_ranks[query] = min(correct, default=np.inf)
        has_labels &= all(row["correct"] for row in rows)
    return Predictions(kept_rows, correct_ranks, num_ranks, has_labels, repeated)


def iterate_queries(file: Path) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of one query of a `predictions.csv` after the other.

    `query_num` and `rank` are whole numbers, `distance_m` is a number or empty, `correct` is 0, 1
    or empty: that is checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If columns are missing, a row is damaged, or it is no table at all.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: evaluate again to have it written")
    with open(file, **TABLE) as text:
        try:
            rows = _read_rows(file, text)
            for _, of_query in itertools.groupby(rows, key=operator.itemgetter("query_num")):
                yield list(of_query)
        except csv.Error as error:
            raise ValueError(f"{file} is not a table: {error}") from None


def _read_rows(file: Path, text: TextIO) -> Iterator[dict[str, str]]:
    reader = csv.reader(text)
    columns = next(reader, [])
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise ValueError(f"{file} has no column {', '.join(missing)}")
    for cells in filter(None, reader):
        row = dict(zip(columns, map(unescape_cell, cells), strict=False))
        if len(cells) != len(columns) or not _is_whole(row):
            raise ValueError(f"Line {reader.line_num} of {file} is damaged")
        yield row


def _is_whole(row: dict[str, str]) -> bool:
    """Whether the numeric cells of a row hold numbers."""
    try:
        float(row["distance_m"] or 0)
    except ValueError:
        return False
    numbers = row["query_num"].isdecimal() and row["rank"].isdecimal() and row["rank"] != "0"
    return numbers and row["correct"] in ("0", "1", "")
