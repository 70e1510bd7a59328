"""What figures show, for the tests of those that draw them."""

import csv
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def keep_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return what will hold the figures that are saved from now on, by the name of their files."""
    saved, save = {}, Figure.savefig

    def keep(figure: Figure, path: Path, **options: object) -> None:
        saved[Path(path).name.strip(".").split(".")[0]] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def texts_of(figure: Figure) -> str:
    """Return all that is written in a figure, broken lines joined."""
    _draw(figure)
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def assert_all_is_readable(figure: Figure) -> None:
    """Check that nothing is cut off by the border."""
    _draw(figure)
    drawn_in, size_in = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn_in.x0 > -0.01 and drawn_in.x1 < size_in[0] + 0.01
    assert drawn_in.y0 > -0.01 and drawn_in.y1 < size_in[1] + 0.01


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, the header first."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _draw(figure: Figure) -> None:
    """Find out where everything is and which ticks have names."""
    FigureCanvasAgg(figure).draw()
