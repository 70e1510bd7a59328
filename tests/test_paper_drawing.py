import csv
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.figure import Figure
from PIL import Image

from paper import drawing
from paper.drawing import (
    COLUMN_IN,
    PAGE_IN,
    new_figure,
    save_figure,
    save_measured,
    styled,
    write_message,
    write_thousands,
    write_values,
)

NOTE_RED = np.array([0xB3, 0x26, 0x1E])
DRAW = """
from pathlib import Path
from paper.drawing import new_figure, save_figure
figure, axes = new_figure(3.3, 2)
axes.plot([1, 2], [3, 4], label="R@1")
axes.legend()
save_figure(figure, Path({folder!r}), "fig9", "a note")
"""


def draw_line(note="", folder=None):
    figure, axes = new_figure(COLUMN_IN, 2)
    axes.plot([1, 2, 3], [3, 1, 2])
    axes.set(xlabel="descriptor dimension", ylabel="R@1 (%)")
    return save_figure(figure, folder, "fig9", note)


def count_red(picture):
    return (abs(np.array(picture, int) - NOTE_RED).sum(axis=2) < 30).sum()


def test_sizes_in_print_and_fonts(tmp_path):
    pdf, png = draw_line(folder=tmp_path / "new" / "folder")
    assert (pdf.name, png.name) == ("fig9.pdf", "fig9.png")
    with Image.open(png) as picture:
        assert picture.size == (660, 400), "3.3 x 2 inches of 200 dots"
    content = pdf.read_bytes()
    points = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content).groups()
    np.testing.assert_allclose(np.array(points, float), [72 * 3.3, 72 * 2], atol=0.1)
    assert b"/FontFile2" in content and b"/Type3" not in content, "TrueType, embedded"
    assert sorted(os.listdir(pdf.parent)) == ["fig9.pdf", "fig9.png"], "nothing half-written"


def test_a_note_is_printed_below_and_the_figure_grows(tmp_path):
    _, plain = draw_line(folder=tmp_path / "plain")
    _, noted = draw_line("mini city: not the paper's data", folder=tmp_path / "noted")
    _, long = draw_line("not the paper's data " * 6, folder=tmp_path / "long")
    plain, noted, long = (Image.open(png).convert("RGB") for png in (plain, noted, long))
    assert plain.width == noted.width == long.width
    assert plain.height < noted.height < long.height
    assert count_red(plain) == 0 < count_red(noted) < count_red(long)
    height = plain.height
    np.testing.assert_array_equal(np.array(noted)[:height], np.array(plain), "only below it")
    for picture in (noted, long):
        red = np.argwhere(abs(np.array(picture, int) - NOTE_RED).sum(axis=2) < 30)
        assert red[:, 0].min() >= height and red[:, 1].min() > 5
        assert red[:, 1].max() < picture.width - 5, "no line is cut off"


def test_a_saved_figure_stays_as_it_is(tmp_path):
    figure, _ = new_figure(COLUMN_IN, 2)
    first = [file.read_bytes() for file in save_figure(figure, tmp_path, "a", "note")]
    again = [file.read_bytes() for file in save_figure(figure, tmp_path, "b", "note")]
    assert first == again and not figure.texts


def test_two_processes_write_the_same_bytes(tmp_path):
    """Slow: two processes that import matplotlib."""
    contents = []
    for run in ("1", "2"):
        folder = tmp_path / run
        environment = os.environ | {"PYTHONHASHSEED": run, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", DRAW.format(folder=str(folder))]
        subprocess.run(command, env=environment, check=True, timeout=120)
        contents.append([(folder / f"fig9.{kind}").read_bytes() for kind in ("pdf", "png")])
    assert contents[0] == contents[1]
    assert b"Date" not in contents[0][0]


def test_style_of_the_user_does_not_count_and_comes_back(tmp_path):
    _, expected = draw_line(folder=tmp_path / "a")
    mine = {"font.size": 31, "axes.facecolor": "red", "pdf.fonttype": 3}
    with matplotlib.rc_context(mine):
        _, png = draw_line(folder=tmp_path / "b")
        assert {key: matplotlib.rcParams[key] for key in mine} == mine
    assert png.read_bytes() == expected.read_bytes()


def test_style_holds_while_a_decorated_function_runs():
    @styled
    def get_size(name):
        return matplotlib.rcParams[name]

    assert [get_size("xtick.labelsize"), get_size("pdf.fonttype")] == [7, 42]
    assert matplotlib.rcParams["pdf.fonttype"] == matplotlib.rcParamsDefault["pdf.fonttype"]
    colours = get_size("axes.prop_cycle").by_key()["color"]
    assert len(set(colours)) == len(colours) == 7


def test_panels_share_what_they_are_told_to():
    figure, panels = new_figure(PAGE_IN, 2, columns=5, sharey=True)
    assert panels.shape == (5,) and tuple(figure.get_size_inches()) == (7, 2)
    panels[0].set_ylim(3, 4)
    assert panels[4].get_ylim() == (3, 4)


def test_thousands_on_linear_and_logarithmic_axes():
    for scale, expected in (("linear", "12,000"), ("log", "10,000")):
        figure, axes = new_figure(COLUMN_IN, 2)
        axes.set_yscale(scale)
        axes.set_ylim(7000, 13_000)
        write_thousands(axes.yaxis)
        figure.canvas.draw()
        labels = [text.get_text() for text in axes.get_yticklabels(which="both")]
        assert expected in labels and not any("$" in label for label in labels)


def test_a_message_stands_inside_its_panel():
    figure, panels = new_figure(COLUMN_IN, 2, columns=2)
    write_message(panels[0], "None of 1,000 queries has a year in its file name, so no bar")
    figure.canvas.draw()
    (text,) = panels[0].texts
    box = text.get_window_extent()
    half = figure.bbox.width / 2
    assert box.x0 >= 0 and box.x1 <= half and not panels[0].axison


def test_values_are_written_whole_with_any_name(tmp_path):
    name = os.fsdecode(b"caf\xe9,\n.jpg")
    path = write_values([(1, name), (2, "é")], ("row", "image"), tmp_path / "new", "fig4")
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["row", "image"], ["1", name], ["2", "é"]]

    def fail():
        yield (1, 2)
        raise ValueError("in the middle")

    before = path.read_bytes()
    with pytest.raises(ValueError, match="in the middle"):
        write_values(fail(), ("row", "image"), path.parent, "fig4")
    assert path.read_bytes() == before and os.listdir(path.parent) == ["fig4.csv"]


HEADER = ("value", "mean", "missing")


@pytest.fixture
def notes(monkeypatch):
    """Return what will hold the notes of the figures that are saved."""
    kept = []
    save = drawing.save_figure

    def keep(figure, folder, name, note):
        kept.append(note)
        return save(figure, folder, name, note)

    monkeypatch.setattr(drawing, "save_figure", keep)
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
