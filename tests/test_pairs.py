"""Pairs for COLMAP and hloc, of runs as eval.py leaves them."""

import csv
import os

import pytest
from report_runs import CSV_RANKS, write_run

from datasets.tables import TABLE
from tools.pairs import main


def saved_rows(folder):
    with open(folder / "predictions.csv", **TABLE) as file:
        return list(csv.DictReader(file))


def read_as_hloc_does(file):
    """Each line must have two words."""
    retrieval = {}
    for line in file.read_text().rstrip("\n").split("\n"):
        query, image = line.split()
        retrieval.setdefault(query, []).append(image)
    return retrieval


def rewrite(folder, change):
    """Change the text of predictions.csv."""
    file = folder / "predictions.csv"
    file.write_text(change(file.read_text()))


def test_pairs_are_the_top_k_with_paths_below_the_common_folder(tmp_path):
    folder = write_run(tmp_path / "run", num_queries=3)
    main([str(folder), "--k=2"])
    expected = {}
    for row in saved_rows(folder):
        if int(row["rank"]) <= 2:
            query, image = (os.path.relpath(row[key], folder) for key in ("query", "prediction"))
            assert query.startswith("queries/@") and image.startswith("database/@")
            expected.setdefault(query, []).append(image)
    assert read_as_hloc_does(folder / "pairs_2.txt") == expected
    assert {len(images) for images in expected.values()} == {2} and len(expected) == 3


def test_another_file_and_another_root(tmp_path, capfd):
    folder = write_run(tmp_path / "run", num_queries=3)
    main([str(folder), "--k=1", f"--out={tmp_path / 'a.txt'}", f"--image_root={tmp_path}"])
    pairs = read_as_hloc_does(tmp_path / "a.txt")
    assert all(query.startswith("run/queries/") for query in pairs) and len(pairs) == 3
    assert (tmp_path / pairs.popitem()[1][0]).is_file()


def test_more_pairs_than_the_run_has_name_the_flag(tmp_path, refused):
    folder = write_run(tmp_path / "run", num_queries=3)
    said = refused(main, [str(folder), "--k=30"], 1)
    assert f"has {CSV_RANKS} predictions per query, not 30" in said
    assert "--recall_values 1 5 10 20 30" in said and not (folder / "pairs_30.txt").exists()


def test_a_small_database_gives_all_that_it_has(tmp_path):
    folder = write_run(tmp_path / "run", num_queries=3, num_database=CSV_RANKS)
    main([str(folder)])
    pairs = read_as_hloc_does(folder / "pairs_20.txt")
    assert {len(images) for images in pairs.values()} == {CSV_RANKS}


def test_queries_without_predictions_are_counted(tmp_path, caplog):
    folder = write_run(tmp_path / "run", num_queries=3)
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    rewrite(folder, lambda text: "".join(line for line in lines if not line.startswith("1,")))
    main([str(folder), "--k=5"])
    assert "1 queries without predictions are left out" in caplog.text
    assert len(read_as_hloc_does(folder / "pairs_5.txt")) == 2


def test_a_query_is_not_paired_with_itself(tmp_path):
    folder = write_run(tmp_path / "run", num_queries=1)
    first = saved_rows(folder)[0]
    rewrite(folder, lambda text: text.replace(first["query"], first["prediction"]))
    main([str(folder), "--k=5"])
    [(query, images)] = read_as_hloc_does(folder / "pairs_5.txt").items()
    assert len(images) == 4 and query not in images


@pytest.mark.parametrize(
    ("change", "flags", "sentence"),
    [
        (lambda text: text.replace("/queries/@", "/queries/my photo@"), [], "has white space"),
        (lambda text: text, ["--image_root=/nowhere"], "is not below /nowhere: give another"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path, refused, change, flags, sentence):
    folder = write_run(tmp_path / "run", num_queries=3)
    rewrite(folder, change)
    assert sentence in refused(main, [str(folder), "--k=1", *flags], 1)


def test_folders_that_are_no_single_run(tmp_path, refused):
    assert "was that run finished?" in refused(main, [str(tmp_path)], 1)
    for name in ("one", "other"):
        write_run(tmp_path / name, num_queries=1, dataset=name)
    said = refused(main, [str(tmp_path)], 1)
    assert f"give the folder of one, {tmp_path / 'one'} or {tmp_path / 'other'}" in said
    folder = write_run(tmp_path / "third", num_queries=1, database_folder=None)
    assert "give --image_root" in refused(main, [str(folder)], 1)
