import numpy as np
import pytest

from evaluation import Protocol, search
from evaluation.search import (
    EXACT,
    FP16,
    IVF_PQ,
    build_index,
    check_fits,
    check_search,
    choose_search,
    describe_search,
    find_neighbors,
    find_neighbors_within,
    measure_agreement,
    merge_neighbors,
)

SEARCHES = (EXACT, FP16, IVF_PQ, "SQ8", "IVF2,Flat", "PQ12x4fs,RFlat", "HNSW32", "PCA12,Flat,RFlat")


def descriptors_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build_and_search(database, queries, k, text):
    return find_neighbors(build_index(database, text), queries, k)


def agreement_of(database, queries, predictions, rows=None, **sample):
    return measure_agreement(
        predictions, lambda own, k: find_neighbors(database, queries[own], k, rows)[0], **sample
    )


def by_hand(database, queries):
    """Return indices, nearest first, and distances, of the whole database."""
    distances = np.linalg.norm(database[None].astype(float) - queries[:, None], axis=2)
    return np.argsort(distances, axis=1, kind="stable"), np.sort(distances, axis=1)


@pytest.mark.parametrize(
    ("num_database", "num_queries", "k"), [(500, 40, 20), (7, 3, 1), (5, 2, 20)]
)
def test_equals_brute_force(num_database, num_queries, k):
    database, queries = descriptors_of(num_database, 32), descriptors_of(num_queries, 32, seed=1)
    predictions, distances = find_neighbors(database, queries, k)
    nearest, exact = by_hand(database, queries)
    assert predictions.shape == distances.shape == (num_queries, min(k, num_database))
    assert (predictions.dtype, distances.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(predictions, nearest[:, :k])
    np.testing.assert_allclose(distances, exact[:, :k], atol=1e-4)


def test_a_descriptor_finds_itself():
    descriptors = np.eye(50, dtype=np.float32)
    predictions, distances = find_neighbors(descriptors, descriptors, 1)
    assert predictions[:, 0].tolist() == list(range(50))
    assert distances.max() == 0


@pytest.mark.parametrize("num_queries", [3, 60], ids=["few queries", "many queries"])
def test_near_descriptors_have_precise_distances(num_queries):
    database = 3 * descriptors_of(200, 64) + 100  # far from the origin: squares would cancel
    queries = database[:num_queries] + np.float32(1e-3)
    predictions, distances = find_neighbors(database, queries, 1)
    np.testing.assert_array_equal(predictions[:, 0], np.arange(num_queries))
    differences = database[:num_queries].astype(float) - queries
    np.testing.assert_allclose(distances[:, 0], np.linalg.norm(differences, axis=1), rtol=1e-4)


def test_equal_distances_are_in_order_of_the_index():
    database = np.zeros((40, 8), np.float32)
    database[::2] = np.eye(8, dtype=np.float32)[0]
    predictions, _ = find_neighbors(database, database[:30], 20)
    assert predictions[0].tolist() == list(range(0, 40, 2))
    assert predictions[1].tolist() == list(range(1, 40, 2))


def test_a_database_on_disk_is_searched_where_it_is(tmp_path):
    database, queries = descriptors_of(300, 16), descriptors_of(30, 16, seed=1)
    np.save(tmp_path / "database.npy", database)
    on_disk = np.load(tmp_path / "database.npy", mmap_mode="r")
    for text in (EXACT, FP16, "IVF4,Flat;nprobe=4", "PQ8x4fs,RFlat"):
        for mapped, in_memory in zip(
            build_and_search(on_disk, queries, 5, text),
            build_and_search(database, queries, 5, text),
            strict=True,
        ):
            np.testing.assert_array_equal(mapped, in_memory)


def test_a_database_of_half_precision_is_searched_as_its_numbers(tmp_path):
    database, queries = descriptors_of(300, 16).astype(np.float16), descriptors_of(30, 16, seed=1)
    np.save(tmp_path / "database.npy", database)
    on_disk = np.load(tmp_path / "database.npy", mmap_mode="r")
    for half, single in zip(
        find_neighbors(on_disk, queries, 5),
        find_neighbors(database.astype(np.float32), queries, 5),
        strict=True,
    ):
        np.testing.assert_array_equal(half, single)
    for text in (IVF_PQ, "HNSW32"):
        _, distances = build_and_search(on_disk, queries, 5, text)
        _, exact = by_hand(database, queries)
        np.testing.assert_allclose(distances[:, 0], exact[:, 0], rtol=1e-5)


def make_database(kind):
    """Return 250 descriptors; of "repeated", 7 are equal."""
    database = descriptors_of(250, 16)
    if kind == "repeated":
        database = database[np.arange(250) % 37]
    elif kind == "lengths":
        database *= np.float32(10) ** np.arange(-3, 2).repeat(50)[:, None].astype(np.float32)
    elif kind == "float16":
        database = database.astype(np.float16)
    elif kind == "in Fortran order":
        database = np.asfortranarray(database)
    return database


@pytest.mark.parametrize("kind", ["random", "repeated", "lengths", "float16", "in Fortran order"])
@pytest.mark.parametrize("rows_per_block", [1, 7, 128])
def test_blocks_change_nothing_to_the_last_bit(kind, rows_per_block, monkeypatch):
    database, queries = make_database(kind), descriptors_of(30, 16, seed=1)
    expected = find_neighbors(database, queries, 20)
    monkeypatch.setattr(search, "_BYTES_PER_BLOCK", rows_per_block * 4 * 16)
    for blockwise, at_once in zip(find_neighbors(database, queries, 20), expected, strict=True):
        np.testing.assert_array_equal(blockwise, at_once)
    nearest, exact = by_hand(database, queries)
    np.testing.assert_array_equal(expected[0], nearest[:, :20])
    np.testing.assert_allclose(expected[1], exact[:, :20], rtol=1e-5)


def test_a_database_is_not_copied(monkeypatch):
    """Blocks are parts of it, in memory or mapped, as long as their type is float32."""
    database, seen = descriptors_of(300, 16), []
    monkeypatch.setattr(search, "_BYTES_PER_BLOCK", 33 * 4 * 16)
    knn = search.faiss.knn
    monkeypatch.setattr(search.faiss, "knn", lambda q, b, k: (seen.append(b), knn(q, b, k))[1])
    find_neighbors(database, database[:2], 5)
    assert len(seen) == 10 and all(np.shares_memory(block, database) for block in seen)
    assert build_index(database, EXACT) is database


@pytest.mark.parametrize("text", [EXACT, FP16, "IVF1,Flat", "PQ8x4fs,RFlat", "PCA16,Flat"])
@pytest.mark.parametrize("rows", [np.arange(40, 90), np.array([3, 4, 70, 299])])
def test_rows_that_are_left_out_are_not_found(text, rows):
    database, queries = descriptors_of(300, 16), descriptors_of(9, 16, seed=1)
    nearest, exact = by_hand(database[rows], queries)
    database[np.setdiff1d(np.arange(300), rows)] = np.nan
    found, distances = find_neighbors(build_index(database, text, rows), queries, 60, rows)
    assert found.shape == (9, len(rows))
    if text != FP16:
        np.testing.assert_array_equal(found, rows[nearest])
    np.testing.assert_allclose(distances, exact, rtol=1e-3)
    assert agreement_of(database, queries, rows[nearest], rows) == 100


@pytest.mark.parametrize("kind", ["random", "repeated", "lengths", "float16"])
@pytest.mark.parametrize("sizes", [[250], [100, 150], [1, 7, 92, 150]])
def test_merged_parts_are_the_search_of_the_whole(kind, sizes):
    database, queries = make_database(kind), descriptors_of(30, 16, seed=1)
    predictions, distances = find_neighbors(database, queries, 20)
    firsts = np.cumsum([0, *sizes[:-1]])
    parts = [
        find_neighbors(database[first : first + size], queries, 20)
        for first, size in zip(firsts, sizes, strict=True)
    ]
    merged, merged_distances = merge_neighbors(
        [found + first for (found, _), first in zip(parts, firsts, strict=True)],
        [found_distances for _, found_distances in parts],
        20,
    )
    np.testing.assert_array_equal(merged, predictions)
    np.testing.assert_array_equal(merged_distances, distances)
    assert (merged.dtype, merged_distances.dtype) == (np.int64, np.float32)


def test_what_is_not_found_in_parts_is_last():
    predictions = [np.array([[4, -1]]), np.array([[9, 7, -1]])]
    distances = [np.array([[2, np.inf]], np.float32), np.array([[1, 2, np.inf]], np.float32)]
    merged, merged_distances = merge_neighbors(predictions, distances, 4)
    assert merged.tolist() == [[9, 4, 7, -1]]
    assert merged_distances.tolist() == [[1, 2, 2, np.inf]]


def test_parts_that_do_not_fit_are_refused():
    two, three = np.zeros((2, 5)), np.zeros((3, 5))
    for predictions, distances in (([], []), ([two], [three]), ([two, three], [two, three])):
        with pytest.raises(ValueError, match="Parts must be of the same queries"):
            merge_neighbors(predictions, distances, 5)


@pytest.mark.parametrize(
    ("database", "queries", "k", "message"),
    [
        (descriptors_of(5, 8), descriptors_of(2, 4), 1, "length 8, those of the queries 4"),
        (descriptors_of(5, 8).astype(float), descriptors_of(2, 8), 1, r"database .*float64 \[5, 8"),
        (descriptors_of(5, 8)[0], descriptors_of(2, 8), 1, r"float32 or float16 .*float32 \[8\]"),
        (descriptors_of(5, 8), descriptors_of(2, 8).astype(np.float16), 1, "queries .* float16"),
        (descriptors_of(0, 8), descriptors_of(2, 8), 1, r"database .* \[0, 8\]"),
        (descriptors_of(5, 8), descriptors_of(2, 8), 0, "At least 1 neighbour"),
        (np.full((5, 8), np.nan, np.float32), descriptors_of(2, 8), 1, "not finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(database, queries, k, message):
    with pytest.raises(ValueError, match=message):
        find_neighbors(database, queries, k)


@pytest.mark.parametrize(
    ("text", "least_agreement"),
    [
        (EXACT, 100),
        (FP16, 99),
        ("SQ8", 95),
        ("IVF15,Flat;nprobe=15", 100),
        ("PQ16x4fs,RFlat", 100),
        ("PQ32x4fs", 70),
        ("PQ8x4fs,RFlat;k_factor_rf=10", 70),
        (IVF_PQ, 100),
        ("IVF15,PQ32x4fs;nprobe=15", 70),
        ("HNSW32;efSearch=128", 95),
        ("Flat", 100),
        ("PCA28,Flat", 60),
    ],
)
def test_indexes_find_most_of_the_exact_neighbours(text, least_agreement):
    database, queries = descriptors_of(600, 32), descriptors_of(50, 32, seed=1)
    predictions, distances = build_and_search(database, queries, 10, text)
    nearest, exact = by_hand(database, queries)
    shared = [len(set(a) & set(b)) for a, b in zip(predictions, nearest[:, :10], strict=True)]
    agreement = agreement_of(database, queries, predictions)
    assert agreement == pytest.approx(10 * np.mean(shared)) and agreement >= least_agreement
    assert (predictions.dtype, distances.dtype) == (np.int64, np.float32)
    assert (np.diff(distances, axis=1) >= 0).all()
    if "PCA" not in text and "PQ8" not in text:
        np.testing.assert_allclose(distances, exact[:, :10], rtol=0.1)


def test_agreement_counts_the_first_ten_of_a_sample():
    database, queries = descriptors_of(100, 8), descriptors_of(40, 8, seed=1)
    exact, _ = find_neighbors(database, queries, 30)
    assert agreement_of(database, queries, exact) == 100
    assert agreement_of(database, queries, exact[:, ::-1]) == 0
    half = exact.copy()
    half[:, 5:10] = -1
    assert agreement_of(database, queries, half, sample_size=7) == 50
    assert agreement_of(database, queries, exact[:, 1:4]) == pytest.approx(200 / 3)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("num_database", [2, 50])
def test_small_databases_are_no_trouble(name, num_database, capfd):
    database = descriptors_of(num_database, 24)
    predictions, distances = build_and_search(database, database[:3], 60, name)
    assert predictions.shape == (min(3, num_database), num_database)
    assert predictions[:, 0].tolist() == list(range(len(predictions)))
    assert distances[:, 0].max() < 0.1
    assert "WARNING" not in capfd.readouterr().err


@pytest.mark.parametrize("text", ["IVF5,Flat", "IVF5,PQ2x4fs,RFlat;nprobe=1"])
def test_neighbours_that_are_not_found_are_minus_one_at_the_end(text):
    database = descriptors_of(100, 4)
    predictions, distances = build_and_search(database, database[:20], 90, text)
    assert predictions.shape == (20, 90)
    for query, (row, row_distances) in enumerate(zip(predictions, distances, strict=True)):
        num_found = (row >= 0).sum()
        assert 0 < num_found < 90 and row[0] == query
        assert len(set(row[:num_found])) == num_found
        assert (row[num_found:] == -1).all() and np.isinf(row_distances[num_found:]).all()
        exact = np.linalg.norm(database[row[:num_found]] - database[query], axis=1)
        np.testing.assert_allclose(row_distances[:num_found], exact, atol=1e-5)


def test_an_index_is_the_same_each_time():
    database, queries = descriptors_of(2000, 16), descriptors_of(20, 16, seed=1)
    first, second = (
        build_and_search(database, queries, 10, "IVF8,PQ4x4fs;nprobe=2") for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize(("params", "num_refined"), [("", 500), (";k_factor_rf=6", 60)])
def test_refinement_orders_candidates_by_the_descriptors_themselves(params, num_refined):
    """500 of them, as k of them would be no refinement, or as many as the search says."""
    database, queries = descriptors_of(2000, 16), descriptors_of(30, 16, seed=1)
    index = build_index(database, f"PQ4x4fs,RFlat{params}")
    predictions, distances = find_neighbors(index, queries, 10)
    _, candidates = index.base_index.search(queries, num_refined)
    for query, row in enumerate(candidates):
        exact = np.linalg.norm(database[row].astype(float) - queries[query], axis=1)
        np.testing.assert_array_equal(predictions[query], row[np.argsort(exact)[:10]])
        np.testing.assert_allclose(distances[query], np.sort(exact)[:10], rtol=1e-5)


@pytest.mark.parametrize("shuffled", [False, True], ids=["in place", "copied"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_search_within_groups_equals_brute_force(shuffled, dtype):
    database, queries = descriptors_of(60, 16).astype(dtype), descriptors_of(25, 16, seed=1)
    database_groups = np.repeat([4, 7, 2], [40, 15, 5])
    queries_groups = np.resize([7, 2, 4, 9], 25)  # nothing is of group 9
    if shuffled:
        database_groups = np.random.default_rng(0).permutation(database_groups)
    predictions, distances = find_neighbors_within(
        database, queries, 20, database_groups, queries_groups
    )
    assert predictions.shape == distances.shape == (25, 20)
    for query, group in enumerate(queries_groups):
        rows = np.flatnonzero(database_groups == group)
        exact = np.linalg.norm(database[rows].astype(float) - queries[query], axis=1)
        found = min(20, len(rows))
        expected = rows[np.argsort(exact)[:20]]
        np.testing.assert_array_equal(predictions[query, :found], expected)
        np.testing.assert_allclose(distances[query, :found], np.sort(exact)[:20], atol=1e-4)
        assert (predictions[query, found:] == -1).all()
        assert np.isinf(distances[query, found:]).all()


def test_groups_must_be_one_per_descriptor():
    database = descriptors_of(10, 4)
    with pytest.raises(ValueError, match="9 groups for 10 database images and 2 for 2 queries"):
        find_neighbors_within(database, database[:2], 1, np.zeros(9), np.zeros(2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "annoy",
            "Unknown search 'annoy': choose exact, fp16, ivf_pq, or a factory string of faiss",
        ),
        ("", "Unknown search ''"),
        ("EXACT", "Unknown search"),
        ("IVF8,Flat;lists=3", "Unknown search 'IVF8,Flat;lists=3'.*could not set parameter lists"),
        ("IVF8,Flat;nprobe=three", "could not interpret parameters nprobe=three"),
        ("IVF8,Flat;nprobe", "could not interpret parameters nprobe"),
        ("ivf_pq:nlist=8", "Unknown search"),
    ],
)
def test_searches_that_faiss_cannot_read_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_search(text)
    with pytest.raises(ValueError, match=message):
        Protocol(search=text)


@pytest.mark.parametrize("text", [*SEARCHES, "PQ7", "IVF65536_HNSW32,PQ48x4fs,RFlat;nprobe=8"])
def test_searches_that_suit_some_descriptors_are_no_usage_error(text):
    check_search(text)


@pytest.mark.parametrize(
    ("num_database", "dim", "expected"),
    [
        (1_000_000, 512, "IVF1000,PQ256x4fs,RFlat;nprobe=126"),
        (1000, 100, "IVF25,PQ50x4fs,RFlat;nprobe=20"),
        (3900, 7, "IVF62,PQ1x4fs,RFlat;nprobe=31"),
        (50, 512, "IVF1,PQ256x4fs,RFlat;nprobe=1"),
    ],
)
def test_ivf_pq_follows_the_database(num_database, dim, expected):
    assert choose_search(IVF_PQ, num_database, dim) == expected
    check_fits(IVF_PQ, num_database, dim)
    for other in (EXACT, FP16, "IVF8,Flat"):
        assert choose_search(other, num_database, dim) == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "IVF51,Flat",
            "IVF51,Flat needs at least one descriptor for each of its 51 lists, .* has 50",
        ),
        ("IVF5,PQ5", "cannot make the index of --search IVF5,PQ5 for 50 .* length 24: .*multiple"),
        ("garbage", "faiss cannot make the index of --search garbage.*could not parse"),
        ("IVF5,Flat;foo=2", "could not set parameter foo"),
    ],
)
def test_searches_that_do_not_suit_the_database_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_fits(text, 50, 24)
    with pytest.raises(ValueError, match=message):
        build_index(np.zeros((50, 24), np.float32), text)


def test_results_name_the_search():
    assert describe_search(EXACT, 1000, 100) == "exact L2"
    assert describe_search(FP16, 1000, 100) == "fp16, approximate L2"
    assert describe_search(IVF_PQ, 1000, 100) == "IVF25,PQ50x4fs,RFlat;nprobe=20, approximate L2"
