import json
import re

import numpy as np
import pytest
from comparison_runs import NUM_RANKS, Page, compare, make_run, make_two_runs, read_cells, read_csv

from eval import main as eval_main
from reports.compare import main
from reports.statistics import bootstrap_intervals


@pytest.fixture
def two_runs(tmp_path):
    return make_two_runs(tmp_path)


def make_results(folder, dataset, recalls, pictures=False):
    folder.mkdir()
    result = {"dataset": dataset, "num_queries": 200, "num_database": 3660, "recalls": recalls}
    (folder / "results.json").write_text(json.dumps(result))
    if pictures:
        (folder / "preds").mkdir()
    return str(folder)


def test_recalls_stand_side_by_side(tmp_path, caplog):
    before = make_results(tmp_path / "before", "city", {"R@1": 29.5, "R@5": 64.5, "R@10": 78.0})
    after = make_results(tmp_path / "after", "city", {"R@1": 57.0, "R@5": 81.0}, pictures=True)
    with caplog.at_level("INFO"):
        main([before, after])
    lines = [line.split() for line in caplog.messages[0].splitlines()]
    assert lines[0] == ["before", "after"]
    assert ["R@1", "29.5", "57.0"] in lines and ["R@5", "64.5", "81.0"] in lines
    assert not any("R@10" in line for line in lines), "only what both have"
    assert ["database", "images", "3,660", "3,660"] in lines
    assert f"Pictures of after: {after}/preds" in caplog.text
    assert "Pictures of before" not in caplog.text
    assert f"There is no {before}/predictions.csv: no intervals, no test." in caplog.text
    assert "McNemar" not in caplog.text and "bootstrap" not in caplog.text


def test_different_data_sets_are_pointed_out(tmp_path, caplog):
    runs = [make_results(tmp_path / name, name, {"R@1": 50.0}) for name in ("v1", "v2")]
    with caplog.at_level("INFO"):
        main(runs)
    assert "Different data sets: these recalls are not comparable (v1 and v2)" in caplog.text


def test_queries_are_paired_by_path_and_counted(two_runs, caplog):
    text, cells = compare([*two_runs, "--num_resamples=2000", "--seed=4"], caplog)
    assert "The top-1 of 8 queries is correct only in after, that of 1 only in before" in text
    p_value = 2 * (1 + 9) / 2**9
    assert f"won 8, lost 1, p = {p_value:.3f}.\n" in text, "one test needs no correction"
    assert "chance hardly explains this" in text

    numbers = np.arange(40)
    before, after = (
        numbers < 12,
        (numbers < 12) & (numbers != 3) | ((numbers >= 30) & (numbers < 38)),
    )
    columns = (before, after, after * 1 - before * 1)
    for cell, column, sign in zip(cells["R@1"], columns, ("", "", "+"), strict=True):
        ((low, high),) = bootstrap_intervals(100 * column[:, None], 2000, seed=4)
        written = [float(number) for number in re.findall(r"[-+]?\d+\.\d", cell)]
        # intervals of several R@N are drawn together: the same distribution, other draws
        np.testing.assert_allclose(written, [100 * column.mean(), low, high], atol=2.6)
        assert cell.startswith(sign)
    assert cells["R@3"][2].startswith("+20.0 [")
    assert cells["R@20"] == ["50.0", "70.0", "-"], "only 3 ranks were kept"


def test_a_run_has_the_same_interval_beside_any_other(two_runs, tmp_path, caplog):
    pair = compare(two_runs, caplog)[1]
    alone = compare(two_runs[:1], caplog)[1]
    assert alone["R@1"] == pair["R@1"][:1] and "[" in alone["R@1"][0]
    assert compare(two_runs, caplog)[1] == pair


def test_many_runs_are_compared_with_the_first_and_corrected(two_runs, tmp_path, caplog):
    best = make_run(tmp_path / "best", dict.fromkeys(range(40), 1), tmp_path / "data")
    same = make_run(
        tmp_path / "again", {n: 1 if n < 12 else None for n in range(40)}, tmp_path / "data"
    )
    out = tmp_path / "out"
    text, cells = compare([*two_runs, best, same, f"--out={out}"], caplog)
    assert len(cells["R@1"]) == 4 + 3
    assert "again and before have a correct top-1 for the same queries." in text
    assert "corrected for 3 comparisons by Holm's method" in text
    rows = {row["run"]: row for row in read_csv(out / "comparison.csv") if row["recall"] == "R@1"}
    p_after, p_best = 2 * (1 + 9) / 2**9, 2 / 2**28
    expected = {"after": (p_after, 2 * p_after), "best": (p_best, 3 * p_best), "again": (1, 1)}
    for run, p_values in expected.items():
        written = float(rows[run]["p_value"]), float(rows[run]["p_value_holm"])
        assert written == pytest.approx(p_values)
        assert rows[run]["baseline"] == "before"
    assert rows["before"]["p_value"] == rows["before"]["difference"] == ""
    assert (rows["best"]["won"], rows["best"]["lost"]) == ("28", "0")
    assert float(rows["best"]["difference"]) == pytest.approx(70)


@pytest.mark.parametrize(
    ("queries", "changes", "sentence"),
    [
        ((0, 1), {}, "Different queries, 3 and 2"),
        ((0, 1, 7), {}, "Different queries, 2 of 3 are in both"),
        ((0, 1, 2), {"num_database": 501}, "Different database images, 500 and 501"),
        ((0, 1, 2), {"positives": "same frame"}, "Different positives, UTM distance of"),
        ((0, 1, 2), {"threshold_m": 5.0}, "Different thresholds in metres, 25.0 and 5.0"),
        ((0, 1, 2), {"dataset": "town"}, "Different data sets"),
    ],
)
def test_what_does_not_compare_is_said(tmp_path, caplog, queries, changes, sentence):
    runs = [
        make_run(tmp_path / "before", {0: 1, 1: 2, 2: None}, tmp_path),
        make_run(tmp_path / "after", dict.fromkeys(queries, 1), tmp_path, **changes),
    ]
    text, cells = compare(runs, caplog)
    assert sentence in text and "these recalls are not comparable (before and after)" in text
    assert "McNemar" not in text and len(cells["R@1"]) == 2, "the table alone"


def test_what_differs_beside_the_models_is_said(tmp_path, caplog):
    ranks = {0: 1, 1: None, 2: 2}
    older = {"resize": "480", "num_unreadable": {"database": 1, "queries": 0}}
    newer = {"search": "IVF", "num_unreadable": {"database": 0, "queries": 0}}
    runs = [
        make_run(tmp_path / "before", ranks, tmp_path / "here", **older),
        make_run(tmp_path / "after", ranks, tmp_path / "there", **newer),
    ]
    text, cells = compare(runs, caplog)
    assert "Beside the models, resizing differs: 480 in before, none in after." in text
    assert "images differs: 1 database and 0 queries in before, 0 database and 0 queries" in text
    assert f"the folder of the queries differs: {tmp_path}/here/queries in before" in text
    assert "the search differs" not in text, "the older run does not say how it searched"
    assert len(cells["R@1"]) == 3, "data sets that lie elsewhere are paired all the same"


def test_unreadable_queries_count_as_misses(tmp_path, caplog):
    before = {0: 1, 1: 1, 2: "unread", 3: "unread"}
    after = {0: 1, 1: "unread", 2: 1, 3: "unread"}
    runs = [
        make_run(tmp_path / name, ranks, tmp_path / "data")
        for name, ranks in (("before", before), ("after", after))
    ]
    text, cells = compare([*runs, f"--out={tmp_path / 'out'}"], caplog)
    assert [cell.split()[0] for cell in cells["R@1"]] == ["50.0", "50.0", "+0.0"]
    assert "won 1, lost 1, p = 1.000" in text and "chance may explain this" in text
    assert "before has no predictions for 2 queries: they count as misses." in text
    assert (
        "could not be read, or the search found nothing for it"
        in (tmp_path / "out" / "comparison.html").read_text()
    )


def test_runs_get_names(two_runs, caplog, refused):
    text, _ = compare([*two_runs, "--num_resamples=100", "--names", "old", "new b"], caplog)
    assert "new b - old" in text
    line = [*map(str, two_runs), "--names", "one", "one"]
    assert "give 2 different names" in refused(main, line, 2)


def test_runs_without_labels_and_mismatched_files_have_no_test(two_runs, tmp_path, caplog):
    blind = make_run(
        tmp_path / "blind", dict.fromkeys(range(40)), tmp_path, labels=False, recalls={}
    )
    text, cells = compare([two_runs[0], blind], caplog)
    assert "blind was evaluated without labels: it has no recalls to compare." in text
    assert cells["R@1"][1] == "-" and "[" in cells["R@1"][0]

    other = make_run(tmp_path / "other", {0: 1, 1: 1}, tmp_path, recalls={"R@1": 50.0})
    assert (
        "predictions.csv of other gives R@1 100.00, its results.json says 50.00"
        in compare([two_runs[0], other], caplog)[0]
    )
    longer = make_run(tmp_path / "longer", {0: 1, 1: 1}, tmp_path, num_queries=1)
    assert "longer is of 2 queries, its results.json of 1" in compare([longer], caplog)[0]


def test_a_query_that_is_listed_twice_has_no_intervals(two_runs, tmp_path, caplog):
    file = tmp_path / "after" / "predictions.csv"
    header, *rows = file.read_text().splitlines()
    again = [f"40,{row.split(',', 1)[1]}" for row in rows[:NUM_RANKS]]
    file.write_text("\n".join([header, *rows, *again]) + "\n")
    text, cells = compare(two_runs, caplog)
    assert "The predictions.csv of after has the query 039.jpg twice: queries cannot be" in text
    assert "McNemar" not in text and len(cells["R@1"]) == 2
    assert "[" in cells["R@1"][0] and cells["R@1"][1] == "47.5"


def test_nothing_is_overwritten(two_runs, tmp_path, refused):
    out = tmp_path / "out"
    out.mkdir()
    (out / "comparison.md").write_text("mine")
    assert "already holds comparison.md: give another --out" in refused(
        main, [*two_runs, f"--out={out}"], 1
    )
    assert [file.read_text() for file in out.iterdir()] == ["mine"]
    assert "is not a folder" in refused(main, [*two_runs, f"--out={out / 'comparison.md'}"], 1)


def test_sets_of_a_run_are_compared_one_by_one(tmp_path, caplog, refused):
    hits = {"v1": ([1, 1, None], [1, None, None]), "v2": ([1, None, None], [1, 1, 1])}
    for dataset, runs in hits.items():
        for name, ranks in zip(("a", "b"), runs, strict=True):
            folder = tmp_path / name / dataset
            make_run(folder, dict(enumerate(ranks)), tmp_path / dataset, dataset=dataset)
    make_run(tmp_path / "b" / "v3", {0: 1}, tmp_path / "v3", dataset="v3")
    runs = [str(tmp_path / name) for name in ("a", "b")]
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        main([*runs, f"--out={out}", "--num_pictures=0"])
    assert caplog.messages[0] == "Not in all runs: v3 of b"
    lines = [line.split() for line in caplog.messages[1].splitlines()]
    assert ["data", "set", "v1", "v1"] in lines and ["data", "set", "v2", "v2"] in lines
    overview = lines[lines.index(["R@1", "a", "b", "b", "-", "a"]) :]
    assert [overview[1][0], overview[1][1]] == ["v1", "66.7"] and overview[2][:2] == ["v2", "33.3"]
    assert "corrected for 2 comparisons" in caplog.text
    page = Page((out / "comparison.html").read_text(encoding="utf-8"))
    assert page.text.index("All test sets") < page.text.index(
        "top-1 of 0 queries is correct only in b"
    )
    assert (out / "comparison.md").read_text().count("\n## ") == 3
    assert {row["set"] for row in read_csv(out / "comparison.csv")} == {"v1", "v2"}


def test_run_on_one_set_is_compared_with_a_set_of_another(tmp_path, caplog):
    for dataset in ("v1", "v2"):
        make_run(tmp_path / "a" / dataset, {0: 1, 1: None}, tmp_path / dataset, dataset=dataset)
    one = make_run(tmp_path / "one", {0: 1, 1: 1}, tmp_path / "v2", dataset="v2")
    with caplog.at_level("INFO"):
        main([str(tmp_path / "a"), one])
    assert "The top-1 of 1 query is correct only in one" in caplog.text
    assert caplog.messages[0] == "Not in all runs: v1 of a"


def test_runs_without_a_common_set_are_refused(tmp_path, refused):
    for dataset in ("v1", "v2"):
        make_run(tmp_path / "a" / dataset, {0: 1}, tmp_path, dataset=dataset)
    make_run(tmp_path / "town", {0: 1}, tmp_path, dataset="town")
    text = "The runs have no test set in common: a has v1, v2; town has town"
    assert text in refused(main, ["a", "town"], 1)


def test_runs_of_one_name_are_told_apart_by_their_paths(two_runs, tmp_path, caplog):
    again = make_run(tmp_path / "x" / "after", dict.fromkeys(range(40), 1), tmp_path / "data")
    text, _ = compare([two_runs[1], again], caplog)
    assert f"The top-1 of 21 queries is correct only in {again}" in text


def test_unfinished_runs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*results.json: was that run finished"):
        main([str(tmp_path)])


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--num_pictures=-1"], "--num_pictures must be at least 0, it is -1"),
        (["--num_resamples=5"], "--num_resamples must be at least 100"),
        (["--seed=-1"], "--seed must be at least 0"),
        (["."], "a run is given twice"),
    ],
)
def test_flags_out_of_range_are_refused(tmp_path, refused, flags, text):
    assert text in refused(main, [str(tmp_path), *flags], 2)


def test_evaluations_are_compared(datasets_folder, tmp_path, capsys):
    common = [f"--datasets_folder={datasets_folder}", "--dataset=mini_city_test_v1"]
    common += ["--untrained", "--backbone_weights=none"]
    common += ["--fc_output_dim=8", "--device=cpu", "--num_workers=0"]
    runs = [str(tmp_path / f"seed{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        eval_main([*common, f"--seed={seed}", f"--save_dir={run}"])
    capsys.readouterr()
    main([*runs, f"--out={tmp_path / 'out'}"])  # an evaluation has set up the logging
    text = capsys.readouterr().out
    cells = read_cells(text)
    right = [
        {row["query"]: row["correct"] == "1" for row in rows if row["rank"] == "1"}
        for rows in (read_csv(tmp_path / f"seed{seed}" / "predictions.csv") for seed in (0, 1))
    ]
    won = sum(right[1][query] and not right[0][query] for query in right[0])
    lost = sum(right[0][query] and not right[1][query] for query in right[0])
    assert won + lost > 0, "or this shows nothing"
    assert f"won {won}, lost {lost}, p = " in text
    assert set(cells) == {"R@1", "R@5", "R@10", "R@20"} and all("[" in c for c in cells["R@20"])
    page = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == 7 * (won + lost)
    assert "cannot be shown" not in page.text
