"""Cells and rows of tables of measured numbers beside the paper's."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from paper.published import Column, Number

NUM_STDS = 2.0  # of the paper's; a number further from it than this and MIN_DIFFERENCE is flagged
MIN_DIFFERENCE = 1.0  # percentage points
_FORGIVEN = 1e-9  # of floating point: a difference of exactly the limit is not flagged
_EMPTY = "-"
FLAG = "! "  # before flagged cells
GAP = 2  # characters between columns


@dataclass(frozen=True)
class Cell:
    """A recall as measured and as published, in percent, or the reason why it was not measured."""

    measured: tuple[float, ...] = ()  # one per seed
    published: Number | None = None  # None where the paper has none
    missing: str = ""  # "no data set", "no weights", "not run" ...
    caveats: tuple[str, ...] = ()  # sentences on how it was measured
    runs: tuple[str, ...] = ()  # folders of the measured numbers

    def __post_init__(self) -> None:
        """Check that the cell is consistent."""
        if not all(0 <= recall <= 100 for recall in self.measured):
            raise ValueError(f"Recalls are 0 to 100 percent; measured were {self.measured}")
        if self.measured and self.missing:
            raise ValueError(
                f"A cell was measured and is missing ({self.missing}): only one is true"
            )
        if self.published is not None and not self.measured and not self.missing:
            raise ValueError("A cell that was not measured needs the reason why")

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if nothing was measured."""
        return statistics.fmean(self.measured) if self.measured else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.measured) if len(self.measured) > 1 else None

    @property
    def delta(self) -> float | None:
        """Measured minus published mean, neither of them rounded; None without one of them."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published.mean

    @property
    def flagged(self) -> bool:
        """Whether it differs from the paper by more than the paper's spread and one point."""
        if self.delta is None or self.published is None:
            return False
        limit = max(NUM_STDS * (self.published.std or 0.0), MIN_DIFFERENCE)
        return abs(self.delta) > limit + _FORGIVEN

    def describe(self) -> str:
        """Return "81.8 (81.6, +0.2)", "no data set (81.6)", "81.8" without a published number."""
        paper = "" if self.published is None else _spread(self.published.mean, self.published.std)
        if self.mean is None:
            return f"{self.missing or _EMPTY} ({paper})" if paper else self.missing or _EMPTY
        measured = _spread(self.mean, self.std)
        if self.delta is None:
            return measured
        # + 0.0 for a "-0.0" to become "+0.0"
        return f"{measured} ({paper}, {round(self.delta, 1) + 0.0:+.1f})"


@dataclass(frozen=True)
class Row:
    """A row: its labels and as many cells as the table has columns."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str = ""  # a sentence on how it was measured


@dataclass(frozen=True)
class ComparedTable:
    """A table of the paper with what was measured."""

    title: str
    row_headers: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caveats: tuple[str, ...] = ()  # of the whole table, before those of its cells
    mark: str = ""  # "mini city: not the paper's data set": the numbers are not to be compared

    def __post_init__(self) -> None:
        """Check the shape."""
        if not self.columns or not self.rows:
            raise ValueError(f"{self.title}: a table needs rows and columns")
        for row in self.rows:
            shape = (len(row.labels), len(row.cells))
            if shape != (len(self.row_headers), len(self.columns)):
                raise ValueError(
                    f"{self.title}: row {row.labels} has {shape[0]} labels and {shape[1]} cells "
                    f"for {len(self.row_headers)} headers and {len(self.columns)} columns"
                )

    def as_shown(self) -> "ComparedTable":
        """Return the table without the paper's numbers and caveats if it is marked."""
        if not self.mark:
            return self
        rows = (
            replace(row, cells=tuple(replace(c, published=None, caveats=()) for c in row.cells))
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, row by row."""
        return itertools.chain.from_iterable(row.cells for row in self.rows)

    def all_caveats(self) -> list[str]:
        """Return the caveats of the table and of its cells, each once."""
        of_cells = itertools.chain.from_iterable(cell.caveats for cell in self.cells())
        return list(dict.fromkeys([*self.caveats, *of_cells]))

    def notes(self) -> list[str]:
        """Return the notes of the rows, each once; rows refer to them by number, from 1."""
        return list(dict.fromkeys(row.note for row in self.rows if row.note))

    def labels(self, row: Row) -> list[str]:
        """Return the labels of a row, the first with the number of its note, if it has one."""
        if not row.note:
            return list(row.labels)
        first, *others = row.labels
        return [f"{first} [{self.notes().index(row.note) + 1}]", *others]

    def legend(self, flag: str) -> list[str]:
        """Return the meaning of the cells in sentences; `flag` marks flagged cells."""
        lines = []
        is_compared = any(cell.delta is not None for cell in self.cells())
        if is_compared:
            lines += [
                "Cells: measured (published, difference), in percent; differences and flags are of "
                "unrounded means.",
                f"{flag}: further from the published number than {NUM_STDS:.0f} times its standard "
                f"deviation and than {MIN_DIFFERENCE:.1f} point.",
            ]
        if is_compared and any(c.measured and c.published is None for c in self.cells()):
            lines.append("Numbers without brackets: measured; none is published.")
        num_seeds = {len(cell.measured) for cell in self.cells() if len(cell.measured) > 1}
        if num_seeds:
            several = " or ".join(map(str, sorted(num_seeds)))
            lines.append(f"± of measured numbers: sample standard deviation of {several} seeds.")
        if any(cell.missing and cell.published is not None for cell in self.cells()):
            lines.append("Words: not measured, and why; in brackets is the published number.")
        if self.mark:
            lines.append(f"Published numbers are left out ({self.mark}).")
        return lines

    def blocks(self, width: int) -> list[range]:
        """Split the columns into blocks that with all labels fit a number of characters.

        The columns of one data set stay together; on their own they may be wider.
        """
        labels = zip(self.row_headers, *map(self.labels, self.rows), strict=True)
        room = width - sum(max(map(len, texts)) + GAP for texts in labels)
        blocks: list[range] = []
        for _, group in itertools.groupby(range(len(self.columns)), self._title_of):
            indices = list(group)
            begin = blocks[-1].start if blocks else 0
            needed = sum(map(self._width_of, range(begin, indices[-1] + 1)))
            if blocks and needed - GAP <= room:
                blocks.pop()
            else:
                begin = indices[0]
            blocks.append(range(begin, indices[-1] + 1))
        return blocks

    def _title_of(self, index: int) -> str:
        return self.columns[index].title

    def _width_of(self, index: int) -> int:
        """Return the characters of a column, its gap included."""
        cells = (row.cells[index] for row in self.rows)
        texts = (cell.describe() + FLAG * cell.flagged for cell in cells)
        return GAP + max(map(len, (self.columns[index].header, *texts)))


VALUES_HEADER = ("mean", "std", "num_seeds", "missing", "runs")  # in the CSV of figures


def list_values(cell: Cell) -> tuple[str, ...]:
    """Return the measured values of a cell for the CSV of a figure, see VALUES_HEADER."""
    numbers = ("" if number is None else f"{number:.2f}" for number in (cell.mean, cell.std))
    return (*numbers, str(len(cell.measured)), cell.missing, "; ".join(cell.runs))


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
