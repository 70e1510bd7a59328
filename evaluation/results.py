"""What an evaluation leaves in its folder: `results.json`, `predictions.csv`, `predictions.npz`."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

import commons
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
    with commons.written_whole(folder / "predictions.npz") as path, open(path, "wb") as file:
        np.savez(file, **arrays)
    commons.write_json(result, folder / "results.json")
    return result


def _write_predictions(evaluation: Evaluation, path: Path, num_listed: int) -> None:
    """Write one row per query and rank; `rank` counts from 1, `correct` is 0 or 1."""
    eval_set = evaluation.eval_set
    num_queries, k = evaluation.predictions.shape
    unknown = np.full((num_queries, k), "", dtype=object)
    metres, correct = evaluation.distances_m, evaluation.correct
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with commons.written_whole(path) as temporary, open(temporary, "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for query_num, query in enumerate(eval_set.queries):
            columns = zip(
                evaluation.predictions[query_num, :num_listed].tolist(),
                evaluation.distances[query_num].tolist(),
                (unknown if metres is None else metres)[query_num].tolist(),
                (unknown if correct is None else correct.astype(int))[query_num].tolist(),
                strict=False,
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
    return arrays
