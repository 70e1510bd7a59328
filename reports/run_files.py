"""Arrays and names of a finished evaluation, read from the folder of its run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_names import ImageName, parse_image_name
from reports.runs import NUM_SHOWN, iterate_queries, read_results

MISSED, LATER, CORRECT = range(3)  # no correct prediction; correct below rank 1; correct top-1
_TWO_DIMENSIONAL = ("predictions", "descriptor_distances", "distances_m", "correct")
_KINDS = {  # of values, as NumPy names them
    **dict.fromkeys(("predictions", "num_positives", "query_years"), "iu"),
    "correct": "b",
    **dict.fromkeys(("descriptor_distances", "distances_m", "queries_m", "places_m"), "f"),
    **dict.fromkeys(("first_predictions_m", "query_headings_deg"), "f"),
    "first_prediction_headings_deg": "f",
}
_CAPTURES = ("query_years", "query_headings_deg", "first_prediction_headings_deg")
_POSITIONS = ("queries_m", "first_predictions_m", "places_m")
_UNKNOWN = "The positions of the images are not known."
_MOCK = "The positions in the file names are not those of a map: all have the same east coordinate."


@dataclass(frozen=True)
class RunPositions:
    """Where images were taken: east and north in metres. float64 [n, 2] each."""

    queries_m: np.ndarray
    first_predictions_m: np.ndarray  # of each query; NaN where there is none
    places_m: np.ndarray  # distinct positions of the database

    @property
    def are_mock(self) -> bool:
        """Whether frame numbers replace coordinates (Nordland, AmsterTime)."""
        easts_m = np.concatenate([self.queries_m[:, 0], self.places_m[:, 0]])
        return len(easts_m) > 2 and bool((easts_m == easts_m[0]).all())


@dataclass(frozen=True)
class Captures:
    """Years and headings of the images of Q queries; 0 and NaN if unknown."""

    query_years: np.ndarray  # int [Q]
    query_headings_deg: np.ndarray  # float [Q]
    first_prediction_headings_deg: np.ndarray  # float [Q]


@dataclass(frozen=True)
class RunArrays:
    """The arrays and names of an evaluation of Q queries with K predictions; NaN: unknown."""

    folder: Path
    results: dict[str, Any]  # of results.json
    queries: list[str]  # paths, "" for a query without predictions
    predictions: list[list[str]]  # paths of the top-NUM_SHOWN of each query
    descriptor_distances: np.ndarray  # float32 [Q, K]
    distances_m: np.ndarray  # float32 [Q, K]; inf: in a UTM zone that does not touch
    correct: np.ndarray | None  # bool [Q, K]; None without labels
    num_positives: np.ndarray | None  # int32 [Q]; None without labels
    positions: RunPositions | None
    why_no_positions: str  # a sentence; empty if there are positions
    captures: Captures

    @property
    def statuses(self) -> np.ndarray | None:
        """Return MISSED, LATER or CORRECT for each query, uint8 [Q]; None without labels."""
        if self.correct is None:
            return None
        statuses = np.where(self.correct.any(axis=1), LATER, MISSED)
        return np.where(self.correct[:, 0], CORRECT, statuses).astype(np.uint8)


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
    except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
        raise ValueError(f"{path} is damaged: {error}") from None
    missing = [name for name in _TWO_DIMENSIONAL[:3] if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}")
    shape = arrays["predictions"].shape
    if len(shape) != 2:
        raise ValueError(f"predictions in {path} have the shape {shape}, not a row for each query")
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
    for name in _KINDS.keys() & arrays.keys():
        if arrays[name].dtype.kind not in _KINDS[name]:
            raise ValueError(f"{path} is damaged: {name} has values of type {arrays[name].dtype}")
    return arrays


def _positions(arrays: dict[str, np.ndarray]) -> tuple[RunPositions | None, str]:
    """Return the positions, or None and the reason as a sentence."""
    if not all(name in arrays for name in _POSITIONS):
        return None, _UNKNOWN
    positions = RunPositions(*(arrays[name] for name in _POSITIONS))
    if positions.are_mock:
        return None, _MOCK
    return positions, ""


def _read_names(path: Path, num_queries: int) -> tuple[list[str], list[list[str]]]:
    """Read the paths of the queries and of their top-NUM_SHOWN predictions."""
    queries = [""] * num_queries
    predictions: list[list[str]] = [[] for _ in range(num_queries)]
    for rows in iterate_queries(path):
        query = int(rows[0]["query_num"])
        if query >= num_queries:
            raise ValueError(
                f"{path} has the query index {query}, predictions.npz only {num_queries:,} "
                "queries, counted from 0: they are of different runs"
            )
        queries[query] = rows[0]["query"]
        predictions[query] = [row["prediction"] for row in rows[:NUM_SHOWN]]
    return queries, predictions


def read_captures(
    arrays: Mapping[str, np.ndarray], queries: Sequence[str], first_predictions: Sequence[str]
) -> Captures:
    """Take the arrays of predictions.npz, or else read '@' file names.

    Args:
        arrays: Those of predictions.npz.
        queries: Paths, "" where there is none.
        first_predictions: The path of the top-1 prediction of each query, "" where there is none.
    """
    readers = {
        "query_years": lambda: read_years(queries),
        "query_headings_deg": lambda: read_headings(queries),
        "first_prediction_headings_deg": lambda: read_headings(first_predictions),
    }
    return Captures(
        **{name: arrays[name] if name in arrays else read() for name, read in readers.items()}
    )


def read_years(paths: Sequence[str]) -> np.ndarray:
    """Return the years of the timestamps in '@' file names; 0 for other names. int64 [n]."""
    starts = (name.timestamp[:4] if name else "" for name in _parse_names(paths))
    years = [int(year) if len(year) == 4 and year.isdecimal() else 0 for year in starts]
    return np.array(years, np.int64)


def read_headings(paths: Sequence[str]) -> np.ndarray:
    """Return the headings in '@' file names, degrees; NaN for other names. float64 [n]."""
    headings_deg = (name.heading_deg if name else None for name in _parse_names(paths))
    return np.array([np.nan if one is None else one for one in headings_deg], np.float64)


def _parse_names(paths: Sequence[str]) -> Iterator[ImageName | None]:
    for path in paths:
        try:
            yield parse_image_name(path) if "@" in os.path.basename(path) else None
        except ValueError:
            yield None
