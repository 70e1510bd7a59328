"""Read what an evaluation left in the folder of its run, as arrays and names."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from reports.captures import Captures, read_captures
from reports.runs import NUM_SHOWN, iterate_queries, read_results

MISSED, LATER, RIGHT = range(3)  # none of the K predictions is right; not the first one; the first
_TWO_DIMENSIONAL = ("predictions", "descriptor_distances", "distances_m", "correct")
_CAPTURES = tuple(field.name for field in fields(Captures))
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
class RunArrays:
    """The arrays and names of an evaluation of Q queries with K predictions; NaN is not known."""

    folder: Path
    results: dict[str, Any]  # what results.json holds
    queries: list[str]  # paths, "" for a query without predictions
    predictions: list[list[str]]  # paths of the first NUM_SHOWN predictions of each query
    descriptor_distances: np.ndarray  # float32 [Q, K]
    distances_m: np.ndarray  # float32 [Q, K]; inf is in a UTM zone that does not touch
    correct: np.ndarray | None  # bool [Q, K]; None without labels
    num_positives: np.ndarray | None  # int32 [Q]; None without labels
    positions: Positions | None
    why_no_positions: str  # a sentence; empty if there are some
    captures: Captures

    @property
    def statuses(self) -> np.ndarray | None:
        """Return MISSED, LATER or RIGHT for each query, uint8 [Q]; None without labels."""
        if self.correct is None:
            return None
        statuses = np.where(self.correct.any(axis=1), LATER, MISSED)
        return np.where(self.correct[:, 0], RIGHT, statuses).astype(np.uint8)


def read_run_arrays(folder: Path) -> RunArrays:
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
    return RunArrays(
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
        read_captures(arrays, queries, [paths[0] if paths else "" for paths in predictions]),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file and check their shapes."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: evaluate again to have it written")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # NumPy and zipfile raise many kinds for what is damaged
        raise ValueError(f"{path} is damaged: {error}") from None
    missing = [name for name in _TWO_DIMENSIONAL[:3] if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}")
    shape = arrays["predictions"].shape
    expected = dict.fromkeys(_TWO_DIMENSIONAL, shape)
    expected |= {"num_positives": shape[:1], "queries_m": (shape[0], 2)}
    expected |= {"first_predictions_m": (shape[0], 2)}
    expected |= dict.fromkeys(_CAPTURES, shape[:1])
    for name in expected.keys() & arrays.keys():
        if arrays[name].shape != expected[name] or 0 in shape or len(shape) != 2:
            raise ValueError(
                f"{name} in {path} has the shape {arrays[name].shape}, predictions have {shape}"
            )
    if "places_m" in arrays and arrays["places_m"].shape[1:] != (2,):
        raise ValueError(
            f"places_m in {path} has the shape {arrays['places_m'].shape}, not pairs of numbers"
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
    queries = [""] * num_queries
    predictions: list[list[str]] = [[] for _ in range(num_queries)]
    for rows in iterate_queries(path):
        query = int(rows[0]["query_num"])
        if query >= num_queries:
            raise ValueError(
                f"{path} has a query of number {query}, predictions.npz only {num_queries:,} "
                "queries, counted from 0: they are of different runs"
            )
        queries[query] = rows[0]["query"]
        predictions[query] = [row["prediction"] for row in rows[:NUM_SHOWN]]
    return queries, predictions
