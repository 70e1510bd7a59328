import re
import statistics
from dataclasses import replace

import pytest
from compared_tables import MARK, NAMES, make_published, make_table, perturbed, read_csv

from paper.published import TABLES, Column, Number
from paper.table_cells import Cell, Row
from paper.table_text import FORMS, render, write_table

# How a cell reads

READINGS = [
    (Cell((81.8,), Number(81.6)), "81.8 (81.6, +0.2)"),
    (Cell((81.8,), Number(82.2, 0.5)), "81.8 (82.2 ± 0.5, -0.4)"),
    (Cell((81.6, 82.0, 82.4), Number(82.2, 0.5)), "82.0 ± 0.4 (82.2 ± 0.5, -0.2)"),
    (Cell((81.6, 82.4), Number(82.2)), "82.0 ± 0.6 (82.2, -0.2)"),
    (Cell((81.8,)), "81.8"),
    (Cell((100.0, 100.0)), "100.0 ± 0.0"),
    (Cell((), Number(81.6), "no data set"), "no data set (81.6)"),
    (Cell((), Number(82.2, 0.5), "interrupted"), "interrupted (82.2 ± 0.5)"),
    (Cell(missing="not implemented yet"), "not implemented yet"),
    (Cell(), "-"),
    (Cell((0.0,), Number(0.5)), "0.0 (0.5, -0.5)"),
]


@pytest.mark.parametrize(("cell", "text"), READINGS)
def test_a_cell_reads_the_same_in_every_form(cell, text):
    assert cell.describe() == text and not cell.flagged
    table = make_table(Row(("GeM",), (cell, Cell())))
    assert re.search(rf"^GeM +{re.escape(text)} +-$", render(table, "text"), re.MULTILINE)
    assert f"| GeM | {text} | - |\n" in render(table, "markdown")
    (row,) = (row for row in read_csv(table) if row["dataset"] == "pitts30k")
    assert (row["missing"], row["num_seeds"]) == (cell.missing, str(len(cell.measured)))
    assert (row["flagged"] == "") == (row["delta"] == "") == (cell.delta is None)


def test_flagged_cells_stand_out():
    cells = (Cell((70.1,), Number(81.6)), Cell((81.5,), Number(81.6)))
    table = make_table(Row(("GeM",), cells))
    assert "  ! 70.1 (81.6, -11.5)  81.5 (81.6, -0.1)\n" in render(table, "text")
    assert "| ! 70.1 (81.6, -11.5) | 81.5 (81.6, -0.1) |" in render(table, "markdown")
    meaning = (
        "further from the published number than 2 times its standard deviation and than 1.0 point."
    )
    for form, flag in (("text", "!"), ("markdown", "- !")):
        assert f"\n{flag}: {meaning}\n" in render(table, form)


# What stands below the table


def test_legends_explain_what_is_there():
    table = make_table(Row(("GeM",), (Cell((81.0,)), Cell())))
    assert render(table, "text").splitlines()[-1].startswith("GeM"), "nothing to explain"
    cells = (Cell((81.0, 82.0), Number(81.6)), Cell((), Number(70.0), "no data set"))
    text = render(make_table(Row(("GeM",), cells)), "text")
    assert "Cells: measured (published, difference), in percent" in text
    assert "± of measured numbers: sample standard deviation of 2 seeds." in text
    assert "Words: not measured, and why; in brackets is the published number." in text
    other = Cell((81.0, 82.0, 83.0), Number(81.6))
    text = render(make_table(Row(("GeM",), (cells[0], other))), "text")
    assert "of 2 or 3 seeds." in text and "Words:" not in text
    assert "none is published" not in text
    text = render(make_table(Row(("GeM",), (other, Cell((70.0,))))), "text")
    assert "Numbers without brackets: measured; none is published." in text


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_notes_and_caveats_are_told_once(form):
    noted = (Cell((81.0,), caveats=("MSLS is not MSLS.",)), Cell((82.0,)))
    rows = [
        Row(("Average",), noted, note="weights of the release"),
        Row(("Max",), noted),
        Row(("GeM",), noted, note="2 of 3 seeds"),
        Row(("GeM 2",), noted, note="weights of the release"),
    ]
    text = render(make_table(*rows, caveats=("The dimension is not stated.",)), form)
    text = text.replace("\\[", "[").replace("\\]", "]")
    for label in ("Average [1]", "Max ", "GeM [2]", "GeM 2 [1]"):
        assert label in text
    for note in ("[1] weights of the release", "[2] 2 of 3 seeds"):
        assert text.count(note) == 1
    assert text.index("The dimension is not stated.") < text.index("MSLS is not MSLS.")
    assert text.count("MSLS is not MSLS.") == 1


def test_csv_tells_notes_and_caveats_of_the_cell():
    cells = (Cell((81.0,), caveats=("MSLS is not MSLS.",)), Cell((82.0,)))
    table = make_table(Row(("GeM",), cells, "2 of 3 seeds"), caveats=("Not stated.",))
    first, second = read_csv(table)
    assert (
        first["caveats"] == "Not stated. MSLS is not MSLS." and second["caveats"] == "Not stated."
    )
    assert first["note"] == second["note"] == "2 of 3 seeds"


# Tables with a mark


def test_marked_tables_show_what_was_measured_and_nothing_of_the_paper():
    cells = (
        Cell((20.0, 21.0), Number(81.6), "", ("Of the paper.",)),
        Cell((), Number(7.7), "not run"),
    )
    table = make_table(Row(("GeM",), cells), mark=MARK, caveats=("Few images.",))
    for form in ("text", "markdown"):
        text = render(table, form)
        assert MARK in text.split("GeM")[0], "the mark stands above the numbers"
        assert "81.6" not in text and "7.7" not in text and "Of the paper." not in text
        assert "not run" in text and "Few images." in text
        assert "20.5 ± 0.7" in text
        assert f"Published numbers are left out ({MARK})." in text
        assert "further from the published" not in text
    for row in read_csv(table):
        assert row["mark"] == MARK and row["published_mean"] == row["delta"] == row["flagged"] == ""
    assert [row["missing"] for row in read_csv(table)] == ["", "not run"]


def test_without_a_mark_there_is_none():
    table = make_table(Row(("GeM",), (Cell((20.0,)), Cell())))
    assert [row["mark"] for row in read_csv(table)] == ["", ""]
    assert "left out" not in render(table, "text")
    marked = replace(table, mark=MARK)
    for form in FORMS:
        assert render(marked, form) != render(table, form)


def test_the_mark_stands_above_each_block():
    table = make_published(
        "table2", lambda number: Cell(missing="not implemented yet, sorry"), MARK
    )
    text = render(table, "text")
    assert text.count(f"[{MARK}]\nmethod ") == text.count("\nmethod ") > 1


# Numbers for other programs


def test_csv_has_unrounded_numbers():
    cells = (Cell((81.0, 82.0, 82.25), Number(82.2, 0.5)), Cell((), Number(70.0), "no data set"))
    first, second = read_csv(make_table(Row(("GeM",), cells)))
    assert [first[name] for name in ("pooling", "dataset", "metric")] == ["GeM", "pitts30k", "R@1"]
    assert float(first["measured_mean"]) == pytest.approx(81.75)
    assert float(first["measured_std"]) == pytest.approx(
        statistics.stdev((81.0, 82.0, 82.25)), 1e-5
    )
    assert (first["num_seeds"], first["published_mean"], first["published_std"]) == (
        "3",
        "82.2",
        "0.5",
    )
    assert (first["delta"], first["flagged"], first["missing"]) == ("-0.45", "false", "")
    assert second["measured_mean"] == second["measured_std"] == second["delta"] == ""
    assert (second["num_seeds"], second["published_mean"], second["published_std"]) == (
        "0",
        "70.0",
        "",
    )
    assert (second["dataset"], second["missing"]) == ("tokyo247", "no data set")


# Layout


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "fill",
    [
        perturbed,
        lambda number: Cell((), number, "not implemented yet"),
        lambda number: Cell((50.0,)),
    ],
    ids=["measured", "missing", "unpublished"],
)
def test_the_papers_tables_fit_a_terminal(name, fill):
    table = make_published(name, fill)
    text = render(table, "text")
    assert max(map(len, text.splitlines())) <= 160
    for column in table.columns:
        assert len(re.findall(rf"{re.escape(column.header)}(?!\d)", text)) == 1
    blocks = [block.splitlines() for block in text.split("\n\n") if "\n---" in block]
    assert [len(block) for block in blocks] == [len(table.rows) + 2] * len(blocks)
    for block in blocks:
        for column in table.columns:
            end = block[0].find(column.header) + len(column.header)
            if column.header in block[0]:
                edges = {line[end - 1 : end + 1].strip() != "" for line in block[2:]}
                assert edges == {True}, "cells end where their header ends"
                assert all(line[end : end + 1] in ("", " ") for line in block[2:])


# Names that mean something to Markdown or CSV


def test_any_name_survives():
    columns = (Column("my_set", "R@1", "A&B_|c%"), Column("other", "R@5", "x,y"))
    rows = [Row((name, "512"), (Cell((50.0,)), Cell(missing="50% & more_|"))) for name in NAMES]
    table = make_table(*rows, columns=columns, headers=("model|kind", "dim"))
    names = [row["model|kind"] for row in read_csv(table)]
    assert names == [name for name in NAMES for _ in columns]
    assert all(name in render(table, "text") for name in NAMES)
    lines = [line for line in render(table, "markdown").splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(texts) for texts in cells} == {4}
    unescaped = [re.sub(r"\\(.)", r"\1", texts[0].strip()) for texts in cells]
    assert unescaped == ["model|kind", "---", *NAMES]


# Files and mistakes


def test_all_forms_are_written(tmp_path):
    row = Row(("Zürich \udcff",), (Cell((50.0, 51.0)), Cell()))
    table = make_table(row)
    paths = write_table(table, tmp_path / "out" / "tables", "table1")
    assert [path.name for path in paths] == ["table1.txt", "table1.md", "table1.csv"]
    for path, form in zip(paths, FORMS, strict=True):
        assert path.read_bytes() == render(table, form).encode("utf-8", "surrogateescape")
        assert path.read_bytes().endswith(b"\n") and b"\r" not in path.read_bytes()
    assert sorted(path.parent.iterdir()) == sorted(paths)


def test_forms_that_are_not_there():
    table = make_table(Row(("GeM",), (Cell((50.0,)), Cell())))
    with pytest.raises(ValueError, match="written as text, markdown, csv, not as html"):
        render(table, "html")
