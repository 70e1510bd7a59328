"""Charts of a report as inline SVG: one style, the same bytes for the same numbers."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from reports.curves import ERROR_EDGES_M, Groups

_RIGHT_COLOUR, _WRONG_COLOUR = "#1d8a56", "#cf4333"
_BLUE, _LIGHT_BLUE = "#3566a8", "#8fb2dd"
_LINE_COLOURS = ("#3566a8", "#d98324", "#1d8a56", "#8656a8", "#5c6670", "#b0406c")
_SIZE_INCHES = (5.8, 3.3)
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and drawn in the font of the page
    "font.size": 9,
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
_MAX_BARS_OF_LARGE_TEXT = 12
_styled = matplotlib.rc_context(_STYLE)  # for the time of one call


class Chart(NamedTuple):
    """One chart of a page."""

    name: str  # unique on the page
    title: str
    svg: str
    description: str  # what it says, for those who do not see it
    caption: str = ""


@_styled
def draw_recall_curve(
    name: str, recalls: np.ndarray, marked: Sequence[int], upper_bound: float | None
) -> str:
    """Draw R@1 to R@K in percent [K], with marks at some N, and what no method can exceed."""
    figure, axes = _axes("N, number of predictions looked at", "R@N (%)")
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
    figure, axes = _axes("threshold (m)", "queries found (%)")
    for number, (label, row) in enumerate(zip(labels, recalls, strict=True)):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        axes.plot(thresholds_m, row, color=colour, linewidth=2, label=label)
    if used_threshold_m is not None and used_threshold_m <= thresholds_m[-1]:
        label = f"threshold used, {used_threshold_m:g} m"
        axes.axvline(used_threshold_m, color="#8a929a", linestyle=":", linewidth=1.5, label=label)
    axes.set_xlim(0, thresholds_m[-1])
    axes.set_ylim(0, 104)
    figure.legend(loc="outside upper center", ncols=5, handlelength=1.4, columnspacing=1.2)
    return _to_svg(figure, name)


@_styled
def draw_errors(name: str, right: np.ndarray, wrong: np.ndarray) -> str:
    """Draw how many first predictions are between ERROR_EDGES_M, the wrong ones on the right ones.

    Args:
        name: Of the chart.
        right: Counts of right ones. int [len(ERROR_EDGES_M)], the last one beyond all edges.
        wrong: Counts of wrong ones, likewise.
    """
    figure, axes = _axes("error of the first prediction (m)", "queries")
    num_bins = len(ERROR_EDGES_M)
    lefts = np.arange(num_bins, dtype=float)
    lefts[-1] += 0.6  # the last bin has no upper edge and stands apart
    bars = {"width": 1, "align": "edge", "edgecolor": "w"}
    axes.bar(lefts, right, color=_RIGHT_COLOUR, label="first prediction right", **bars)
    axes.bar(lefts, wrong, color=_WRONG_COLOUR, label="wrong", bottom=right, **bars)
    for left, number in zip(lefts, right + wrong, strict=True):
        if number:
            _write_above(axes, left + 0.5, number, f"{number:,}")
    beyond = f">{ERROR_EDGES_M[-1] // 1000} km"
    ticks = [*range(num_bins), lefts[-1] + 0.5]
    axes.set_xticks(ticks, [*map(str, ERROR_EDGES_M), beyond])
    axes.grid(False, axis="x")
    axes.set_ylim(0, 1.1 * (right + wrong).max())
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2)
    return _to_svg(figure, name)


@_styled
def draw_groups(name: str, groups: Groups, label: str) -> str:
    """Draw R@1 of each group with its 95% interval and its number of queries."""
    figure, axes = _axes(f"{label}; below: number of queries", "R@1 (%)")
    low, high = groups.interval
    places = np.arange(len(groups.labels))
    lengths = np.maximum(0, [groups.recalls - low, high - groups.recalls])
    bars = {"ecolor": "#555c63", "capsize": 2, "error_kw": {"linewidth": 1}}
    axes.bar(places, groups.recalls, 0.7, color=_LIGHT_BLUE, yerr=lengths, **bars)
    size = 8.5 if len(places) <= _MAX_BARS_OF_LARGE_TEXT else 6.5
    ticks = [
        f"{text}\n{number:,}"
        for text, number in zip(groups.labels, groups.num_queries, strict=True)
    ]
    axes.set_xticks(places, ticks, fontsize=size)
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
        text, (x, y), (0, 2), textcoords="offset points", ha="center", fontsize=8, color="#333a40"
    )


def _to_svg(figure: Figure, name: str) -> str:
    """Return an <svg> that fills its place and shares no id with other charts of the page."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    head, body = svg[svg.index("<svg") :].split(">", 1)
    (view_box,) = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    return f'<svg {view_box} aria-hidden="true">{body}'
