"""Compare runs on one test set: recalls with intervals, differences, queries won and lost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from reports.runs import Run
from reports.statistics import bootstrap_intervals, holm, mcnemar

_DEFINES_CORRECT = {
    "protocol": "protocols",
    "positives": "positives",
    "threshold_m": "thresholds in metres",
    "denominator": "denominators",
}
_HANDLING = {
    "resize": "resizing",
    "test_method": "the query method",
    "search": "the search",
    "exclude_self": "whether queries are left out of their own predictions",
    "num_unreadable": "the number of unreadable images",
    "database_folder": "the folder of the database",
    "queries_folder": "the folder of the queries",
}


class Bootstrap(NamedTuple):
    """Settings of the bootstrap."""

    num_resamples: int = 10_000
    seed: int = 0


class Estimate(NamedTuple):
    """A recall, or a difference of two, in percent, with the ends of its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunPair:
    """A run against the baseline, on the same queries.

    Attributes:
        baseline: The reference.
        run: The other run.
        queries: Those with predictions in at least one of the two.
        correct_ranks: Rank of the first correct prediction of either run, inf if none. Rows after
            those of `queries` are queries that neither could read. float64 [num_queries, 2].
        differences: {"R@N": recall of the run less that of the baseline}.
        won: The queries whose top-1 prediction is correct only in the run.
        lost: The queries whose top-1 prediction is correct only in the baseline.
        p_value: Of McNemar's test at rank 1.
        p_corrected: The same, corrected for the other comparisons; None if this is the only one.
    """

    baseline: Run
    run: Run
    queries: list[str]
    correct_ranks: np.ndarray
    differences: dict[str, Estimate]
    won: list[str]
    lost: list[str]
    p_value: float
    p_corrected: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Several runs on one test set; the first of them is the baseline.

    Attributes:
        name: Of the test set.
        runs: The runs.
        recalls: {"R@N": estimate} of each run.
        pairs: Every other run against the first, where they are comparable.
        notes: Sentences on runs that are not comparable, and on differences.
    """

    name: str
    runs: list[Run]
    recalls: list[dict[str, Estimate]]
    pairs: list[RunPair]
    notes: list[str]


def compare_runs(name: str, runs: Sequence[Run], bootstrap: Bootstrap) -> Comparison:
    """Compare every run with the first one."""
    notes = [run.problem for run in runs if run.problem]
    notes += [note for run in runs if (note := _count_unread(run))]
    pairs = []
    for run in runs[1:]:
        reason = find_obstacle(runs[0], run)
        if reason:
            notes.append(reason)
            continue
        notes += list_differences(runs[0], run)
        if runs[0].predictions and run.predictions:
            pairs.append(_compare_pair(runs[0], run, bootstrap))
    recalls = [_estimate_recalls(run, bootstrap) for run in runs]
    return Comparison(name, list(runs), recalls, pairs, list(dict.fromkeys(notes)))


def correct_p_values(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of all pairs together, if there are several, by Holm's method."""
    p_values = [pair.p_value for comparison in comparisons for pair in comparison.pairs]
    if len(p_values) < 2:
        return list(comparisons)
    corrected = iter(holm(p_values))
    return [
        replace(c, pairs=[replace(pair, p_corrected=next(corrected)) for pair in c.pairs])
        for c in comparisons
    ]


def find_obstacle(baseline: Run, run: Run) -> str:
    """Return why the recalls of two runs are not comparable, a sentence; empty if they are."""
    who = f"these recalls are not comparable ({baseline.label} and {run.label})."
    if baseline.result["dataset"] != run.result["dataset"]:
        return f"Different data sets: {who}"
    for key, what in (("num_queries", "queries"), ("num_database", "database images")):
        one, other = baseline.result[key], run.result[key]
        if one != other:
            return f"Different {what}, {one:,} and {other:,}: {who}"
    for key, what in _DEFINES_CORRECT.items():
        one, other = baseline.result.get(key), run.result.get(key)
        if _differ(one, other):
            return f"Different {what}, {one} and {other}: {who}"
    if baseline.predictions and run.predictions:
        one, other = baseline.predictions.rows.keys(), run.predictions.rows.keys()
        num_queries = baseline.result["num_queries"]
        if len(one | other) > num_queries:
            return f"Different queries, {len(one & other):,} of {num_queries:,} are in both: {who}"
    return ""


def list_differences(baseline: Run, run: Run) -> list[str]:
    """Return the differences of two comparable runs beside their models, as sentences."""
    return [
        f"Beside the models, {what} differs: "
        f"{_as_text(baseline.result[key])} in {baseline.label}, "
        f"{_as_text(run.result[key])} in {run.label}."
        for key, what in _HANDLING.items()
        if _differ(baseline.result.get(key), run.result.get(key))
    ]


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{number} {what}" for what, number in value.items())
    return str(value)


def _differ(one: Any, other: Any) -> bool:
    """Whether both are known and differ; older runs did not write everything."""
    return one is not None and other is not None and one != other


def _count_unread(run: Run) -> str:
    if run.predictions is None:
        return ""
    num_unread = run.result["num_queries"] - len(run.predictions.rows)
    if not num_unread:
        return ""
    return f"{run.label} has no predictions for {num_unread:,} queries: they count as misses."


def _estimate_recalls(run: Run, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return {"R@N": estimate}; those of more predictions than were saved have no interval."""
    recalls = {name: Estimate(value) for name, value in run.result["recalls"].items()}
    if counted := run.counted_recalls:
        ranks = _correct_ranks(run, list(run.predictions.rows))
        recalls |= _estimate_means(_successes(ranks, counted), counted, bootstrap)
    return recalls


def _compare_pair(baseline: Run, run: Run, bootstrap: Bootstrap) -> RunPair:
    queries = list(dict.fromkeys([*baseline.predictions.rows, *run.predictions.rows]))
    ranks = np.stack([_correct_ranks(one, queries) for one in (baseline, run)], axis=1)
    shared = baseline.counted_recalls.keys() & run.counted_recalls.keys()
    counted = {name: n for name, n in baseline.counted_recalls.items() if name in shared}
    before, after = (_successes(ranks[:, side], counted) for side in (0, 1))
    differences = _estimate_means(after - before, counted, bootstrap)
    correct_before, correct_after = (ranks == 1).T
    won = [queries[index] for index in np.flatnonzero(correct_after & ~correct_before)]
    lost = [queries[index] for index in np.flatnonzero(correct_before & ~correct_after)]
    p_value = mcnemar(len(won), len(lost))
    return RunPair(baseline, run, queries, ranks, differences, won, lost, p_value)


def _correct_ranks(run: Run, queries: Sequence[str]) -> np.ndarray:
    """Return the rank of the first correct prediction of each query, inf if none.

    Returns:
        float64 [num_queries]; num_queries is that of the whole set.
    """
    ranks = np.full(run.result["num_queries"], np.inf)
    ranks[: len(queries)] = [run.predictions.correct_ranks.get(query, np.inf) for query in queries]
    return ranks


def _successes(ranks: np.ndarray, counted: dict[str, int]) -> np.ndarray:
    """Return 100 where the top-N has a correct prediction, else 0. int64 [num_queries, N's]."""
    return 100 * (ranks[:, None] <= list(counted.values())).astype(np.int64)


def _estimate_means(
    values: np.ndarray, counted: dict[str, int], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    if not counted:
        return {}
    means = values.mean(axis=0).tolist()
    ends = bootstrap_intervals(values, bootstrap.num_resamples, bootstrap.seed).tolist()
    return {
        name: Estimate(mean, low, high)
        for name, mean, (low, high) in zip(counted, means, ends, strict=True)
    }
