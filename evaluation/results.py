"""What an evaluation leaves in the folder of its run: `results.json` and `predictions.csv`."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

import commons
from evaluation.protocol import Evaluation

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
    evaluation: Evaluation, provenance: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Write recalls with protocol and provenance, and every prediction.

    Args:
        evaluation: The evaluation.
        provenance: What it was measured with: model file, code version, seed. Plain values.
        folder: Folder of the run.

    Returns:
        What `results.json` holds.
    """
    result = evaluation.result | provenance
    _write_predictions(evaluation, folder / "predictions.csv")
    commons.write_json(result, folder / "results.json")
    return result


def _write_predictions(evaluation: Evaluation, path: Path) -> None:
    """Write one row per query and rank; `rank` counts from 1, `correct` is 0 or 1."""
    eval_set = evaluation.eval_set
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with commons.written_whole(path) as temporary, open(temporary, "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for query_num, query in enumerate(eval_set.queries):
            predictions = evaluation.predictions[query_num]
            offsets = eval_set.database_utms[predictions] - eval_set.queries_utms[query_num]
            columns = zip(
                predictions,
                evaluation.distances[query_num],
                np.hypot(*offsets.T),
                np.isin(predictions, evaluation.positives_per_query[query_num]),
                strict=True,
            )
            for rank, (prediction, distance, distance_m, correct) in enumerate(columns, start=1):
                writer.writerow(
                    (
                        query_num,
                        query,
                        rank,
                        eval_set.database[prediction],
                        f"{distance:.6f}",
                        f"{distance_m:.2f}",
                        int(correct),
                    )
                )
