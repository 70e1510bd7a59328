import numpy as np
import pytest

from evaluation import exact_search
from evaluation.exact_search import RowBlocks, measure_distances, search_exactly

NUM_ROWS, DIM = 300, 24


def descriptors_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_pairs(database, queries, k):
    """Return what a search must: one pair at a time, the smallest distance, then index, first."""
    distances = np.array(
        [
            [
                measure_distances(RowBlocks(row[None]), query[None], np.array([[0]]))
                for row in database
            ]
            for query in queries
        ]
    ).reshape(len(queries), len(database))
    predictions = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return predictions, np.take_along_axis(distances, predictions, axis=1)


def make_database(kind):
    database = descriptors_of(NUM_ROWS, DIM)
    if kind == "equal":
        database[:] = database[0]
    elif kind == "almost equal":  # so that a matrix product cannot tell them apart
        database = np.float32(0.2) + np.float32(1e-5) * database
    elif kind == "repeated":
        database = database[np.arange(NUM_ROWS) // 70]
    elif kind == "lengths":
        database *= np.float32(10) ** np.arange(-3, 3).repeat(50)[:, None].astype(np.float32)
    return database


@pytest.mark.parametrize("kind", ["random", "equal", "almost equal", "repeated", "lengths"])
@pytest.mark.parametrize("rows_per_block", [1, 7, 128, 1000])
def test_blocks_change_nothing_to_the_last_bit(kind, rows_per_block, monkeypatch):
    monkeypatch.setattr(exact_search, "_BYTES_PER_BLOCK", rows_per_block * 4 * DIM)
    monkeypatch.setattr(exact_search, "_PAIRS_PER_BLOCK", 1000)
    database, queries = make_database(kind), descriptors_of(9, DIM, seed=1)
    if kind == "almost equal":
        queries = database[:9] + np.float32(1e-6)
    expected = by_pairs(database, queries, 5)
    for found, right in zip(search_exactly(RowBlocks(database), queries, 5), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("kind", ["equal", "almost equal", "random"])
def test_doubt_is_seen_and_ends_in_pairs(kind, monkeypatch):
    asked = []
    search_by_pairs = exact_search._search_by_pairs

    def count(rows, queries, k):
        asked.append(len(queries))
        return search_by_pairs(rows, queries, k)

    monkeypatch.setattr(exact_search, "_search_by_pairs", count)
    monkeypatch.setattr(exact_search, "_WIDER", 2)
    search_exactly(RowBlocks(make_database(kind)), descriptors_of(9, DIM, seed=1), 5)
    assert asked == ([] if kind == "random" else [9])


def test_the_bound_holds_for_numbers_that_cancel():
    """Far from the origin the rounding of squares is larger than the distances."""
    database = make_database("random") * np.float32(0.01) + 100
    queries = database[:20] + descriptors_of(20, DIM, seed=2) * np.float32(0.001)
    predictions, distances = search_exactly(RowBlocks(database), queries, 3)
    exact = np.linalg.norm(database[None].astype(float) - queries[:, None], axis=2)
    np.testing.assert_array_equal(predictions, np.argsort(exact, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :3], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("numbers", [None, np.arange(40, 90), np.array([3, 4, 70, 299])])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_those_of_the_array(dtype, numbers, order, monkeypatch):
    for name in ("_BYTES_PER_BLOCK", "_BYTES_PER_BUFFER"):
        monkeypatch.setattr(exact_search, name, 33 * 4 * DIM)
    database = np.asarray(descriptors_of(NUM_ROWS, DIM).astype(dtype), order=order)
    rows = RowBlocks(database, numbers)
    expected = database if numbers is None else database[numbers]
    blocks = [(first, block.copy()) for first, block in rows.blocks()]
    assert all(block.dtype == np.float32 for _, block in blocks)
    assert [first for first, _ in blocks] == list(range(0, len(rows), 33))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), expected)
    wanted = np.array([[0, 3], [1, 0]])
    array, places = rows.take(wanted)
    np.testing.assert_array_equal(array[places], expected[wanted])


def test_a_database_in_place_is_not_copied():
    database = descriptors_of(NUM_ROWS, DIM)
    for rows in (RowBlocks(database), RowBlocks(database, np.arange(20, 50))):
        assert all(np.shares_memory(block, database) for _, block in rows.blocks())
        assert np.shares_memory(rows.take(np.array([[1]]))[0], database)
