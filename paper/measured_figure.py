"""Figures of measured numbers: they say what is missing, and there is none of nothing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from paper.drawing import remove_pictures, save_figure, write_values


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
        folder: Where to.
        name: Of the files; pictures of an earlier call are removed if there is nothing to show.
        mark: Of the scale.
        explanation: What a reader of the picture must know.
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
