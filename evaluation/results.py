"""What an evaluation leaves in its folder: `results.json`, `predictions.csv`, `predictions.npz`."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.image_names import read_fields, read_prefixes
from evaluation.protocol import Evaluation

NUM_RANKED = 100  # predictions of each query in predictions.npz, for the curves of reports
PREDICTIONS_COLUMNS = (
    "query_num",
    "query",
    "rank",
    "prediction",
    "descriptor_distance",
    "distance_m",
    "correct",
)


def write_results(
    evaluation: Evaluation, provenance: dict[str, Any], folder: Path, num_listed: int
) -> dict[str, Any]:
    """Write recalls with protocol and provenance, and the predictions.

    Args:
        evaluation: The evaluation.
        provenance: What it was measured with: model file, code version, seed. Plain values.
        folder: Where to, a folder that is there.
        num_listed: How many predictions of each query `predictions.csv` lists.

    Returns:
        What `results.json` holds.
    """
    result = evaluation.result | provenance
    _write_predictions(evaluation, folder / "predictions.csv", num_listed)
    arrays = _collect_arrays(evaluation)
    with commons.atomic_write(folder / "predictions.npz") as path, open(path, "wb") as file:
        np.savez(file, **arrays)
    commons.write_json(result, folder / "results.json")
    return result


def _write_predictions(evaluation: Evaluation, path: Path, num_listed: int) -> None:
    """Write one row per query and rank; `rank` counts from 1, `correct` is 0 or 1."""
    eval_set = evaluation.eval_set
    num_queries, k = evaluation.predictions.shape
    listed = slice(num_listed)
    unknown = np.full((num_queries, min(k, num_listed)), "", dtype=object)
    metres, correct = evaluation.distances_m, evaluation.correct
    metres_cells = unknown if metres is None else metres[:, listed]
    correct_cells = unknown if correct is None else correct[:, listed].astype(int)
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with commons.atomic_write(path) as temporary, open(temporary, "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for query_num, query in enumerate(eval_set.queries):
            columns = zip(
                evaluation.predictions[query_num, listed].tolist(),
                evaluation.distances[query_num, listed].tolist(),
                metres_cells[query_num].tolist(),
                correct_cells[query_num].tolist(),
                strict=True,
            )
            writer.writerows(
                (
                    query_num,
                    query,
                    rank,
                    eval_set.database[prediction],
                    f"{distance:.6f}",
                    distance_m if metres is None else f"{distance_m:.2f}",
                    is_correct,
                )
                for rank, (prediction, distance, distance_m, is_correct) in enumerate(columns, 1)
                if prediction >= 0
            )


def _collect_arrays(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return what curves and maps are drawn from, without names."""
    eval_set = evaluation.eval_set
    metres = evaluation.distances_m
    if metres is None:
        metres = np.full(evaluation.predictions.shape, np.nan)
    arrays = {
        "predictions": evaluation.predictions.astype(np.int32),
        "descriptor_distances": evaluation.distances.astype(np.float32),
        "distances_m": metres.astype(np.float32),
    }
    if eval_set.truth is not None:
        positives = eval_set.truth.positives_per_query
        arrays["correct"] = evaluation.correct
        arrays["num_positives"] = np.array([len(one) for one in positives], np.int32)
    if eval_set.positions is not None:
        places_m, first = eval_set.positions.database_m, evaluation.predictions[:, 0]
        arrays["queries_m"] = eval_set.positions.queries_m
        arrays["first_predictions_m"] = np.where(first[:, None] < 0, np.nan, places_m[first])
        arrays["places_m"] = np.unique(places_m, axis=0)
    return arrays | _read_years_and_headings(evaluation)


def _read_years_and_headings(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return what '@' names tell beside positions: 0 and NaN where they do not."""
    eval_set, first = evaluation.eval_set, evaluation.predictions[:, 0]
    years = read_prefixes(eval_set.queries, "timestamp", 4)
    is_year = np.char.isdigit(years) & (np.char.str_len(years) == 4)
    (headings_deg,) = read_fields(eval_set.queries, ["heading"])
    (first_deg,) = read_fields(eval_set.database.subset(np.maximum(first, 0)), ["heading"])
    return {
        "query_years": np.where(is_year, years, b"0").astype(np.int16),
        "query_headings_deg": headings_deg.astype(np.float32),
        "first_prediction_headings_deg": np.where(first < 0, np.nan, first_deg).astype(np.float32),
    }
