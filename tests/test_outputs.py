"""What the targets of paper.reproduce write."""

import pytest
from paper_studies import KnownNumbers, make_study

from paper.outputs import TARGETS, list_needs, write_targets
from paper.scales import MINI


def test_every_table_and_figure_is_a_target():
    names = [f"table{n}" for n in range(1, 5)] + [f"fig{n}" for n in range(1, 8)] + ["claims"]
    assert list(TARGETS) == names


def test_all_targets_can_be_written_without_any_run(tmp_path):
    numbers = KnownNumbers(datasets_folder=str(tmp_path / "nothing"))
    study = make_study(numbers, scale=MINI)
    shown = "\n".join(write_targets(TARGETS, study, tmp_path / "out"))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {f"table{n}.{end}" for n in range(1, 5) for end in ("txt", "md", "csv", "tex")}
    figures = {f"fig{n}.{end}" for n in (5, 6) for end in ("pdf", "png", "csv")}
    assert written == tables | figures | {"fig7.csv", "claims.md"}
    assert "not implemented yet" in shown and "CANNOT BE JUDGED YET" in shown
    assert "fig1 and fig2: The data set mini_city is not at" in shown
    assert "fig4: The data set mini_city_test_v1 is not at" in shown


@pytest.mark.parametrize("name", ["table1.txt", "table1.md", "table1.csv", "table1.tex"])
def test_the_mini_scale_is_marked_on_every_output(tmp_path, name):
    write_targets(["table1", "claims"], make_study(scale=MINI), tmp_path)
    assert "mini city" in (tmp_path / name).read_text()
    assert MINI.mark in (tmp_path / "claims.md").read_text()


def test_claims_and_figures_of_names_need_no_runs():
    study = make_study()
    assert list_needs(["claims", "fig1", "fig2", "fig3", "fig4"], study) == []
    assert len(list_needs(["table1"], study)) == 3
    assert len(list_needs(["table1", "fig7"], study)) == 3 + 9
