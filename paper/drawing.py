"""Style, sizes and writing of the figures of the paper.

A function that draws is decorated with `styled`, so that the style file holds during its call only:

    @styled
    def draw_recalls(folder: Path, note: str = "") -> list[Path]:
        figure, axes = new_figure(COLUMN_IN, 2.2)
        axes.plot(dims, recalls)
        values = write_values(zip(dims, recalls), ("dim", "r1_percent"), folder, "fig6")
        return [*save_figure(figure, folder, "fig6", note), values]
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

import commons
from datasets.tables import write_table

COLUMN_IN, PAGE_IN = 3.3, 7.0  # widths of a column and of a page of the paper
_NOTE_COLOUR = "#B3261E"
_NOTE_PT = 7
_LETTERS_PER_IN = 15  # of that size; wide letters still fit
_LINE_IN = 0.14  # whole pixels, so that the figure above is the same

styled = matplotlib.style.context(
    str(Path(__file__).with_name("style.mplstyle")),
    after_reset=True,  # independent of the caller's settings
)


@styled
def new_figure(
    width_in: float, height_in: float, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Figure, Any]:
    """Make a figure in the style of the paper, without overlaps.

    Args:
        width_in: COLUMN_IN or PAGE_IN, inches.
        height_in: Inches.
        rows: Of panels.
        columns: Of panels.
        **subplots: Other arguments of `Figure.subplots`, such as sharey.

    Returns:
        The figure, and its Axes; an array of them if there are several.
    """
    figure = Figure((width_in, height_in), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


@styled
def save_figure(figure: Figure, folder: Path, name: str, note: str = "") -> list[Path]:
    """Write NAME.pdf (vectors) and NAME.png; the same figure gives the same bytes.

    Args:
        figure: Is left unchanged.
        folder: Made if missing.
        name: Of the files, without extension.
        note: Printed below the figure, which grows by it.

    Returns:
        Both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width_in, height_in = figure.get_size_inches()
    lines = textwrap.wrap(note, int(width_in * _LETTERS_PER_IN))
    note_in = _LINE_IN * len(lines)
    text = figure.text(
        0.5,
        -note_in / height_in,
        "\n".join(lines),
        **{"ha": "center", "va": "bottom", "linespacing": 1.2},
        **{"fontsize": _NOTE_PT, "fontweight": "bold", "color": _NOTE_COLOUR},
    )
    whole = Bbox([[0, -note_in], [width_in, height_in]])
    no_dates = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    files = [folder / f"{name}.{kind}" for kind in no_dates]
    try:
        for file, (kind, metadata) in zip(files, no_dates.items(), strict=True):
            with commons.atomic_write(file) as temporary:
                figure.savefig(temporary, format=kind, bbox_inches=whole, metadata=metadata)
    finally:
        text.remove()
    return files


def remove_pictures(folder: Path, name: str) -> None:
    """Remove the pictures of an earlier call of `save_figure`."""
    for kind in ("pdf", "png"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


def write_values(
    rows: Iterable[Sequence[Any]], header: Sequence[str], folder: Path, name: str, note: str = ""
) -> Path:
    """Write the values of a figure as NAME.csv.

    Args:
        rows: As many values each as the header has.
        header: Names of the columns, with units.
        folder: Made if missing.
        name: Of the file, without extension.
        note: That of the figure; it becomes a column, if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    if note:
        header, rows = (*header, "note"), ((*row, note) for row in rows)
    write_table(path, header, rows)
    return path


def write_thousands(axis: Axis) -> None:
    """Write the numbers of an axis as 12,000; of a logarithmic one only those at powers of ten."""
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def write_message(axes: Axes, message: str) -> None:
    """Write into a panel why it is empty."""
    axes.set_axis_off()
    width_in = axes.figure.get_size_inches()[0] * axes.get_position().width
    text = textwrap.fill(message, max(10, int(0.9 * width_in * _LETTERS_PER_IN)))
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def save_measured(
    figure: Figure,
    values: tuple[Sequence[str], Sequence[Sequence]],
    folder: Path,
    name: str,
    mark: str,
    explanation: str,
) -> list[Path]:
    """Write the picture, if any of its numbers is measured, and the CSV.

    Args:
        figure: The picture.
        values: Header with a column "missing", and the rows, one per number.
        folder: Of the files.
        name: Of the files; pictures of an earlier call are removed if all numbers are missing.
        mark: Of the scale.
        explanation: Printed on the picture.
    """
    header, rows = values
    column = header.index("missing")
    reasons = Counter(row[column] for row in rows if row[column])
    missing = ", ".join(f"{why} {number} of {len(rows)}" for why, number in reasons.items())
    table = write_values(rows, header, folder, name, mark)
    if sum(reasons.values()) == len(rows):
        remove_pictures(folder, name)
        return [table]
    notes = (mark, explanation, f"Points left out: {missing}" if missing else "")
    return [*save_figure(figure, folder, name, ". ".join(filter(None, notes))), table]
