"""Figure 5."""

import csv

import numpy as np
import pytest
from drawn_figures import assert_all_is_readable, keep_figures
from paper_studies import KnownNumbers, make_study

from paper.scales import MINI, PAPER
from paper.sweeps import draw_sweeps, sweep_needs, sweep_source


@pytest.mark.parametrize(
    ("flag", "value", "groups"),
    [
        *(("M", 15, 8), ("N", 1, 2), ("N", 2, 8), ("N", 7, 8), ("L", 1, 8), ("L", 3, 8)),
        *(("alpha", 360, 8), ("groups_num", 50, 50), ("groups_num", 1, 1)),
    ],
)
def test_a_sweep_changes_one_flag_and_trains_the_groups_that_there_are(flag, value, groups):
    flags = dict(sweep_source(PAPER, flag, value).flags)
    assert flags.get(flag) == value
    assert flags.get("groups_num", 8) == groups


def test_the_chosen_values_are_one_and_the_same_training():
    chosen = {
        sweep_source(PAPER, flag, value)
        for flag, value in (("M", 10), ("alpha", 30), ("N", 5), ("L", 2), ("groups_num", 8))
    }
    assert chosen == {PAPER.cosplace("ResNet18", 512)}


def test_needs_can_be_one_sweep():
    assert len(sweep_needs(make_study(scale=MINI))) == 14
    needs = sweep_needs(make_study(scale=MINI, only="groups_num"))
    assert [str(need.source) for need in needs] == [
        *("ResNet18 512-D gem groups_num 1", "ResNet18 512-D gem groups_num 4"),
        "ResNet18 512-D gem",
    ]


def test_points_are_means_with_their_spread_and_the_red_line_is_at_the_chosen_value(
    tmp_path, monkeypatch
):
    figures, val = keep_figures(monkeypatch), {}
    for place, value in enumerate(MINI.sweeps["M"]):
        for seed in (0, 1):
            val[sweep_source(MINI, "M", value), seed] = 50.0 + 10 * place + seed
    val = {key: number for key, number in val.items() if key[0] != sweep_source(MINI, "M", 5)}
    study = make_study(KnownNumbers(val=val), scale=MINI, seeds=(0, 1))
    files = draw_sweeps(study, tmp_path)
    assert {file.name for file in files} == {"fig5.pdf", "fig5.png", "fig5.csv"}
    panels = figures["fig5"].axes
    assert len(panels) == 5
    assert_all_is_readable(figures["fig5"])
    line, points = panels[0].get_lines()[:2]
    assert np.unique(line.get_ydata()).tolist() == [60.5] and line.get_color() == "red"
    assert points.get_xdata().tolist() == [1, 2] and points.get_ydata().tolist() == [60.5, 70.5]
    weights = [label.get_fontweight() for label in panels[0].get_xticklabels()]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["5", "10", "20"]
    assert weights[1] == "bold" and "bold" not in (weights[0], weights[2])
    rows = list(csv.DictReader((tmp_path / "fig5.csv").read_text().splitlines()))
    assert [row["value"] for row in rows if row["hyper_parameter"] == "M"] == ["5", "10", "20"]
    first, second = rows[:2]
    assert (first["mean"], first["num_seeds"], first["missing"]) == ("", "0", "not run")
    assert (second["mean"], second["std"], second["chosen"]) == ("60.50", "0.71", "1")


def test_without_any_run_there_is_no_picture_and_no_older_one(tmp_path):
    (tmp_path / "fig5.png").touch()
    [file] = draw_sweeps(make_study(scale=MINI), tmp_path)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert file.name == "fig5.csv" and {row["missing"] for row in rows} == {"not run"}
    assert list(tmp_path.iterdir()) == [file]
