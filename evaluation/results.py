"""Results of evaluations: files in the folder of a run, one line with the protocol, a table."""

import io
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.tables import write_rows, write_table
from evaluation.confidence import DEFAULT_THRESHOLD_M, FEATURES, NUM_RANKS, measure_features
from evaluation.evaluate import Evaluation
from model.resizing import describe_resize

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
    result["resize"] = evaluation.result["resize"]  # a network's own rule may be another one
    listed = (
        list_predictions(evaluation, query_num, num_listed)
        for query_num in range(len(evaluation.predictions))
    )
    rows = chain.from_iterable(listed)
    write_table(folder / "predictions.csv", PREDICTIONS_COLUMNS, rows)
    arrays = _collect_arrays(evaluation)
    with commons.atomic_write(folder / "predictions.npz") as path, open(path, "wb") as file:
        np.savez(file, **arrays)
    commons.write_json(result, folder / "results.json")
    return result


def format_result(result: dict[str, Any]) -> str:
    """Return recalls and protocol as one line, with model, code and seed where they are known."""
    protocol = [
        f"{result['num_queries']:,} queries{_format_misses(result)}",
        f"{result['num_database']:,} database images",
        result["positives"] or "no labels",
        f"images {result['orientation']}, {_format_resize(result)} "
        f"({_format_sizes(result['image_sizes'])})",
        f"{result['descriptor_dim']}-D",
        _format_search(result),
    ]
    if "code_version" in result:
        protocol += [_format_model(result), f"code {result['code_version']}"]
        protocol.append(f"seed {result['seed']}")
    recalls = ", ".join(f"{name}: {recall:.1f}" for name, recall in result["recalls"].items())
    if result.get("rerank"):
        recalls += f"; {format_rerank(result)}"
    if risk := result.get("risk_coverage"):
        recalls += f"; R@100P: {risk['R@100P']:.1f}, area of risk-coverage: {risk['area']:.1f}"
    name = f"{result['dataset']} ({result['protocol']})"
    return f"{name}: {recalls or 'no recalls'} | {', '.join(protocol)}"


def format_rerank(result: dict[str, Any]) -> str:
    """Return what a re-ranking did: matcher, recalls before and after, seconds a query."""
    facts = result["rerank"]
    recalls = ", ".join(
        f"{name} {before:.1f} -> {result['recalls'][name]:.1f}"
        for name, before in facts["recalls_before"].items()
    )
    return (
        f"top-{facts['k']} re-ranked by {facts['matcher']}: {recalls or 'no recalls'}, "
        f"{facts['seconds_per_query']:.3f} s a query"
    )


def format_table(results: Sequence[dict[str, Any]], form: str) -> str:
    """Return one row per test set: protocol, counts and recalls; the model in tables of files.

    Args:
        results: Of evaluations by one protocol.
        form: "text" for the terminal, "markdown" or "csv".
    """
    names = list(dict.fromkeys(name for result in results for name in result["recalls"]))
    in_file = form != "text"
    header = ["data set", "protocol", *["model"] * in_file]
    num_texts = len(header)
    header += ["dim", "threshold_m", "resize", "queries", "database", *names]
    rows = [
        [
            result["dataset"],
            result["protocol"],
            *[str(result.get("model") or "")] * in_file,
            str(result["descriptor_dim"]),
            "" if result.get("threshold_m") is None else f"{result['threshold_m']:g}",
            result["resize"],
            *_format_counts(result, form),
            *(_format_recall(result["recalls"].get(name)) for name in names),
        ]
        for result in results
    ]
    if form == "csv":
        text = io.StringIO()
        write_rows(text, header, rows, "\n")
        return text.getvalue()
    if form == "markdown":
        rule = [*["---"] * num_texts, *("---:" for _ in header[num_texts:])]
        return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < num_texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    )


def format_poses(poses: dict[str, Any]) -> str:
    """Return the errors of `measure_poses` as lines: protocol, notes, table."""
    rows = tabulate_poses(poses)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"Poses of {poses['num_queries']:,} queries: {poses['protocol']}"
    return "\n".join([head, *poses["notes"], *table])


def tabulate_poses(poses: dict[str, Any]) -> list[list[str]]:
    """Return the errors of `measure_poses` as rows of texts, the header first."""
    both = poses["top1"], poses["fused"]
    rows = [["poses", "top-1", f"top-{poses['top_k']} fused"]]
    for name, unit in (("position", "m"), ("heading", "deg"), ("rotation", "deg")):
        quantiles = [errors[f"{name}_error_{unit}"] for errors in both]
        others = [key for key in quantiles[0] if key != "median"]
        label = f"{name} error, {unit}: median ({', '.join(others)})"
        rows.append([label, *(_format_quantiles(one, others) for one in quantiles)])
    for limits in both[0]["within_percent"]:
        percents = [errors["within_percent"][limits] for errors in both]
        rows.append([f"within {limits}, % of queries", *(f"{one:.1f}" for one in percents)])
    return rows


def _format_quantiles(quantiles: dict[str, float | None], others: Sequence[str]) -> str:
    texts = {key: "-" if one is None else f"{one:.2f}" for key, one in quantiles.items()}
    return f"{texts['median']} ({', '.join(texts[key] for key in others)})"


def list_predictions(evaluation: Evaluation, query_num: int, num_listed: int) -> Iterator[tuple]:
    """Yield the predictions of a query by rank, with the columns PREDICTIONS_COLUMNS."""
    eval_set, listed = evaluation.eval_set, slice(num_listed)
    metres, correct = evaluation.distances_m, evaluation.correct
    query = eval_set.queries[query_num]
    for rank, (prediction, distance) in enumerate(
        zip(
            evaluation.predictions[query_num, listed].tolist(),
            evaluation.distances[query_num, listed].tolist(),
            strict=True,
        ),
        start=1,
    ):
        if prediction >= 0:
            yield (
                query_num,
                query,
                rank,
                eval_set.database[prediction],
                f"{distance:.6f}",
                "" if metres is None else f"{metres[query_num, rank - 1]:.2f}",
                "" if correct is None else int(correct[query_num, rank - 1]),
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
        arrays["confidence_features"] = _measure_features(evaluation, places_m)
    return arrays


def _measure_features(evaluation: Evaluation, places_m: np.ndarray) -> np.ndarray:
    """Return the features of a calibration, float64 [num_queries, 3]; NaN: no predictions."""
    threshold_m = evaluation.result["threshold_m"] or DEFAULT_THRESHOLD_M
    ranks = slice(NUM_RANKS)
    rows = zip(evaluation.predictions[:, ranks], evaluation.distances[:, ranks], strict=True)
    features = [
        measure_features(places_m[row[row >= 0]], distances[row >= 0], threshold_m)
        for row, distances in rows
    ]
    return np.reshape(features, (-1, len(FEATURES)))


def _format_counts(result: dict[str, Any], form: str) -> list[str]:
    counts = (result["num_queries"], result["num_database"])
    return [str(count) if form == "csv" else f"{count:,}" for count in counts]


def _format_recall(recall: float | None) -> str:
    return "" if recall is None else f"{recall:.1f}"


def _format_misses(result: dict[str, Any]) -> str:
    unreadable = result["num_unreadable"]
    misses = []
    if result["num_queries_without_positives"] is not None:
        misses.append(
            f"{result['num_queries_without_positives']:,} without a positive, counted as misses"
        )
    if any(unreadable.values()):
        misses.append(
            f"{unreadable['queries']:,} unreadable, counted as misses, and "
            f"{unreadable['database']:,} unreadable database images"
        )
    return f" ({'; '.join(misses)})" if misses else ""


def _format_resize(result: dict[str, Any]) -> str:
    resize = describe_resize(result["resize"])
    if result["test_method"] != "as the database":
        resize += f", queries by {result['test_method']}"
    return resize


def _format_sizes(image_sizes: dict[str, dict[str, int]]) -> str:
    def text(sizes: dict[str, int]) -> str:
        names = list(sizes)
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other sizes"

    return "; ".join(f"{role} {text(sizes)}" for role, sizes in image_sizes.items())


def _format_search(result: dict[str, Any]) -> str:
    if result["search_agreement"] is None:
        return f"search: {result['search']}"
    return f"search: {result['search']}, {result['search_agreement']:.1f}% as exact"


def _format_model(result: dict[str, Any]) -> str:
    weights = f" (SHA-256 {result['model_sha256'][:12]})" if result["model_sha256"] else ""
    return f"{result['model']}{weights}"
