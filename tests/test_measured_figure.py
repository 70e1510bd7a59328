"""Figures of measured numbers."""

import pytest
from matplotlib.figure import Figure

from paper import measured_figure
from paper.measured_figure import save_measured

HEADER = ("value", "mean", "missing")


@pytest.fixture
def notes(monkeypatch):
    """Return what will hold the notes of the figures that are saved."""
    kept = []
    save = measured_figure.save_figure

    def keep(figure, folder, name, note):
        kept.append(note)
        return save(figure, folder, name, note)

    monkeypatch.setattr(measured_figure, "save_figure", keep)
    return kept


def test_a_figure_says_how_many_of_its_numbers_are_missing_and_why(tmp_path, notes):
    rows = [(1, "5.0", ""), (2, "", "not run"), (3, "", "failed"), (4, "", "not run")]
    files = save_measured(Figure(), (HEADER, rows), tmp_path, "fig5", "mini", "Red: chosen")
    assert [file.name for file in files] == ["fig5.pdf", "fig5.png", "fig5.csv"]
    assert notes == ["mini. Red: chosen. Points left out: not run 2 of 4, failed 1 of 4"]


def test_a_whole_figure_says_nothing_of_it(tmp_path, notes):
    save_measured(Figure(), (HEADER, [(1, "5.0", "")]), tmp_path, "fig5", "", "Red: chosen")
    assert notes == ["Red: chosen"]


def test_of_nothing_there_is_no_picture_and_no_older_one(tmp_path, notes):
    (tmp_path / "fig5.png").touch()
    rows = [(1, "", "not run"), (2, "", "not run")]
    [file] = save_measured(Figure(), (HEADER, rows), tmp_path, "fig5", "", "")
    assert list(tmp_path.iterdir()) == [file] == [tmp_path / "fig5.csv"] and notes == []
