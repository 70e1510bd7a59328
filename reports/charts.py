"""Charts of a report as inline SVG: one style, the same bytes for the same numbers."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from evaluation.confidence import measure_risk, risk_curve
from reports import curves
from reports.curves import ERROR_EDGES_M, Groups
from reports.run_files import RunArrays

_CORRECT_COLOUR, _WRONG_COLOUR = "#1d8a56", "#cf4333"
_BLUE, _LIGHT_BLUE = "#3566a8", "#8fb2dd"
_LINE_COLOURS = ("#3566a8", "#d98324", "#1d8a56", "#8656a8", "#5c6670", "#b0406c")
_LINE_STYLES = ("-", "--", "-.")
_SIZE_INCHES = (4.8, 3.1)  # small: letters stay legible on a phone
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and drawn in the font of the page
    "font.size": 10.5,
    "hatch.linewidth": 1.5,
    "axes.edgecolor": "#8a929a",
    "axes.labelcolor": "#333a40",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6e9",
    "xtick.color": "#555c63",
    "ytick.color": "#555c63",
    "legend.frameon": False,
}
_MAX_UPRIGHT_LABELS = 7
_THRESHOLDS_M = np.arange(1, 101)
_styled = matplotlib.rc_context(_STYLE)  # for one call


class Chart(NamedTuple):
    """One chart of a page."""

    name: str  # unique on the page
    title: str
    svg: str
    description: str  # for screen readers
    caption: str = ""


def make_charts(run: RunArrays) -> list[Chart]:
    """Draw the charts of a run: none without labels, no errors without positions."""
    if run.correct is None:
        return []
    charts_of_run = [_recall_chart(run)]
    if not np.isnan(run.distances_m[:, 0]).all():
        charts_of_run += [_threshold_chart(run), _error_chart(run)]
    charts_of_run.append(_risk_chart(run))
    return charts_of_run + list(_group_charts(run))


def _marked(run: RunArrays) -> list[int]:
    """Return the N of the recalls in results.json, up to the number of predictions."""
    own = [int(name.removeprefix("R@")) for name in run.results["recalls"]]
    return [n for n in own if n <= run.distances_m.shape[1]] or [1]


def _recall_chart(run: RunArrays) -> Chart:
    recalls, marked, bound = curves.recall_curve(run.correct), _marked(run), None
    caption = ""
    if run.num_positives is not None and not run.num_positives.all():
        bound = 100 * float((run.num_positives > 0).mean())
        caption = f"Dotted: {bound:.1f}% of the queries have a positive in the database."
    name = "recall-curve"
    svg = draw_recall_curve(name, recalls, marked, bound)
    values = ", ".join(f"R@{n} {recalls[n - 1]:.1f}" for n in sorted({*marked, len(recalls)}))
    title = f"R@1 to R@{len(recalls)}, %"
    return Chart(name, title, svg, f"In percent: {values}.", caption)


def _threshold_chart(run: RunArrays) -> Chart:
    threshold_m = run.results.get("threshold_m")
    marked = _marked(run)
    recalls = curves.recalls_by_threshold(run.distances_m, marked, _THRESHOLDS_M)
    labels = [f"R@{n}" for n in marked]
    svg = draw_recalls_by_threshold(
        "recall-by-threshold", _THRESHOLDS_M, recalls, labels, threshold_m
    )
    values = "; ".join(
        f"{metres} m: "
        + ", ".join(
            f"{label} {row[metres - 1]:.1f}" for label, row in zip(labels, recalls, strict=True)
        )
        for metres in (5, 10, 25, 50, 100)
    )
    caption = "Correct predictions are those within the threshold, by the positions."
    if threshold_m is None:
        caption += " The recalls of this run use other labels instead."
    title = "Recall by distance threshold, metres"
    return Chart("recall-by-threshold", title, svg, f"In percent, {values}.", caption)


def _error_chart(run: RunArrays) -> Chart:
    errors_m = run.distances_m[:, 0]
    total = curves.count_errors(errors_m)
    correct = curves.count_errors(errors_m[run.correct[:, 0]])
    svg = draw_errors("errors", correct, total - correct)
    known = errors_m[~np.isnan(errors_m)]
    median_m = np.quantile(known, 0.5, method="inverted_cdf")  # an observed error, or inf
    caption = f"Half of the errors are at most {median_m:.1f} m." if np.isfinite(median_m) else ""
    if len(known) < len(errors_m):
        caption += f" {len(errors_m) - len(known):,} queries with unknown error are left out."
    counts = zip(ERROR_EDGES_M[1:], total[:-1].cumsum(), strict=True)
    values = [f"up to {edge} m: {n}" for edge, n in counts]
    description = f"Queries with errors {', '.join(values)}; all: {total.sum()}."
    title = "Localisation error of the top-1 prediction, metres"
    return Chart("errors", title, svg, description, caption.strip())


def _risk_chart(run: RunArrays) -> Chart:
    first = run.descriptor_distances[:, 0], run.correct[:, 0]
    measured = measure_risk(*first)
    svg = draw_risk_curve("risk-coverage", risk_curve(*first))
    points = measured["risk_at_coverage"].items()
    values = ", ".join(f"{risk:.1f} at a coverage of {coverage}" for coverage, risk in points)
    caption = (
        f"Queries with the nearest top-1 are accepted first. Area: {measured['area']:.1f}%. "
        f"R@100P: {measured['R@100P']:.1f}% are accepted before the first wrong one."
    )
    title = "Wrong predictions among the accepted ones, %, by coverage"
    return Chart("risk-coverage", title, svg, f"In percent, {values}.", caption)


def _group_charts(run: RunArrays) -> Iterator[Chart]:
    captures, correct = run.captures, run.correct[:, 0]
    interval = "Lines: 95% interval (Wilson)."
    years = curves.group_by_year(captures.query_years, correct)
    if years:
        caption = interval + _known("The year is", years, len(correct))
        yield _group_chart("years", "R@1 by year of the query", years, "year", caption)
    headings = curves.group_by_heading(
        captures.query_headings_deg, captures.first_prediction_headings_deg, correct
    )
    if headings:
        caption = (
            f"{interval} Headings are those of the data set; those of crops belong to their "
            "leftmost column, so that crops of different widths compare only roughly."
        ) + _known("Both headings are", headings, len(correct))
        title = "R@1 by heading difference of query and top-1 prediction, degrees"
        yield _group_chart("headings", title, headings, "heading difference", caption)


def _group_chart(name: str, title: str, groups: curves.Groups, label: str, caption: str) -> Chart:
    svg = draw_groups(name, groups, label)
    rows = zip(groups.labels, groups.recalls, groups.num_queries, strict=True)
    values = ", ".join(f"{text}: {recall:.1f} of {n} queries" for text, recall, n in rows)
    return Chart(name, title, svg, f"R@1 in percent, {values}.", caption)


def _known(what: str, groups: curves.Groups, num_queries: int) -> str:
    """Return the number of queries with known values, if not all have one."""
    num_known = groups.num_queries.sum()
    return "" if num_known == num_queries else f" {what} known for {num_known:,} queries."


@_styled
def draw_recall_curve(
    name: str, recalls: np.ndarray, marked: Sequence[int], upper_bound: float | None
) -> str:
    """Draw R@1 to R@K in percent [K], with marks at some N, and the upper bound of any method."""
    figure, axes = _axes("N, number of predictions", "R@N (%)")
    values = np.arange(1, len(recalls) + 1)
    axes.plot(values, recalls, color=_BLUE, linewidth=2)
    for n in marked:
        axes.plot(n, recalls[n - 1], "o", color=_BLUE, markersize=5)
        axes.annotate(
            f"{recalls[n - 1]:.1f}", (n, recalls[n - 1]), (5, -11), textcoords="offset points"
        )
    if upper_bound is not None:
        axes.axhline(upper_bound, color="#8a929a", linestyle=":", linewidth=1.5)
    axes.set_xscale("log")
    ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= len(recalls)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.93, max(2, len(recalls)) * 1.2)
    axes.set_ylim(0, 104)
    return _to_svg(figure, name)


@_styled
def draw_recalls_by_threshold(
    name: str,
    thresholds_m: np.ndarray,
    recalls: np.ndarray,
    labels: Sequence[str],
    used_threshold_m: float | None,
) -> str:
    """Draw a line for each row of recalls in percent [len(labels), len(thresholds_m)]."""
    figure, axes = _axes("threshold (m)", "R@N (%)")
    for number, (label, row) in enumerate(zip(labels, recalls, strict=True)):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        style = _LINE_STYLES[number % len(_LINE_STYLES)]
        axes.plot(thresholds_m, row, color=colour, linestyle=style, linewidth=2, label=label)
    if used_threshold_m is not None and used_threshold_m <= thresholds_m[-1]:
        label = f"{used_threshold_m:g} m, used"
        axes.axvline(used_threshold_m, color="#8a929a", linestyle=":", linewidth=1.5, label=label)
    axes.set_xlim(0, thresholds_m[-1])
    axes.set_ylim(0, 104)
    figure.legend(
        loc="outside upper center", ncols=5, handlelength=1.6, columnspacing=0.8, fontsize=9.5
    )
    return _to_svg(figure, name)


@_styled
def draw_risk_curve(name: str, risks: np.ndarray) -> str:
    """Draw the risk in percent of accepting the surest 1, 2, ... queries [num_queries]."""
    figure, axes = _axes("coverage, accepted queries (%)", "risk (%)")
    axes.plot(100 * np.arange(1, len(risks) + 1) / len(risks), risks, color=_BLUE, linewidth=2)
    axes.set_xlim(0, 102)
    axes.set_ylim(0, max(5, 1.1 * risks.max()))
    return _to_svg(figure, name)


@_styled
def draw_errors(name: str, correct: np.ndarray, wrong: np.ndarray) -> str:
    """Draw a histogram of top-1 errors by ERROR_EDGES_M, wrong ones stacked on correct ones.

    Args:
        name: Of the chart.
        correct: Number of correct ones. int [len(ERROR_EDGES_M)], the last one beyond all edges.
        wrong: Number of wrong ones, likewise.
    """
    figure, axes = _axes("error of the top-1 prediction (m)", "queries")
    num_bins = len(ERROR_EDGES_M)
    lefts = np.arange(num_bins, dtype=float)
    lefts[-1] += 1.1  # the last bin has no upper edge and stands apart
    bars = {"width": 1, "align": "edge", "edgecolor": "w"}
    axes.bar(lefts, correct, color=_CORRECT_COLOUR, label="top-1 prediction correct", **bars)
    # hatched: told apart without colours
    bars["hatch"] = "//"
    axes.bar(lefts, wrong, color=_WRONG_COLOUR, label="wrong", bottom=correct, **bars)
    for left, number in zip(lefts, correct + wrong, strict=True):
        if number:
            _write_above(axes, left + 0.5, number, f"{number:,}")
    beyond = f">{ERROR_EDGES_M[-1] // 1000} km"
    ticks = [*range(num_bins), lefts[-1] + 0.5]
    axes.set_xticks(ticks, [*map(str, ERROR_EDGES_M), beyond], fontsize=9)
    axes.grid(False, axis="x")
    axes.set_ylim(0, 1.1 * (correct + wrong).max())
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2)
    return _to_svg(figure, name)


@_styled
def draw_groups(name: str, groups: Groups, label: str) -> str:
    """Draw R@1 of each group with its 95% interval and its number of queries."""
    figure, axes = _axes(f"{label}, with its number of queries", "R@1 (%)")
    low, high = groups.interval
    places = np.arange(len(groups.labels))
    lengths = np.maximum(0, [groups.recalls - low, high - groups.recalls])
    bars = {"ecolor": "#555c63", "capsize": 2, "error_kw": {"linewidth": 1}}
    axes.bar(places, groups.recalls, 0.7, color=_LIGHT_BLUE, yerr=lengths, **bars)
    is_upright = len(places) <= _MAX_UPRIGHT_LABELS
    ticks = [
        f"{text}\n{number:,}" if is_upright else f"{text}: {number:,}"
        for text, number in zip(groups.labels, groups.num_queries, strict=True)
    ]
    axes.set_xticks(places, ticks, fontsize=9.5, rotation=0 if is_upright else 90)
    axes.set_xlim(-0.6, max(len(places), 4) - 0.4)
    axes.grid(False, axis="x")
    axes.set_ylim(0, 104)
    return _to_svg(figure, name)


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _write_above(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), (0, 2), textcoords="offset points", ha="center", fontsize=9.5, color="#333a40"
    )


def _to_svg(figure: Figure, name: str) -> str:
    """Return an <svg> that fills its container and shares no id with other charts."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    head, body = svg[svg.index("<svg") :].split(">", 1)
    (view_box,) = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    return f'<svg {view_box} aria-hidden="true">{body}'
