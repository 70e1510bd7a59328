"""Tables of measured against published numbers: for the terminal, as Markdown and CSV."""

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import commons
from datasets.tables import write_rows
from paper.table_cells import FLAG, GAP, Cell, ComparedTable, Row

WIDTH = 160  # characters of a wide terminal
_CSV_COLUMNS = (
    "dataset",
    "metric",
    "measured_mean",
    "measured_std",
    "num_seeds",
    "published_mean",
    "published_std",
    "delta",
    "flagged",
    "missing",
    "runs",
    "mark",
    "note",
    "caveats",
)


def render(table: ComparedTable, form: str) -> str:
    """Return a table as text that ends with a line break.

    Cells read "measured (paper, difference)". A table with a mark omits the paper's numbers in all
    forms: its numbers are not comparable.

    Args:
        table: Cells, notes and caveats.
        form: One of FORMS.

    Raises:
        ValueError: If there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"Tables are written as {', '.join(FORMS)}, not as {form}")
    return FORMS[form][1](table.as_shown())


def write_table(table: ComparedTable, folder: Path, stem: str) -> list[Path]:
    """Write <stem>.txt, .md and .csv into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for form, (suffix, _) in FORMS.items():
        paths.append(folder / f"{stem}{suffix}")
        with commons.atomic_write(paths[-1]) as temporary:
            content = render(table, form).encode("utf-8", "surrogateescape")
            temporary.write_bytes(content)
    return paths


def _format_text(table: ComparedTable) -> str:
    """Return blocks of columns below one another, none wider than WIDTH if possible."""
    parts = [table.title]
    for columns in table.blocks(WIDTH):
        header = [*table.row_headers, *(table.columns[index].header for index in columns)]
        rows = [
            [*table.labels(row), *(_flagged_text(row.cells[index]) for index in columns)]
            for row in table.rows
        ]
        lines = list(_align(header, rows, len(table.row_headers)))
        parts.append("\n".join([f"[{table.mark}]", *lines] if table.mark else lines))
    notes = [*table.legend(FLAG.strip()), *_numbered_notes(table)]
    notes += [f"- {caveat}" for caveat in table.all_caveats()]
    parts.append("\n".join(_wrap(note) for note in notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def _align(header: list[str], rows: list[list[str]], num_labels: int) -> Iterator[str]:
    """Align labels left and cells right, and rule off the header."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for number, texts in enumerate([header, *rows]):
        labels = map(str.ljust, texts[:num_labels], widths)
        cells = map(str.rjust, texts[num_labels:], widths[num_labels:])
        yield (" " * GAP).join([*labels, *cells]).rstrip()
        if number == 0:
            yield "-" * (sum(widths) + GAP * (len(widths) - 1))


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _flagged_text(cell: Cell) -> str:
    return FLAG * cell.flagged + cell.describe()


def _numbered_notes(table: ComparedTable) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(table.notes(), 1)]


def _format_markdown(table: ComparedTable) -> str:
    header = [*table.row_headers, *(column.header for column in table.columns)]
    rule = ["---"] * len(table.row_headers) + ["---:"] * len(table.columns)
    rows = [[*table.labels(row), *map(_flagged_text, row.cells)] for row in table.rows]
    lines = [f"| {' | '.join(map(_escape, texts))} |" for texts in [header, *rows]]
    lines.insert(1, f"| {' | '.join(rule)} |")
    notes = [*table.legend(FLAG.strip()), *_numbered_notes(table), *table.all_caveats()]
    parts = [
        f"# {_escape(table.title)}",
        f"**{_escape(table.mark)}**" if table.mark else "",
        "\n".join(lines),
        "\n".join(f"- {_escape(note)}" for note in notes),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _escape(text: str) -> str:
    """Escape the marks of Markdown in names."""
    return re.sub(r"([\\`*_{}\[\]<>|#&$~])", r"\\\1", " ".join(text.split()))


def _format_csv(table: ComparedTable) -> str:
    """Return one line per cell, numbers to six decimals; mark and caveats are columns."""
    text = io.StringIO()
    rows = (
        [*row.labels, column.dataset, column.metric]
        + [*_csv_numbers(cell), *_csv_words(table, row, cell)]
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    )
    write_rows(text, [*table.row_headers, *_CSV_COLUMNS], rows, "\n")
    return text.getvalue()


def _csv_numbers(cell: Cell) -> list[object]:
    """Return the cells from measured_mean to flagged; unknown values are empty."""
    published = cell.published
    numbers = [
        cell.mean,
        cell.std,
        len(cell.measured),
        published and published.mean,
        published and published.std,
        cell.delta,
    ]
    rounded = ["" if number is None else round(number, 6) for number in numbers]
    return [*rounded, "" if cell.delta is None else str(cell.flagged).lower()]


def _csv_words(table: ComparedTable, row: Row, cell: Cell) -> list[str]:
    caveats = " ".join(dict.fromkeys([*table.caveats, *cell.caveats]))
    return [cell.missing, "; ".join(cell.runs), table.mark, row.note, caveats]


FORMS: dict[str, tuple[str, Callable[[ComparedTable], str]]] = {
    "text": (".txt", _format_text),
    "markdown": (".md", _format_markdown),
    "csv": (".csv", _format_csv),
}
