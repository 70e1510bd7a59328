"""Tables with hand-made cells for the tests."""

import csv
from dataclasses import replace

from paper.published import Column, load_table
from paper.table_cells import Cell, ComparedTable, Row
from paper.table_text import render

MARK = "mini city: not the paper's data set"
PITTS, TOKYO = Column("pitts30k", "R@1", "Pitts30k"), Column("tokyo247", "R@1", "Tokyo 24/7")
NAMES = ("a|b & 50%_c, $x$ #1", "{d}\\e ~f^ <g> *h* [i]", 'José\'s "4096-D" --pca †', "中 ±2")


def make_table(*rows, columns=(PITTS, TOKYO), headers=("pooling",), **fields):
    return ComparedTable("Table 1. Pooling", headers, columns, rows, **fields)


def make_published(name, fill, mark=""):
    """Return a whole table of the paper; `fill` makes a cell of a published number."""
    table = load_table(name)
    rows = (
        Row(
            row.labels,
            tuple(
                replace(fill(number), caveats=table.caveats_of(row, column))
                for column, number in zip(table.columns, row.numbers, strict=True)
            ),
        )
        for row in table.rows
    )
    return ComparedTable(table.title, table.row_headers, table.columns, tuple(rows), mark=mark)


def perturbed(number):
    if number is None:
        return Cell()
    return Cell(tuple(number.mean + shift for shift in (-1.9, -1.3, -2.6)), number)


def read_csv(table):
    lines = render(table, "csv").splitlines()
    assert len({len(cells) for cells in csv.reader(lines)}) == 1
    return list(csv.DictReader(lines))
