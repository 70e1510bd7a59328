import os

import numpy as np
import pytest
from conftest import name, write_image

from datasets.ground_truth import read_positives, within_distance, within_frames
from datasets.image_lists import list_images
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


def by_hand(database_m, queries_m, threshold_m):
    offsets_m = database_m[None] - queries_m[:, None]
    squared = offsets_m[..., 0] ** 2 + offsets_m[..., 1] ** 2
    return [np.flatnonzero(row <= threshold_m**2).tolist() for row in squared]


def test_threshold_is_inclusive():
    database = np.array([[551_000.0, 4_180_000.0], [551_025.0, 4_180_000.0]])
    queries = np.array([[551_000.0, 4_180_025.0], [551_000.0, 4_180_025.01]])
    assert lists(within_distance(Positions(database, queries), 25.0)) == [[0], []]


@pytest.mark.parametrize("threshold_m", [0.001, 0.5, 25.0, 30_000.0])
def test_positions_at_the_threshold_and_far_apart_equal_brute_force(threshold_m):
    rng = np.random.default_rng(0)
    steps = threshold_m * np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (0.6, 0.8), (0.28, -0.96)])
    queries_m = rng.integers(0, 20, (40, 2)) * threshold_m
    queries_m[::5, 0] += 1e8  # another region
    database_m = (queries_m[:, None] + steps).reshape(-1, 2)  # at the threshold, or a bit off
    database_m = np.concatenate((database_m, queries_m, rng.uniform(0, 1e8, (300, 2))))
    expected = by_hand(database_m, queries_m, threshold_m)
    assert lists(within_distance(Positions(database_m, queries_m), threshold_m)) == expected
    assert min(map(len, expected)) > 0 and max(map(len, expected)) > 4


def test_a_street_map_with_equal_positions_equals_brute_force():
    rng = np.random.default_rng(0)
    origin_m = np.array([551_000, 4_180_000])
    database_m = origin_m + rng.uniform(0, 400, (1000, 2)).round(2).repeat(3, axis=0)
    queries_m = origin_m + rng.uniform(-50, 450, (60, 2)).round(2)
    expected = by_hand(database_m, queries_m, 25.0)
    assert lists(within_distance(Positions(database_m, queries_m), 25.0)) == expected
    assert min(map(len, expected)) == 0


def test_nothing_is_near():
    far = Positions(np.zeros((3, 2)), np.full((2, 2), 900.0))
    assert lists(within_distance(far, 25.0)) == [[], []]
    nothing = Positions(np.zeros((0, 2)), np.zeros((1, 2)))
    assert lists(within_distance(nothing, 25.0)) == [[]]


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
    (tmp_path / "positives.csv").write_text(text, encoding="utf-8")
    truth = read_positives(tmp_path / "positives.csv", *images)
    assert lists(truth) == [[1, 3], [], [0]]
    assert truth.rule == f"read from {tmp_path / 'positives.csv'}" and truth.threshold_m is None


def test_absolute_paths_are_those_of_predictions_csv(tmp_path, images):
    database, queries = images
    rows = [(queries[0], database[3]), (queries[0], database[1]), (queries[2], database[0])]
    text = "".join(f"{query},{image}\n" for query, image in rows)
    (tmp_path / "positives.csv").write_text(f"query,database\n{text}")
    assert lists(read_positives(tmp_path / "positives.csv", *images)) == [[1, 3], [], [0]]


@pytest.mark.parametrize("dtype", ["int64", "int8", ">i4"])
def test_npy(tmp_path, images, dtype):
    np.save(tmp_path / "positives.npy", np.array([[3, 1], [-1, -1], [0, -1]], dtype))
    truth = read_positives(tmp_path / "positives.npy", *images)
    assert lists(truth) == [[1, 3], [], [0]]
    assert all(row.dtype == np.int64 for row in truth.positives_per_query)
    unsigned = np.asfortranarray([[1, 3], [2, 2], [0, 0]], np.uint8)
    np.save(tmp_path / "positives.npy", unsigned)
    assert lists(read_positives(tmp_path / "positives.npy", *images)) == [[1, 3], [2], [0]]


def ragged(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


class Bomb:
    def __reduce__(self):
        return os.system, ("touch bomb_went_off",)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("positives.csv", "0,1\n", "must begin with the line 'query,database'"),
        ("positives.csv", "", "must begin with the line 'query,database'"),
        ("positives.csv", "query,database\n0,1,2\n", "1 lines do not have two cells"),
        (
            "positives.csv",
            "query,database\n0,9\n",
            "1 images that are not in .*database, .* 9",
        ),
        ("positives.csv", "query,database\nq7.jpg,1\n", "not in .*queries.* for example q7.jpg"),
        ("positives.txt", "0 1", "read from .csv or .npy"),
        ("positives.npy", "not an array", "cannot be read as .*Save positives as a CSV"),
        ("positives.npy", np.zeros((2, 1), int), "has 2 rows of positives for 3 queries"),
        (
            "positives.npy",
            np.full((3, 1), 4),
            "images 4 to 4; there are 4, counted from 0",
        ),
        ("positives.npy", np.full((3, 1), -2), "database images -2 to -2; there are 4"),
        ("positives.npy", np.full((3, 1), 2**64 - 1, np.uint64), "database images -1 to -1"),
        ("positives.npy", np.zeros((3, 1)), "2-dimensional array of float64, not a matrix of int"),
        ("positives.npy", np.array([[True, False]] * 3), "2-dimensional array of bool"),
        ("positives.npy", np.zeros((3, 2, 2), int), "3-dimensional array of int64"),
        ("positives.npy", np.zeros(3, int), "1-dimensional array of int64"),
        (
            "positives.npy",
            ragged([3, 1], [], [0]),
            "as a CSV with the columns query",
        ),
        ("positives.npy", ragged(Bomb(), 1, 2), "Save positives as a CSV"),
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
    file = tmp_path / "positives.csv"
    file.write_text(f"query,database\nq.jpg,{name(1, 2)}\n")
    with pytest.raises(ValueError, match="or are there several times"):
        read_positives(file, *paths)
    file.write_text(f"query,database\nq.jpg,b/{name(1, 2)}\n")
    assert lists(read_positives(file, *paths)) == [[1]]


def test_missing_file(tmp_path, images):
    with pytest.raises(FileNotFoundError, match="no file of positives .*gone.npy"):
        read_positives(tmp_path / "gone.npy", *images)
