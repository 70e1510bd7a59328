"""The charts of a report: which ones a run allows, with titles and descriptions."""

from collections.abc import Iterator

import numpy as np

from reports import charts, curves
from reports.charts import Chart
from reports.run_files import RunArrays

_THRESHOLDS_M = np.arange(1, 101)


def make_charts(run: RunArrays) -> list[Chart]:
    """Draw what can be told: nothing without labels, no errors without positions."""
    if run.correct is None:
        return []
    charts_of_run = [_recall_chart(run)]
    if not np.isnan(run.distances_m[:, 0]).all():
        charts_of_run += [_threshold_chart(run), _error_chart(run)]
    return charts_of_run + list(_group_charts(run))


def _marked(run: RunArrays) -> list[int]:
    """Return the values of N of the run's own recalls, as far as there are predictions."""
    own = [int(name.removeprefix("R@")) for name in run.results["recalls"]]
    return [n for n in own if n <= run.distances_m.shape[1]] or [1]


def _recall_chart(run: RunArrays) -> Chart:
    recalls, marked, bound = curves.recall_curve(run.correct), _marked(run), None
    caption = ""
    if run.num_positives is not None and not run.num_positives.all():
        bound = 100 * float((run.num_positives > 0).mean())
        caption = f"Dotted: {bound:.1f}% of the queries have a right image in the database."
    name = "recall-curve"
    svg = charts.draw_recall_curve(name, recalls, marked, bound)
    said = ", ".join(f"R@{n} {recalls[n - 1]:.1f}" for n in sorted({*marked, len(recalls)}))
    title = f"Recall from the first to the first {len(recalls)} predictions, %"
    return Chart(name, title, svg, f"In percent: {said}.", caption)


def _threshold_chart(run: RunArrays) -> Chart:
    threshold_m = run.results.get("threshold_m")
    marked = _marked(run)
    recalls = curves.recalls_by_threshold(run.distances_m, marked, _THRESHOLDS_M)
    labels = [f"R@{n}" for n in marked]
    svg = charts.draw_recalls_by_threshold(
        "recall-by-threshold", _THRESHOLDS_M, recalls, labels, threshold_m
    )
    said = "; ".join(
        f"{metres} m: "
        + ", ".join(
            f"{label} {row[metres - 1]:.1f}" for label, row in zip(labels, recalls, strict=True)
        )
        for metres in (5, 10, 25, 50, 100)
    )
    caption = "A prediction is right up to so many metres from the query, by the positions."
    if threshold_m is None:
        caption += " The recalls of this run go by labels of their own instead."
    title = "Recall by distance threshold, metres"
    return Chart("recall-by-threshold", title, svg, f"In percent, {said}.", caption)


def _error_chart(run: RunArrays) -> Chart:
    errors_m = run.distances_m[:, 0]
    total = curves.count_errors(errors_m)
    right = curves.count_errors(errors_m[run.correct[:, 0]])
    svg = charts.draw_errors("errors", right, total - right)
    known = errors_m[~np.isnan(errors_m)]
    median_m = np.quantile(known, 0.5, method="inverted_cdf")  # an error that there is, or inf
    caption = f"Half of the errors are at most {median_m:.1f} m." if np.isfinite(median_m) else ""
    if len(known) < len(errors_m):
        caption += f" {len(errors_m) - len(known):,} queries of unknown error are left out."
    edges = curves.ERROR_EDGES_M
    said = [f"up to {edge} m: {n}" for edge, n in zip(edges[1:], total[:-1].cumsum(), strict=True)]
    description = f"Queries with errors {', '.join(said)}; all: {total.sum()}."
    title = "Localisation error of the first prediction, metres"
    return Chart("errors", title, svg, description, caption.strip())


def _group_charts(run: RunArrays) -> Iterator[Chart]:
    captures, right = run.captures, run.correct[:, 0]
    interval = "Lines: 95% interval (Wilson)."
    years = curves.group_by_year(captures.query_years, right)
    if years:
        caption = interval + _told("The year is", years, len(right))
        yield _group_chart("years", "R@1 by year of the query", years, "year", caption)
    headings = curves.group_by_heading(
        captures.query_headings_deg, captures.first_prediction_headings_deg, right
    )
    if headings:
        caption = (
            f"{interval} Headings are as the data set tells them; those of crops are of the "
            "leftmost column, so that crops of different widths compare only roughly."
        ) + _told("Both headings are", headings, len(right))
        title = "R@1 by heading difference of query and first prediction, degrees"
        yield _group_chart("headings", title, headings, "heading difference", caption)


def _group_chart(name: str, title: str, groups: curves.Groups, label: str, caption: str) -> Chart:
    svg = charts.draw_groups(name, groups, label)
    rows = zip(groups.labels, groups.recalls, groups.num_queries, strict=True)
    said = ", ".join(f"{text}: {recall:.1f} of {n} queries" for text, recall, n in rows)
    return Chart(name, title, svg, f"R@1 in percent, {said}.", caption)


def _told(what: str, groups: curves.Groups, num_queries: int) -> str:
    """Say how many queries are in the chart, if not all are."""
    num_told = groups.num_queries.sum()
    return "" if num_told == num_queries else f" {what} known for {num_told:,} queries."
