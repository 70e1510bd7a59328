"""What the targets of paper.reproduce write."""

import pytest
from paper_studies import KnownNumbers, make_study

from paper.published import TABLES
from paper.reproduce import show_outputs
from paper.scales import MINI
from paper.targets import TARGETS, list_needs, write_target


def test_every_table_and_figure_is_a_target():
    names = [f"table{n}" for n in range(1, 5)] + [f"fig{n}" for n in range(1, 8)] + ["claims"]
    assert list(TARGETS) == names


def test_targets_can_be_written_without_any_run_and_every_file_bears_the_mark(tmp_path):
    study = make_study(scale=MINI)
    names = [*TABLES, "fig5", "fig6", "fig7", "claims"]
    shown = "\n".join(write_target(name, study, tmp_path) for name in names)
    assert "not run" in shown and "CANNOT BE JUDGED YET" in shown
    written = {path.name for path in tmp_path.iterdir()}
    tables = {f"table{n}.{end}" for n in range(1, 5) for end in ("txt", "md", "csv")}
    assert written == tables | {"fig5.csv", "fig6.csv", "fig7.csv", "claims.md"}
    for path in tmp_path.iterdir():
        if path.name != "fig7.csv":
            assert MINI.mark in " ".join(path.read_text().split()), path.name


@pytest.mark.parametrize("name", ["fig1", "fig2", "fig3", "fig4"])
def test_figures_of_names_need_the_data_set(tmp_path, name):
    study = make_study(KnownNumbers(datasets_folder=str(tmp_path / "nothing")), scale=MINI)
    with pytest.raises(FileNotFoundError, match="The data set mini_city.* is not at"):
        write_target(name, study, tmp_path)


def test_only_picks_runs_not_what_is_shown(tmp_path):
    study = make_study(only="max")
    assert len(list_needs(["table1"], study)) == 1
    assert "Average" in write_target("table1", study, tmp_path)


def test_claims_and_figures_of_names_need_no_runs():
    study = make_study()
    assert list_needs(["claims", "fig1", "fig2", "fig3", "fig4"], study) == []
    assert len(list_needs(["table1"], study)) == 3
    assert len(list_needs(["table1", "fig7"], study)) == 3 + 9


def test_figures_without_data_end_with_what_is_missing(tmp_path, monkeypatch, caplog):
    def write(target, study, folder):
        if target == "fig1":
            raise FileNotFoundError("The data set sf_xl is not at data\nExpected: ...")
        return f"text of {target}"

    monkeypatch.setattr("paper.reproduce.write_target", write)
    caplog.set_level("INFO")
    show_outputs(["fig1", "table1"], None, tmp_path)
    assert caplog.messages[-1] == (
        "\nWithout data, not made: fig1. --scale mini draws them on the mini city. All else is in "
        f"{tmp_path}"
    )
    show_outputs(["table1"], None, tmp_path)
    assert caplog.messages[-2:] == ["\ntext of table1", f"\nEverything is in {tmp_path}"]
