"""The whole evaluation: a recall never goes without the protocol that it was measured by."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.eval_dataset import EvalSet
from evaluation.descriptors import Inference, Model, extract_descriptors, parse_resize
from evaluation.recall import compute_recalls, find_positives
from evaluation.search import find_neighbors


@dataclass(frozen=True)
class Protocol:
    """What decides the recalls beside model and data."""

    threshold_m: float = 25.0  # a prediction this near to the query is right
    recall_values: tuple[int, ...] = (1, 5, 10, 20)
    resize: str = "none"  # "none", shorter side "480", or "480x640" (HxW), pixels

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.threshold_m > 0:
            raise ValueError(
                f"--positive_dist_threshold must be above 0 metres, it is {self.threshold_m}"
            )
        if not self.recall_values or min(self.recall_values) < 1:
            raise ValueError(f"--recall_values must be at least 1, they are {self.recall_values}")
        parse_resize(self.resize)


@dataclass(frozen=True)
class Evaluation:
    """Recalls with their protocol, and the predictions that they were counted on."""

    eval_set: EvalSet
    result: dict[str, Any]  # plain values, for results.json
    predictions: np.ndarray  # database indices, nearest first. int64 [num_queries, K]
    distances: np.ndarray  # of the predicted descriptors, L2. float32 [num_queries, K]
    positives_per_query: list[np.ndarray]  # database indices

    @property
    def recall_at_1(self) -> float:
        """R@1 in percent."""
        return float(compute_recalls(self.predictions, self.positives_per_query, (1,))[0])


def evaluate(
    model: Model,
    eval_set: EvalSet,
    protocol: Protocol,
    inference: Inference,
    min_predictions: int = 1,
) -> Evaluation:
    """Search the database for each query and count recalls.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D]; in
            evaluation mode.
        eval_set: Database and queries.
        protocol: Threshold, values of N, resize rule.
        inference: Device, batch size and loader processes.
        min_predictions: Keep at least so many predictions per query.

    Returns:
        The evaluation; K is the largest N, or `min_predictions`, or the size of the database.
    """
    database = extract_descriptors(model, eval_set.database, protocol.resize, inference, "Database")
    queries = extract_descriptors(model, eval_set.queries, protocol.resize, inference, "Queries")
    k = max(*protocol.recall_values, min_predictions)
    predictions, distances = find_neighbors(database.descriptors, queries.descriptors, k)
    positives = find_positives(eval_set.database_utms, eval_set.queries_utms, protocol.threshold_m)
    recalls = compute_recalls(predictions, positives, protocol.recall_values)
    result = {
        "dataset": eval_set.name,
        "database_folder": str(eval_set.database.folder),
        "queries_folder": str(eval_set.queries.folder),
        "recalls": {
            f"R@{n}": float(recall)
            for n, recall in zip(protocol.recall_values, recalls, strict=True)
        },
        "num_queries": len(eval_set.queries),
        "num_database": len(eval_set.database),
        "num_queries_without_positives": sum(len(right) == 0 for right in positives),
        "positives": f"UTM distance of at most {protocol.threshold_m:g} m",
        "threshold_m": protocol.threshold_m,
        "denominator": "all queries",
        "resize": protocol.resize,
        "image_sizes": {"database": database.image_sizes, "queries": queries.image_sizes},
        "descriptor_dim": database.descriptors.shape[1],
        "orientation": "upright by EXIF",
        "search": "exact L2",
    }
    return Evaluation(eval_set, result, predictions, distances, positives)


def format_result(result: dict[str, Any]) -> str:
    """Return recalls and protocol as one line, with model, code and seed where they are known."""
    recalls = ", ".join(f"{name}: {recall:.1f}" for name, recall in result["recalls"].items())
    sizes = "; ".join(
        f"{role} {_format_sizes(sizes)}" for role, sizes in result["image_sizes"].items()
    )
    resize = "not resized" if result["resize"] == "none" else f"resized to {result['resize']}"
    protocol = (
        f"{result['num_queries']:,} queries "
        f"({result['num_queries_without_positives']:,} without a positive, counted as misses), "
        f"{result['num_database']:,} database images, {result['positives']}, images {resize} "
        f"({sizes}), {result['descriptor_dim']}-D, {result['search']}"
    )
    if "code_version" in result:
        protocol += (
            f", {_format_model(result)}, code {result['code_version']}, seed {result['seed']}"
        )
    return f"{result['dataset']}: {recalls} | {protocol}"


def _format_model(result: dict[str, Any]) -> str:
    if result["model_file"] is None:
        return "untrained network"
    return f"{result['model_file']} (SHA-256 {result['model_sha256'][:12]})"


def _format_sizes(sizes: dict[str, int]) -> str:
    names = list(sizes)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other sizes"
