import os

import numpy as np
import pytest
from conftest import name, write_image

from datasets.ground_truth import read_positives, within_distance, within_frames
from datasets.image_paths import list_images
from datasets.positions import Positions


def lists(truth):
    return [positives.tolist() for positives in truth.positives_per_query]


def test_positives_equal_brute_force():
    rng = np.random.default_rng(0)
    database = np.array([551_000, 4_180_000]) + rng.uniform(0, 300, (700, 2))
    queries = np.array([551_000, 4_180_000]) + rng.uniform(-50, 350, (90, 2))
    truth = within_distance(Positions(database, queries), 12.5)
    expected = [np.flatnonzero(np.hypot(*(database - query).T) <= 12.5) for query in queries]
    assert lists(truth) == [row.tolist() for row in expected]
    assert min(map(len, expected)) == 0 < max(map(len, expected))
    assert truth.has_positives.tolist() == [len(row) > 0 for row in expected]
    assert (truth.rule, truth.threshold_m) == ("UTM distance of at most 12.5 m", 12.5)


def test_threshold_is_inclusive():
    database = np.array([[551_000.0, 4_180_000.0], [551_025.0, 4_180_000.0]])
    queries = np.array([[551_000.0, 4_180_025.0], [551_000.0, 4_180_025.01]])
    assert lists(within_distance(Positions(database, queries), 25.0)) == [[0], []]


def test_frames():
    truth = within_frames(6, np.array([0, 3, 5]), 1)
    assert lists(truth) == [[0, 1], [2, 3, 4], [4, 5]]
    assert (truth.rule, truth.threshold_m) == ("at most 1 frame away", None)


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        write_image(tmp_path / "database" / "sub" / f"d{number}.jpg")
    for number in range(3):
        write_image(tmp_path / "queries" / f"q{number}.jpg")
    return list_images(tmp_path / "database"), list_images(tmp_path / "queries")


@pytest.mark.parametrize(
    "text",
    [
        "query,database\n0,1\n0,3\n2,0\n",
        "\ufeffQuery, Database\r\nq0.jpg,sub/d3.jpg\r\nq0.jpg,d1.jpg\r\n\r\nq2.jpg,0\r\n",
        "query,database\n0,1\n0,1\nq0.jpg,3\n2,d0.jpg\n",
    ],
)
def test_csv(tmp_path, images, text):
    (tmp_path / "right.csv").write_text(text, encoding="utf-8")
    truth = read_positives(tmp_path / "right.csv", *images)
    assert lists(truth) == [[1, 3], [], [0]]
    assert truth.rule == f"told by {tmp_path / 'right.csv'}" and truth.threshold_m is None


def test_absolute_paths_are_those_of_predictions_csv(tmp_path, images):
    database, queries = images
    rows = [(queries[0], database[3]), (queries[0], database[1]), (queries[2], database[0])]
    text = "".join(f"{query},{image}\n" for query, image in rows)
    (tmp_path / "right.csv").write_text(f"query,database\n{text}")
    assert lists(read_positives(tmp_path / "right.csv", *images)) == [[1, 3], [], [0]]


def ragged(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


@pytest.mark.parametrize(
    "content",
    [
        np.array([[1, 3], [-1, -1], [0, -1]]),
        np.array([[1.0, 3], [-1, -1], [0, -1]], np.float32),
        ragged([3, 1], [], [0]),
        ragged(np.array([1, 3]), np.array([], int), np.array([0])),
        np.array([[2, [0]], [0, [1, 3]], [1, []]], object),
    ],
    ids=["padded", "padded floats", "lists", "arrays", "pairs"],
)
def test_npy(tmp_path, images, content):
    np.save(tmp_path / "right.npy", content, allow_pickle=True)
    assert lists(read_positives(tmp_path / "right.npy", *images)) == [[1, 3], [], [0]]


def test_two_positives_each_are_no_pairs(tmp_path, images):
    np.save(tmp_path / "two.npy", np.array([[0, 1], [1, 2], [2, 3]], object), allow_pickle=True)
    assert lists(read_positives(tmp_path / "two.npy", *images)) == [[0, 1], [1, 2], [2, 3]]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch bomb_went_off",)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("right.csv", "0,1\n", "must begin with the line 'query,database'"),
        ("right.csv", "", "must begin with the line 'query,database'"),
        ("right.csv", "query,database\n0,1,2\n", "1 lines have not two cells"),
        ("right.csv", "query,database\n0,9\n", "names 1 images that are not in .*database, .* 9"),
        ("right.csv", "query,database\nq7.jpg,1\n", "not in .*queries.* for example q7.jpg"),
        ("right.txt", "0 1", "read from .csv or .npy"),
        ("right.npy", "not an array", "is no array of positives"),
        ("right.npy", np.zeros((2, 1), int), "has 2 rows of positives for 3 queries"),
        ("right.npy", np.full((3, 1), 4), "database images 4 to 4; there are 4, numbered from 0"),
        ("right.npy", np.full((3, 1), 0.5), "holds other things than whole numbers"),
        ("right.npy", np.array([[True, False]] * 3), "2-dimensional array of bool"),
        ("right.npy", np.zeros((3, 2, 2), int), "3-dimensional array of int64"),
        ("right.npy", ragged(["a"], [1], [2]), "is no array of positives"),
        ("right.npy", ragged(Bomb(), 1, 2), "asks for .*system, which is no array"),
        ("right.npy", np.array([[0, [1]], [0, [1]], [2, [1]]], object), "does not number"),
    ],
)
def test_bad_files_are_refused(tmp_path, images, monkeypatch, file, content, text):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, str):
        (tmp_path / file).write_text(content)
    else:
        np.save(tmp_path / file, content, allow_pickle=True)
    with pytest.raises(ValueError, match=text):
        read_positives(tmp_path / file, *images)
    assert not (tmp_path / "bomb_went_off").exists()


def test_names_that_stand_for_several_images_are_refused(tmp_path):
    for folder in ("a", "b"):
        write_image(tmp_path / "database" / folder / name(1, 2))
    write_image(tmp_path / "queries" / "q.jpg")
    paths = list_images(tmp_path / "database"), list_images(tmp_path / "queries")
    file = tmp_path / "right.csv"
    file.write_text(f"query,database\nq.jpg,{name(1, 2)}\n")
    with pytest.raises(ValueError, match="or are there several times"):
        read_positives(file, *paths)
    file.write_text(f"query,database\nq.jpg,b/{name(1, 2)}\n")
    assert lists(read_positives(file, *paths)) == [[1]]


def test_missing_file(tmp_path, images):
    with pytest.raises(FileNotFoundError, match="no file of positives .*gone.npy"):
        read_positives(tmp_path / "gone.npy", *images)
