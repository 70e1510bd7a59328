import json

import pytest

from reports.compare import main


def make_run(folder, dataset, recalls, pictures=False):
    folder.mkdir()
    result = {"dataset": dataset, "num_queries": 200, "num_database": 3660, "recalls": recalls}
    (folder / "results.json").write_text(json.dumps(result))
    if pictures:
        (folder / "preds").mkdir()
    return str(folder)


def test_recalls_stand_side_by_side(tmp_path, caplog):
    before = make_run(tmp_path / "before", "city", {"R@1": 29.5, "R@5": 64.5, "R@10": 78.0})
    after = make_run(tmp_path / "after", "city", {"R@1": 57.0, "R@5": 81.0}, pictures=True)
    with caplog.at_level("INFO"):
        main([before, after])
    lines = [line.split() for line in caplog.messages[0].splitlines()]
    assert lines[0] == ["before", "after"]
    assert ["R@1", "29.5", "57.0"] in lines and ["R@5", "64.5", "81.0"] in lines
    assert not any("R@10" in line for line in lines), "only what both have"
    assert ["database", "images", "3,660", "3,660"] in lines
    assert f"Pictures of after: {after}/preds" in caplog.text
    assert "Pictures of before" not in caplog.text


def test_different_data_sets_are_pointed_out(tmp_path, caplog):
    runs = [make_run(tmp_path / name, name, {"R@1": 50.0}) for name in ("v1", "v2")]
    with caplog.at_level("INFO"):
        main(runs)
    assert "Different data sets: these recalls do not compare" in caplog.text


def test_unfinished_runs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*results.json: was that run finished"):
        main([str(tmp_path)])
