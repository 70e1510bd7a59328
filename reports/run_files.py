"""Read what an evaluation left in the folder of its run, as arrays and names."""

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.results import PREDICTIONS_COLUMNS
from reports.runs import read_results

NUM_NAMED_PREDICTIONS = 3  # of each query
MISSED, LATER, RIGHT = range(3)  # none of the K predictions is right; not the first one; the first
_TWO_DIMENSIONAL = ("predictions", "descriptor_distances", "distances_m", "correct")
_POSITIONS = ("queries_m", "first_predictions_m", "places_m")
_UNKNOWN = "The positions of the images are not known."
_MOCK = "The positions in the file names are not those of a map: all have the same east coordinate."


@dataclass(frozen=True)
class Positions:
    """Where images were taken: east and north in metres. float64 [n, 2] each."""

    queries_m: np.ndarray
    first_predictions_m: np.ndarray  # of each query; NaN where there is none
    places_m: np.ndarray  # distinct positions of the database

    @property
    def are_mock(self) -> bool:
        """Tell whether frame numbers stand in the place of coordinates (Nordland, AmsterTime)."""
        easts_m = np.concatenate([self.queries_m[:, 0], self.places_m[:, 0]])
        return len(easts_m) > 2 and bool((easts_m == easts_m[0]).all())


@dataclass(frozen=True)
class Run:
    """One evaluation of Q queries with K predictions each; unknown distances are NaN."""

    folder: Path
    results: dict[str, Any]  # what results.json holds
    queries: list[str]  # paths, "" for a query that could not be read
    predictions: list[list[str]]  # paths of the first three predictions of each query
    descriptor_distances: np.ndarray  # float32 [Q, K]
    distances_m: np.ndarray  # float32 [Q, K]; inf is in a UTM zone that does not touch
    correct: np.ndarray | None  # bool [Q, K]; None without labels
    num_positives: np.ndarray | None  # int32 [Q]; None without labels
    positions: Positions | None
    why_no_positions: str  # a sentence; empty if there are some

    @property
    def statuses(self) -> np.ndarray | None:
        """Return MISSED, LATER or RIGHT for each query, uint8 [Q]; None without labels."""
        if self.correct is None:
            return None
        statuses = np.where(self.correct.any(axis=1), LATER, MISSED)
        return np.where(self.correct[:, 0], RIGHT, statuses).astype(np.uint8)


def read_run(folder: Path) -> Run:
    """Read results.json, predictions.npz and predictions.csv of a run.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If one of them is damaged, or they are of different runs.
    """
    results = read_results(folder)
    arrays = _read_arrays(folder / "predictions.npz")
    num_queries = len(arrays["predictions"])
    if num_queries != results["num_queries"]:
        raise ValueError(
            f"{folder} holds files of different runs: results.json is of "
            f"{results['num_queries']:,} queries, predictions.npz of {num_queries:,}"
        )
    queries, predictions = _read_names(folder / "predictions.csv", num_queries)
    positions, why_no_positions = _positions(arrays)
    distances_m = arrays["distances_m"]
    return Run(
        folder,
        results,
        queries,
        predictions,
        arrays["descriptor_distances"],
        distances_m if positions else np.full_like(distances_m, np.nan),
        arrays.get("correct"),
        arrays.get("num_positives"),
        positions,
        why_no_positions,
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file and check their shapes."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: evaluate again to have it written")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    missing = [name for name in _TWO_DIMENSIONAL[:3] if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}")
    shape = arrays["predictions"].shape
    expected = dict.fromkeys(_TWO_DIMENSIONAL, shape)
    expected |= {"num_positives": shape[:1], "queries_m": (shape[0], 2)}
    expected |= {"first_predictions_m": (shape[0], 2)}
    for name in expected.keys() & arrays.keys():
        if arrays[name].shape != expected[name] or 0 in shape or len(shape) != 2:
            raise ValueError(
                f"{name} in {path} has the shape {arrays[name].shape}, predictions have {shape}"
            )
    return arrays


def _positions(arrays: dict[str, np.ndarray]) -> tuple[Positions | None, str]:
    """Return the positions, or None and a sentence that says why."""
    if not all(name in arrays for name in _POSITIONS):
        return None, _UNKNOWN
    positions = Positions(*(arrays[name] for name in _POSITIONS))
    if positions.are_mock:
        return None, _MOCK
    return positions, ""


def _read_names(path: Path, num_queries: int) -> tuple[list[str], list[list[str]]]:
    """Read the paths of the queries and of their first predictions."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: evaluate again to have it written")
    queries = [""] * num_queries
    predictions: list[list[str]] = [[] for _ in range(num_queries)]
    wanted = {str(rank) for rank in range(1, NUM_NAMED_PREDICTIONS + 1)}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != PREDICTIONS_COLUMNS:
            raise ValueError(f"{path} does not begin with {','.join(PREDICTIONS_COLUMNS)}")
        try:
            for query_num, query, rank, prediction, *_ in rows:
                if rank in wanted:
                    queries[int(query_num)] = query
                    predictions[int(query_num)].append(prediction)
        except (ValueError, IndexError):
            raise ValueError(
                f"Line {rows.line_num} of {path} is damaged, or of another run than predictions.npz"
            ) from None
    return queries, predictions
