import statistics

import pytest
from compared_tables import make_published, make_table, perturbed, read_csv

from paper.published import Number
from paper.table_cells import Cell, Row
from paper.table_text import render


@pytest.mark.parametrize(
    ("measured", "published", "delta"),
    [
        ((81.84,), 81.6, "+0.2"),  # 81.8 and 81.6 are 0.2 apart
        ((81.86,), 81.6, "+0.3"),
        ((81.649,), 81.6, "+0.0"),
        ((81.551,), 81.6, "+0.0"),  # not "-0.0"
        ((81.549,), 81.6, "-0.1"),
        ((81.5, 81.6, 81.74), 81.5, "+0.1"),
    ],
)
def test_differences_are_of_unrounded_means(measured, published, delta):
    cell = Cell(measured, Number(published))
    assert cell.describe().endswith(f"({published}, {delta})")
    assert cell.delta == pytest.approx(statistics.mean(measured) - published, abs=1e-12)


@pytest.mark.parametrize(
    ("measured", "published", "flagged"),
    [
        (82.6, Number(81.6), False),  # exactly at the limit; 1.0 in decimals, not in floats
        (80.6, Number(81.6), False),
        (90.1, Number(89.1), False),
        (82.601, Number(81.6), True),  # shown as +1.0
        (80.599, Number(81.6), True),
        (82.9, Number(81.6, 0.7), False),
        (83.0, Number(81.6, 0.7), False),  # exactly twice the standard deviation
        (83.001, Number(81.6, 0.7), True),
        (82.5, Number(81.6, 0.1), False),  # beyond two standard deviations, below a point
        (82.7, Number(81.6, 0.1), True),
        (20.0, None, False),
    ],
)
def test_the_flag_is_for_what_is_beyond_the_limit(measured, published, flagged):
    cell = Cell((measured,), published)
    assert cell.flagged is flagged
    (row, _) = read_csv(make_table(Row(("GeM",), (cell, Cell()))))
    assert row["flagged"] == ("" if published is None else str(flagged).lower())


def test_columns_of_a_data_set_stay_together():
    table = make_published("table2", perturbed)
    blocks = table.blocks(160)
    assert [list(block) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [list(block) for block in table.blocks(10)] == [[i, i + 1] for i in range(0, 10, 2)]
    assert table.blocks(1000) == [range(10)]
    short = make_published("table1", lambda number: Cell((50.0,)))
    (block,) = short.blocks(160)
    lines = render(short, "text").splitlines()
    assert list(block) == list(range(5)) and lines[2].startswith("pooling")
    assert short.blocks(len(lines[2])) == [block] and len(short.blocks(len(lines[2]) - 1)) == 2


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Cell((0.8, 101.0)), "0 to 100 percent"),
        (lambda: Cell((float("nan"),)), "0 to 100 percent"),
        (lambda: Cell((81.0,), None, "not run"), "measured and is missing .not run."),
        (lambda: Cell((), Number(81.6)), "needs the reason why"),
        (lambda: make_table(Row(("GeM",), (Cell(),))), "1 labels and 1 cells for 1 headers and 2"),
        (lambda: make_table(Row((), (Cell(), Cell()))), "0 labels and 2 cells"),
        (lambda: make_table(), "needs rows and columns"),
    ],
)
def test_what_makes_no_sense_is_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()
