"""Folders of runs whose files hold other things than ours: sentences that name the file."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from paper_runs import make_sets, write_evaluation, write_training
from report_runs import write_run

from paper.run_log import RunLog, TrainingRun
from reports.compare import compare_folders, format_comparisons
from reports.comparison import Bootstrap
from reports.report_page import check_recalls, describe_protocol
from reports.run_files import read_run_arrays
from runs.provenance import record_start

VALUES = (
    *(None, True, -1, 0, 1.5, math.nan, math.inf, 10**30, "x", "=1", "\ud800"),
    *([], {}, [[]], [1], ["a"], {"a": {}}, {"a": None}, {"R@1": math.nan}, {"R@1": "5"}),
    {"database": {"24x32": "x"}},
)
DEEP = "[" * 900 + "]" * 900  # json reads it where recursion ends at 1000 calls
OF_ANOTHER_KIND = {
    "texts": lambda array: array.astype(str),
    "complex numbers": lambda array: array.astype(complex),
    "dates": lambda array: np.zeros(array.shape, "M8[s]"),
    "raw bytes": lambda array: np.zeros(array.shape, "V8"),
    "records": lambda array: np.zeros(array.shape, [("a", int)]),
    "nothing": lambda array: np.zeros((), array.dtype),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "run"), write_run(folder / "other")


def read_by_all(runs):
    run = read_run_arrays(runs[0])
    describe_protocol(run.results)
    check_recalls(run)
    bootstrap = Bootstrap(100, 0)
    format_comparisons(compare_folders(runs, bootstrap), bootstrap)


def test_values_of_other_kinds_in_results_are_shown_or_refused(runs):
    file = runs[0] / "results.json"
    good, refused = json.loads(file.read_text()), set()
    for key in good:
        for value in VALUES:
            file.write_text(json.dumps(good | {key: value}))
            try:
                read_by_all(runs)
            except ValueError as error:
                refused.add(key)
                assert str(runs[0]) in str(error) and "\n" not in str(error)
    file.write_text(json.dumps(good))
    read_by_all(runs)
    kinds = {"dataset", "num_queries", "num_database", "recalls", "threshold_m", "resize"}
    assert refused >= kinds | {"queries_folder", "database_folder", "image_sizes", "notes"}


def test_deeply_nested_results_are_refused(runs):
    file = runs[0] / "results.json"
    good = file.read_text()
    for deep in (DEEP, "[" * 99_999, '{"a":' * 60 + "1" + "}" * 60):
        file.write_text(f'{good[:-1]}, "orientation": {deep}}}')
        with pytest.raises(ValueError, match=r"results\.json is damaged: it is nested too deeply"):
            read_by_all(runs)
    file.write_text(good)


@pytest.mark.parametrize("kind", OF_ANOTHER_KIND)
def test_arrays_of_other_kinds_are_refused(runs, kind):
    file = runs[0] / "predictions.npz"
    with np.load(file) as arrays:
        good = dict(arrays)
    for name, array in good.items():
        np.savez(file, **good | {name: OF_ANOTHER_KIND[kind](array)})
        with pytest.raises(ValueError, match=r"predictions\.npz") as error:
            read_run_arrays(runs[0])
        assert name in str(error.value) and "\n" not in str(error.value)
    np.savez(file, **good)
    read_run_arrays(runs[0])


def test_the_paper_leaves_damaged_runs_out_and_says_so(tmp_path, caplog):
    data = make_sets(tmp_path / "data", "pitts30k")
    logs = tmp_path / "logs"
    recalls = {"pitts30k": {"R@1": 50.0, "R@5": 60.0, "R@10": 70.0}}
    for number in range(6):
        write_evaluation(logs / f"{number}", {"model": "m"}, recalls, data)
    for number, text in enumerate(("[" * 99_999, "[1]", '{"patience": "3"}', "{", DEEP)):
        (logs / f"{number}" / "args.json").write_text(text)
    (logs / "5" / "pitts30k" / "results.json").write_text(DEEP)
    log = RunLog(logs, str(data))
    log.refresh()
    assert log._runs.keys() == {logs / "5"} and not log._results
    assert len(caplog.messages) == 6  # each once
    for number in range(5):
        assert sum(str(logs / f"{number}" / "args.json") in one for one in caplog.messages) == 1
    assert "args.json is damaged: patience has a value of another kind" in caplog.text
    assert "results.json is damaged: it is nested too deeply; its results are left" in caplog.text


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "is not JSON"),
        ("[1]", "is damaged: it holds a list, not an object"),
        ('{"R@1": "5"}', "is damaged: R@1 is not a number"),
        ('{"R@5": 5}', "is damaged: R@1 is not a number"),
        ("[" * 99_999, "is damaged: it is nested too deeply"),
    ],
)
def test_damaged_metrics_are_named(tmp_path, line, reason):
    folder = write_training(tmp_path / "run", ["--dataset=mini_city"], [50.0])
    (folder / "metrics.jsonl").write_text('{"R@1": 5}\n' + line + "\n")
    [run] = RunLog(tmp_path, "data")._runs
    with pytest.raises(ValueError, match=rf"Line 2 of .*metrics\.jsonl {reason}"):
        _ = TrainingRun(run, 2, True, run / "best_model.pth").best_val_recall


@pytest.mark.parametrize("text", ["{}", "[" * 99_999, "\udcff", "5"])
def test_a_damaged_list_of_starts_begins_anew_and_says_so(tmp_path, caplog, text):
    file = tmp_path / "environment.json"
    file.write_text(text, "utf-8", "surrogateescape")
    with caplog.at_level(logging.WARNING):
        record_start(tmp_path, torch.device("cpu"))
    assert len(json.loads(file.read_text())) == 1
    assert "environment.json is damaged (it holds no list): it begins anew" in caplog.text
    caplog.clear()
    record_start(tmp_path, torch.device("cpu"))
    assert len(json.loads(file.read_text())) == 2 and not caplog.records
