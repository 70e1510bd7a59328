"""Figures 1 to 3 of the paper: statistics of a data set from the names of its images.

Figures 1 and 2 count panoramas, figure 3 counts queries. No image is opened or needed.
"""

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from datasets.partition import PartitionParams
from paper.drawing import (
    COLUMN_IN,
    new_figure,
    save_figure,
    styled,
    write_message,
    write_thousands,
    write_values,
)
from paper.panoramas import (
    Panoramas,
    count_per_cell,
    iterate_names,
    read_panoramas,
    read_years,
)

_HEIGHT_IN, _LEGEND_IN = 2.2, 0.5
_FEWEST_YEARS = 5
_MOST_BARS = 100  # fuller cells share one bar, to the right of the others
_APART = 4  # distance of that bar
_MOST_TICKS = 8


def draw_panorama_figures(
    train: str | os.PathLike,
    folder: Path,
    note: str = "",
    figures: Collection[str] = ("fig1", "fig2"),
    params: PartitionParams | None = None,
) -> list[Path]:
    """Draw panoramas per cell (figure 1) and per year (figure 2), reading the names once.

    Args:
        train: Folder of the training images or its list file, see `iterate_names`; crops and whole
            panoramas give the same figures.
        folder: Where PDF, PNG and CSV of each figure are written.
        note: Printed on the figures, for example on the data.
        figures: "fig1" or "fig2" or both.
        params: Side of a cell and smallest trained class; None for the paper's.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If there are no names.
        ValueError: If names have no UTM position, or are of several UTM zones.
    """
    panoramas = read_panoramas(train)
    files = []
    if "fig1" in figures:
        files += _draw_cells(panoramas, params or PartitionParams(), folder, note)
    if "fig2" in figures:
        files += _draw_years(panoramas.years, "panoramas", folder, "fig2", note)
    return files


def draw_query_years(queries: str | os.PathLike, folder: Path, note: str = "") -> list[Path]:
    """Draw queries per year (figure 3).

    Args:
        queries: Folder of the queries or its list file.
        folder: Where PDF, PNG and CSV are written.
        note: Printed on the figure.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If there are no names.
    """
    years = np.concatenate([read_years(paths) for paths in iterate_names(queries)])
    return _draw_years(years, "queries", folder, "fig3", note)


@styled
def _draw_cells(
    panoramas: Panoramas, params: PartitionParams, folder: Path, note: str
) -> list[Path]:
    """Draw the number of cells by panoramas per cell, and those that training drops.

    Training drops classes of few images. Each panorama has one crop in every class of its cell, so
    that these are cells of few panoramas.
    """
    per_cell, images_per_cell = count_per_cell(panoramas, params.M)
    smallest = params.min_images_per_class
    dropped = images_per_cell[per_cell < smallest].sum() / images_per_cell.sum()
    num_cells = np.bincount(per_cell)
    figure, axes = new_figure(COLUMN_IN, _HEIGHT_IN + _LEGEND_IN)
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(20, 2 * num_cells.max()))
    axes.set(
        xlabel=f"panoramas per cell of {params.M} m × {params.M} m",
        ylabel="number of cells",
    )
    axes.grid(False, axis="x")
    write_thousands(axes.yaxis)
    _set_ticks(axes, len(num_cells) - 1)
    handles = _draw_kinds(axes, num_cells, smallest)
    label = f"min_images_per_class = {smallest}: {dropped:.1%} of images are\n"
    label += "dropped (about 15% in the paper)"
    handles.append(axes.axvline(smallest - 0.5, color="black", ls=":", lw=1, label=label))
    figure.legend(handles=handles, loc="outside upper left")
    there = np.flatnonzero(num_cells)
    values = zip(there, num_cells[there], (there >= smallest).astype(int), strict=True)
    table = write_values(
        values, ("panoramas_per_cell", "num_cells", "is_kept"), folder, "fig1", note
    )
    return [*save_figure(figure, folder, "fig1", note), table]


def _draw_kinds(axes: Axes, num_cells: np.ndarray, smallest: int) -> list[Artist]:
    """Draw bars, coloured by the use of the cells in training; return the legend's entries."""
    kinds = (
        ("one panorama ({:,} cells): dropped in training", "C1", 1, min(2, smallest)),
        (f"2 to {smallest - 1} ({{:,}} cells): dropped as well", "C4", 2, smallest),
        (f"{smallest} or more ({{:,}} cells): kept", "C0", max(1, smallest), np.inf),
    )
    places, heights, widths = _make_bars(num_cells)
    handles = []
    for label, colour, first, end in kinds:
        chosen = (places >= first) & (places < end)
        if first < end:
            axes.bar(places[chosen], heights[chosen], widths[chosen], color=colour)
            handles.append(Patch(color=colour, label=label.format(heights[chosen].sum())))
    return handles


def _make_bars(num_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return place, height and width of bars; the last one stands for all cells beyond it."""
    places = np.flatnonzero(num_cells[: _MOST_BARS + 1])
    heights, widths = num_cells[places], np.ones(len(places))
    beyond = num_cells[_MOST_BARS + 1 :].sum()
    if beyond:
        places = np.append(places, _MOST_BARS + _APART)
        heights, widths = np.append(heights, beyond), np.append(widths, _APART / 2)
    return places, heights, widths


def _set_ticks(axes: Axes, last: int) -> None:
    """Label the bars of 1, 10, 20, ... panoramas, and the last one."""
    step = _choose_step(min(last, _MOST_BARS))
    ticks = {1: "1"} | {n: str(n) for n in range(step, min(last, _MOST_BARS) + 1, step)}
    if last > _MOST_BARS:
        ticks.pop(_MOST_BARS, None)
        ticks[_MOST_BARS + _APART] = f">{_MOST_BARS}"
    axes.set_xticks(list(ticks), list(ticks.values()))


def _choose_step(span: int) -> int:
    """Return the smallest round step that gives few enough ticks."""
    steps = [factor * 10**power for power in range(5) for factor in (1, 2, 5)]
    return next((step for step in steps if span // step <= _MOST_TICKS), span)


@styled
def _draw_years(years: np.ndarray, what: str, folder: Path, name: str, note: str) -> list[Path]:
    """Draw the number of each year, unknown years in words."""
    values, counts = np.unique(years[years > 0], return_counts=True)
    num_unknown = int((years == 0).sum())
    figure, axes = new_figure(COLUMN_IN, _HEIGHT_IN)
    if len(values):
        title = f"{len(years) - num_unknown:,} {what}"
        title += f"\n{num_unknown:,} without a year are not shown" if num_unknown else ""
        axes.bar(values, counts, 0.8)
        axes.set(xlabel="year", ylabel=f"number of {what}")
        axes.set_title(title, loc="left")
        num_years = int(np.ptp(values)) + 1
        margin = max(0.7, (_FEWEST_YEARS - num_years) / 2)  # a single bar is not a wall
        axes.set_xlim(values[0] - margin, values[-1] + margin)
        axes.xaxis.set_major_locator(MultipleLocator(_choose_step(num_years)))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(False, axis="x")
        write_thousands(axes.yaxis)
    else:
        write_message(axes, f"None of {num_unknown:,} {what} has a year in its file name")
    rows = [*zip(values, counts, strict=True), *([("unknown", num_unknown)] if num_unknown else [])]
    table = write_values(rows, ("year", f"num_{what}"), folder, name, note)
    return [*save_figure(figure, folder, name, note), table]
