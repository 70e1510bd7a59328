"""A comparison of runs as text: for the terminal, as Markdown, as rows of CSV."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reports.comparison import Bootstrap, Comparison, Estimate, RunPair
from reports.runs import Run
from reports.statistics import LEVEL_PERCENT

RECALLS_COLUMNS = (
    "set",
    "run",
    "baseline",
    "recall",
    "percent",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "won",
    "lost",
    "p_value",
    "p_value_holm",
)
QUERIES_COLUMNS = (
    "set",
    "query",
    "run",
    "correct_rank",
    "baseline",
    "baseline_correct_rank",
    "outcome",
)
_SETTINGS = {  # row of the table: (key of results.json, format)
    "data set": ("dataset", "{}"),
    "queries": ("num_queries", "{:,}"),
    "database images": ("num_database", "{:,}"),
    "correct within": ("threshold_m", "{:g} m"),
    "resize": ("resize", "{}"),
    "method": ("method", "{}"),
    "model": ("model", "{}"),
    "backbone": ("backbone", "{}"),
    "aggregation": ("aggregation", "{}"),
    "dimensions": ("descriptor_dim", "{}"),
}
Table = list[list[str]]


def tabulate(comparison: Comparison) -> Table:
    """Return one column per run and one per difference to the first run; one row per R@N."""
    runs, pairs = comparison.runs, comparison.pairs
    names = _shared_recalls(comparison)
    known = [[name, *(_setting(run.result, name) for run in runs)] for name in _SETTINGS]
    return [
        ["", *(run.label for run in runs), *(f"{p.run.label} - {p.baseline.label}" for p in pairs)],
        *(row + [""] * len(pairs) for row in known if any(row[1:])),
        *([name, *_recall_cells(comparison, name)] for name in names),
    ]


def count_recalls(comparison: Comparison) -> int:
    """Return the number of rows with recalls, the last ones of `tabulate`."""
    return len(_shared_recalls(comparison))


def _shared_recalls(comparison: Comparison) -> list[str]:
    """Return the names of the recalls that all runs with labels have."""
    with_labels = [recalls for recalls in comparison.recalls if recalls]
    return [name for name in (with_labels or [{}])[0] if all(name in r for r in with_labels)]


def _setting(result: dict[str, Any], name: str) -> str:
    """Return one setting of a run, empty if the run has none."""
    key, template = _SETTINGS[name]
    return "" if result.get(key) is None else template.format(result[key])


def tabulate_sets(comparisons: Sequence[Comparison]) -> Table:
    """Return R@1 as one row per test set, one column per run and per difference to the first."""
    labels = [run.label for run in comparisons[0].runs]
    header = ["R@1", *labels, *(f"{label} - {labels[0]}" for label in labels[1:])]
    rows = [header]
    for comparison in comparisons:
        by_run = {pair.run.label: pair.differences.get("R@1") for pair in comparison.pairs}
        recalls = [format_estimate(recalls.get("R@1")) for recalls in comparison.recalls]
        differences = [format_estimate(by_run.get(label), "+") for label in labels[1:]]
        rows.append([comparison.name, *recalls, *differences])
    return rows


def _recall_cells(comparison: Comparison, name: str) -> list[str]:
    recalls = [format_estimate(recalls.get(name)) for recalls in comparison.recalls]
    return recalls + [format_estimate(pair.differences.get(name), "+") for pair in comparison.pairs]


def format_estimate(estimate: Estimate | None, sign: str = "") -> str:
    """Return "57.0 [50.0, 64.0]", or "57.0" without an interval, or "-" for nothing."""
    if estimate is None:
        return "-"
    # + 0.0 for a "-0.0" to become "0.0"
    value, *ends = (end if end is None else f"{round(end, 1) + 0.0:{sign}.1f}" for end in estimate)
    return value if None in ends else f"{value} [{', '.join(ends)}]"


def format_p(p_value: float) -> str:
    """Return "p = 0.034", "p = 1.2e-12", or "p < 1e-300" where it is too small for a number."""
    if p_value < 1e-300:
        return "p < 1e-300"
    return f"p = {p_value:.3f}" if p_value >= 0.001 else f"p = {p_value:.1e}"


def describe_pair(pair: RunPair, num_tests: int) -> list[str]:
    """Return the result of a comparison at rank 1, in two sentences."""
    run, baseline = pair.run.label, pair.baseline.label
    num_won, num_lost = len(pair.won), len(pair.lost)
    if num_won + num_lost == 0:
        return [f"{run} and {baseline} have a correct top-1 for the same queries."]
    p_value, tested = pair.p_value, format_p(pair.p_value)
    if pair.p_corrected is not None:
        p_value = pair.p_corrected
        tested += f"; corrected for {num_tests} comparisons by Holm's method {format_p(p_value)}"
    explains = "hardly explains" if p_value < 1 - LEVEL_PERCENT / 100 else "may explain"
    return [
        f"The top-1 of {_count(num_won)} is correct only in {run}, that of {num_lost:,} only in "
        f"{baseline}: chance {explains} this.",
        f"McNemar's exact test of R@1: won {num_won:,}, lost {num_lost:,}, {tested}.",
    ]


def _count(num_queries: int) -> str:
    return "1 query" if num_queries == 1 else f"{num_queries:,} queries"


def describe_method(comparisons: Sequence[Comparison], bootstrap: Bootstrap) -> list[str]:
    """Return how intervals and tests were made, if there are any, and what they assume."""
    if not any(run.predictions for comparison in comparisons for run in comparison.runs):
        return []
    return [
        f"In brackets: {LEVEL_PERCENT}% intervals from {bootstrap.num_resamples:,} bootstrap "
        f"resamples of the queries (seed {bootstrap.seed}), paired for differences. They and the "
        "tests assume independent queries: for the frames of one drive they are too confident."
    ]


def describe_comparison(comparison: Comparison, num_tests: int) -> list[str]:
    """Return all sentences on one test set."""
    pairs = [describe_pair(pair, num_tests) for pair in comparison.pairs]
    return [*itertools.chain(*pairs), *comparison.notes]


def describe_run(run: Run) -> str:
    """Return model, code, seed, as far as known, and folder of a run."""
    known = {
        "model": run.result.get("model"),
        "code": run.result.get("code_version"),
        "seed": run.result.get("seed"),
        "files": run.folder,
    }
    return f"{run.label}: " + ", ".join(f"{k} {v}" for k, v in known.items() if v is not None)


def format_text(table: Table) -> str:
    """Align a table for the terminal: first column left, others right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in table)
    return "\n".join(line.rstrip() for line in lines)


def format_markdown(comparisons: Sequence[Comparison], bootstrap: Bootstrap) -> str:
    """Return the whole comparison as Markdown, with the test sets below one another."""
    num_tests = count_tests(comparisons)
    parts = [f"# {_escape(name_comparison(comparisons))}"]
    if len(comparisons) > 1:
        parts += ["## All test sets", _markdown_table(tabulate_sets(comparisons))]
    for comparison in comparisons:
        parts += [f"## {_escape(comparison.name)}", _markdown_table(tabulate(comparison))]
        parts += map(_escape, describe_comparison(comparison, num_tests))
        parts.append("\n".join(f"- {_escape(describe_run(run))}" for run in comparison.runs))
    parts += describe_method(comparisons, bootstrap)
    return printable("\n\n".join(parts) + "\n")


def name_comparison(comparisons: Sequence[Comparison]) -> str:
    """Return a title."""
    baseline, *others = (run.label for run in comparisons[0].runs)
    return f"{', '.join(others)} against {baseline}" if others else baseline


def count_tests(comparisons: Sequence[Comparison]) -> int:
    """Return the number of tests made together."""
    return sum(len(comparison.pairs) for comparison in comparisons)


def _markdown_table(table: Table) -> str:
    rows = [f"| {' | '.join(map(_escape, row))} |" for row in table]
    rows.insert(1, f"|{'---|' * len(table[0])}")
    return "\n".join(rows)


def _escape(text: str) -> str:
    """Escape the marks of Markdown in names; brackets of intervals need none."""
    return re.sub(r"([\\`*<>|#])", r"\\\1", " ".join(text.split()))


def list_recalls(comparisons: Sequence[Comparison]) -> Iterator[list[object]]:
    """Yield the rows of RECALLS_COLUMNS: one per test set, run and R@N, figures unrounded."""
    for comparison in comparisons:
        pairs = {pair.run.label: pair for pair in comparison.pairs}
        for run, recalls in zip(comparison.runs, comparison.recalls, strict=True):
            pair = pairs.get(run.label)
            for name, estimate in recalls.items():
                yield [
                    comparison.name,
                    run.label,
                    pair.baseline.label if pair else "",
                    name,
                    *estimate,
                    *(pair and pair.differences.get(name) or [""] * 3),
                    *(_test_cells(pair) if pair and name == "R@1" else [""] * 4),
                ]


def _test_cells(pair: RunPair) -> list[object]:
    return [len(pair.won), len(pair.lost), pair.p_value, pair.p_corrected]


def list_queries(comparisons: Sequence[Comparison]) -> Iterator[list[object]]:
    """Yield the rows of QUERIES_COLUMNS: one per test set, run and query that could be read."""
    outcomes = {(False, True): "won", (True, False): "lost", (True, True): "both"}
    for comparison in comparisons:
        for pair in comparison.pairs:
            for query, ranks in zip(pair.queries, pair.correct_ranks, strict=False):
                before, after = ("" if np.isinf(rank) else int(rank) for rank in ranks)
                outcome = outcomes.get((before == 1, after == 1), "neither")
                run, baseline = pair.run.label, pair.baseline.label
                yield [comparison.name, query, run, after, baseline, before, outcome]


def printable(text: str) -> str:
    """Escape bytes of file names that are not UTF-8, for any terminal or page."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
