import json
import os
import shutil

import numpy as np
import pytest
from conftest import name, write_image

from datasets.eval_set import load_own_set
from eval import main as eval_main
from evaluation.self_matches import search_others


@pytest.fixture
def folder(tmp_path):
    """Six places 100 m apart; of six queries, one each is a copy, a link to a file, a link to a
    file by another name and in a sub-folder with another position, and three are new photos."""
    root = tmp_path / "set"
    for number in range(6):
        write_image(root / "database" / name(100 * number, 0, pano_id=f"d{number}"))
    database = sorted((root / "database").iterdir())
    (root / "queries" / "sub").mkdir(parents=True)
    shutil.copy(database[0], root / "queries" / name(1, 0, pano_id="copy"))
    os.link(database[1], root / "queries" / database[1].name)
    (root / "queries" / "sub" / name(5000, 0, pano_id="link")).symlink_to(database[2])
    for number in range(3, 6):
        write_image(root / "queries" / name(100 * number + 1, 0, pano_id=f"q{number}"))
    return root


def evaluate(folder, eval_flags, tmp_path, *more):
    eval_main([*eval_flags, f"--test_set_folder={folder}", "--no_report", *more])
    return json.loads((tmp_path / "run" / "results.json").read_text())


def predictions_of(run):
    with np.load(run / "predictions.npz") as arrays:
        return arrays["predictions"]


SELF = {"copy": "d0", "d1": "d1", "link": "d2"}


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--search=fp16"],
        ["--search=IVF2,PQ4x4;nprobe=2"],
        ["--resize_test_imgs=64x64", "--test_method=five_crops"],
    ],
)
def test_queries_that_are_database_images_are_counted(folder, eval_flags, tmp_path, more):
    result = evaluate(folder, eval_flags, tmp_path, *more)
    assert (result["num_self_queries"], result["exclude_self"]) == (3, False)
    (note,) = result["notes"]
    assert note.startswith("3 of 6 queries are database images themselves (same file or same")
    assert "--exclude_self" in note
    assert note in (tmp_path / "run" / "info.log").read_text().partition("R@1:")[2]


def test_excluded_queries_are_neither_predictions_nor_positives(folder, eval_flags, tmp_path):
    with_self = evaluate(folder, eval_flags, tmp_path)
    all_predictions = predictions_of(tmp_path / "run")
    assert all_predictions.shape == (6, 6)
    shutil.rmtree(tmp_path / "run")
    without = evaluate(folder, eval_flags, tmp_path, "--exclude_self")
    predictions = predictions_of(tmp_path / "run")
    queries = list(load_own_set(folder).queries)
    selves = [next((d for q, d in SELF.items() if f"@{q}@" in path), None) for path in queries]
    for all_of_one, of_one, own in zip(all_predictions, predictions, selves, strict=True):
        expected = [image for image in all_of_one if own is None or image != int(own[1])]
        assert of_one[: len(expected)].tolist() == expected
        assert (of_one[len(expected) :] == -1).all()
    assert without["num_self_queries"] == 3 and without["exclude_self"]
    # the one positive of two of these queries was the query itself; the third had none
    assert with_self["num_queries_without_positives"] == 1
    assert without["num_queries_without_positives"] == 3
    assert without["recalls"]["R@20"] == pytest.approx(100 * 3 / 6)
    assert "each is left out of its own" in without["notes"][0]


def test_as_many_predictions_as_without_copies(folder):
    """Of K = 2 where the first three are the query: three others stay."""
    eval_set = load_own_set(folder)
    images = list(eval_set.database)
    for image in images[1:3]:
        shutil.copy(images[0], image)
    asked = []

    def search(k):
        asked.append(k)
        distances = np.repeat(np.float32([[0, 0, 0, 0.01, 0.5, 1]]), 6, axis=0)
        return np.tile(np.arange(6), (6, 1))[:, :k], distances[:, :k], "agreement"

    found = search_others(search, eval_set, np.eye(6, 8), 2, True, True)
    copy = [index for index, path in enumerate(eval_set.queries) if "@copy@" in path][0]
    assert found[2].shape == (6, 2) and found[4] == "agreement"
    assert found[2][copy].tolist() == [3, 4] and found[3][copy].tolist() == pytest.approx(
        [0.01, 0.5]
    )
    assert asked == [2, 6]


def test_files_of_the_same_size_are_compared_and_far_ones_are_not(folder, monkeypatch):
    eval_set = load_own_set(folder)
    compared = []
    monkeypatch.setattr(
        "evaluation.self_matches.filecmp.cmp", lambda *paths, shallow: compared.append(paths)
    )
    distances = np.full((6, 6), 0.9, np.float32)
    distances[2, 3:5] = 0.01
    size = os.path.getsize(eval_set.queries[2])
    for rank, num_bytes in ((3, size + 1), (4, size)):
        with open(eval_set.database[rank], "wb") as file:
            file.write(bytes(num_bytes))
    predictions = np.tile(np.arange(6), (6, 1))

    found = search_others(
        lambda k: (predictions, distances, None), eval_set, np.ones((6, 1)), 6, True, False
    )
    assert compared == [(eval_set.queries[2], eval_set.database[4])] and found[1] == 0
    assert eval_set.notes == found[0].notes


def test_images_that_are_gone(folder):
    """As they may be with saved descriptors."""
    eval_set = load_own_set(folder)
    shutil.rmtree(folder)
    arrays = np.zeros((6, 1), np.int64), np.zeros((6, 1), np.float32), None
    assert search_others(lambda k: arrays, eval_set, np.ones((6, 1)), 1, True, True)[1] == 0
