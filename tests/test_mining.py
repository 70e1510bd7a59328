"""Mining against golden numbers of the original code, with its draws, and against loops."""

import dataclasses

import numpy as np
import pytest
import torch
from golden_cases import assert_close, golden

from datasets.ground_truth import Neighbours
from datasets.positions import Positions
from datasets.tuples import TupleSet, TupleSetParams, find_positives
from training.losses import LossParams, loss_terms
from training.mining import MINING, Draws, Miner, MiningParams, cross_distances

VGB_CASES = ("full", "partial", "partial_ties", "random")
OPENIBL_CASES = ("mining_openibl_a", "mining_openibl_fullpool")


def neighbours_of(rows):
    """Return Neighbours of a list of lists of database indices."""
    rows = [np.sort(np.asarray(row, np.int64)) for row in rows]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return Neighbours(offsets.astype(np.int64), np.concatenate(rows).astype(np.int32))


def tuple_set_of(num_database, positives, near, **panoramas):
    """Return a tuple set whose images have no names."""
    positives, near = neighbours_of(positives), neighbours_of(near)
    return TupleSet(range(num_database), range(len(near)), positives, near, **panoramas)


def padded(rows):
    """Return a matrix of rows of different lengths, filled up with -1."""
    matrix = np.full((len(rows), max(map(len, rows))), -1)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    return matrix


def squared_distances(queries, database):
    queries, database = (part.astype(np.float64) for part in (queries, database))
    return ((queries[:, None] - database[None]) ** 2).sum(-1).astype(np.float32)


def draws_of_benchmark(case, mining, loop):
    """Return the recorded draws: candidates as drawn, those near the query among them."""
    queries, cached = case[f"mid.{loop}.sampled_queries"], case[f"mid.{loop}.cached_indices"]
    if mining == "full":
        candidates = case[f"mid.{loop}.drawn_per_query"]
    elif mining == "partial":
        candidates = np.tile(case[f"mid.{loop}.sampled_database"], (len(queries), 1))
    else:
        candidates = padded(case.ragged(f"mid.{loop}.drawn"))
    images = np.unique(cached[cached < len(case["in.database_names"])])  # queries come behind
    return Draws(queries, images, candidates)


@pytest.mark.parametrize("measure", [squared_distances, cross_distances])
@pytest.mark.parametrize("name", VGB_CASES)
def test_tuples_equal_those_of_the_benchmark(name, measure):
    case = golden(f"mining_vgb_{name}")
    settings, num_database = case.meta["cfg"], len(case["in.database_names"])
    near = case.ragged("mid.P25_kept")
    tuple_set = tuple_set_of(num_database, case.ragged("mid.P10_kept"), near)
    mining, num_negatives = settings["mining"], settings["negs"]
    params = MiningParams(mining, num_negatives, max(settings["neg_samples"], num_negatives))
    miner = Miner(tuple_set, params, seed=0)
    loops = [array.split(".")[0] for array in case.names("out.") if "triplets" in array]
    assert len(loops) >= 2
    for loop in loops:
        draws, features = draws_of_benchmark(case, mining, loop), case[f"in.{loop}.features"]
        distances = measure(features[num_database + draws.queries], features[draws.database])
        tuples = miner.mine(draws, distances)
        np.testing.assert_array_equal(tuples, case[f"out.{loop}.triplets"])
        if mining == "full":
            wanted = case.ragged(f"mid.{loop}.neg_cache")[: len(near)]
            got = [row[row >= 0].tolist() for row in miner.remembered]
            assert got == [row.tolist() for row in wanted]


@pytest.mark.parametrize("measure", [squared_distances, cross_distances])
@pytest.mark.parametrize("name", OPENIBL_CASES)
def test_tuples_equal_those_of_openibl(name, measure):
    """Its indices of queries are those among the kept ones, its draws are ranks by distance."""
    case = golden(name)
    settings, kept = case.meta["cfg"], case["mid.select"]
    utm = case["in.query_utm"], case["in.gallery_utm"]
    apart_m = np.sqrt(squared_distances(*utm))
    tuple_set = tuple_set_of(
        len(utm[1]),
        [np.flatnonzero(row <= 10) for row in apart_m],
        [np.flatnonzero(row <= 25) for row in apart_m],
        database_panoramas=case["in.gallery_pid"],
        query_panoramas=case["in.query_pid"],
    )
    params = MiningParams("openibl", settings["neg_num"], settings["neg_pool"])
    assert sorted(Miner(tuple_set, params, seed=0).draw(0, 0).queries) == kept.tolist()
    distances = measure(case["in.features_query"], case["in.features_gallery"])
    for first, *others in (["plain"], ["diff.loop0", "diff.loop1"]):
        miner = Miner(tuple_set, params, seed=0)
        for loop in (first, *others):
            drawn = []
            ranks = case.ragged(f"mid.{loop}.sampled_ranks")
            for row, near, wanted in zip(
                distances, case.ragged("mid.within25"), ranks, strict=True
            ):
                by_distance = np.argsort(row, kind="stable")
                drawn.append(by_distance[~np.isin(by_distance, near)][wanted])
            draws = Draws(kept, np.arange(len(utm[1])), padded(drawn))
            tuples = miner.mine(draws, distances)
            for got, wanted in zip(tuples, case.ragged(f"out.{loop}.tuples"), strict=True):
                query, *images = wanted[: 2 + params.num_negatives]
                assert got.tolist() == [kept[query], *(image - len(kept) for image in images)]
    wanted = case.ragged("mid.diff.neg_cache")
    np.testing.assert_array_equal(miner.remembered[kept], np.stack(wanted))


def test_tuples_equal_those_of_netvlad():
    """Its negatives are those that violate the margin, by the cached and the current features."""
    case = golden("mining_relja_a")
    settings, num_database = case.meta["cfg"], len(case["in.database_utm"])
    utm = case["in.query_utm"], case["in.database_utm"]
    num_queries = len(utm[0])
    near = [np.flatnonzero(row <= 25) for row in np.sqrt(squared_distances(*utm))]
    tuple_set = tuple_set_of(num_database, case.ragged("mid.positives_1_10m"), near)
    params = MiningParams("full", settings["cap"], settings["draw"])
    miner = Miner(tuple_set, params, seed=0)
    queries, images = np.arange(num_queries), np.arange(num_database)
    loss_params = LossParams(margin=settings["margin"], power=2, reduction="violating")
    for loop in ("pass0", "pass1"):
        cached = torch.from_numpy(case[f"in.{loop}.cached_features"]).double()
        distances = squared_distances(cached[:num_queries].numpy(), cached[num_queries:].numpy())
        candidates = padded(case.ragged(f"in.{loop}.drawn"))
        tuples = miner.mine(Draws(queries, images, candidates), distances)
        np.testing.assert_array_equal(tuples[:, 1], case[f"out.{loop}.positive"])
        wanted = np.stack(case.ragged(f"out.{loop}.neg_cache"))
        np.testing.assert_array_equal(tuples[:, 2:], wanted)
        np.testing.assert_array_equal(miner.remembered, wanted)

        features = torch.from_numpy(case[f"in.{loop}.current_features"]).double().requires_grad_()
        rows = torch.from_numpy(tuples) + torch.tensor([0, *[num_queries] * (tuples.shape[1] - 1)])
        parts = rows[:, 0], rows[:, 1], rows[:, 2:]
        violated = loss_terms(loss_params, *(cached[part] for part in parts)) > 0
        chosen = [row[mask].tolist() for row, mask in zip(tuples[:, 2:], violated, strict=True)]
        selected = case.ragged(f"out.{loop}.selected_violating")
        assert chosen == [row.tolist() for row in selected]
        terms = loss_terms(loss_params, *(features[part] for part in parts)) * violated
        assert_close(terms.sum(1).detach(), case[f"loss.{loop}.per_query"], 1e-9)
        num_violating = int((terms > 0).sum())
        assert num_violating == case[f"mid.{loop}.n_triplets"]
        (terms.sum() / num_violating).backward()
        assert_close(features.grad, case[f"grad.{loop}.features_mean_over_triplets"], 1e-9)


def made_set(num_database=200, num_queries=40, side_m=150, seed=0):
    """Return a tuple set of random positions, all in metres, and a position for each image."""
    rng = np.random.default_rng(seed)
    database_m = rng.uniform(0, side_m, (num_database, 2))
    queries_m = database_m[:num_queries] + rng.uniform(-5, 5, (num_queries, 2))
    apart_m = np.sqrt(squared_distances(queries_m, database_m))
    tuple_set = tuple_set_of(
        num_database,
        [np.flatnonzero(row <= 10) for row in apart_m],
        [np.flatnonzero(row <= 25) for row in apart_m],
        database_panoramas=np.arange(num_database) // 3,
        query_panoramas=np.arange(num_queries) // 3,  # the first of each database panorama is near
    )
    return tuple_set, apart_m


def mine_by_loops(tuple_set, mining, params, draws, distances, remembered):
    """Do what `Miner.mine` does, query by query."""
    tuples = []
    for query, drawn in zip(draws.queries, draws.candidates, strict=True):
        positives = tuple_set.positives.of(query).tolist()
        if mining == "openibl":
            own = tuple_set.query_panoramas[query]
            positives = [p for p in positives if tuple_set.database_panoramas[p] != own]
        best = min(positives, key=lambda image: (distances[query, image], image))
        near = set(tuple_set.near.of(query).tolist())
        candidates = [image for image in drawn.tolist() if image >= 0 and image not in near]
        if mining in ("full", "openibl"):
            candidates = sorted({*candidates, *remembered.get(query, [])})
        if mining != "random":
            candidates.sort(key=lambda image: distances[query, image])
        negatives = candidates[: params.num_negatives]
        remembered[query] = negatives
        tuples.append([query, best, *negatives])
    return np.array(tuples)


@pytest.mark.parametrize("mining", MINING)
def test_tuples_equal_a_loop_over_queries(mining):
    tuple_set, _ = made_set()
    params = MiningParams(mining, num_negatives=4, pool_size=60, queries_per_refresh=15)
    miner, remembered = Miner(tuple_set, params, seed=1), {}
    for loop in range(4):
        rng = np.random.default_rng(loop)
        distances = rng.integers(0, 50, (40, 200)).astype(np.float32)  # many are equal
        draws = miner.draw(epoch=2, loop=loop)
        tuples = miner.mine(draws, distances[np.ix_(draws.queries, draws.database)])
        wanted = mine_by_loops(tuple_set, mining, params, draws, distances, remembered)
        np.testing.assert_array_equal(tuples, wanted)
    if mining in ("full", "openibl"):
        assert {q: row[row >= 0].tolist() for q, row in enumerate(miner.remembered)} == {
            query: remembered.get(query, []) for query in range(40)
        }
    else:
        assert miner.remembered.shape == (0, 4)


@pytest.mark.parametrize("mining", MINING)
def test_draws_are_a_function_of_seed_epoch_and_loop(mining):
    tuple_set, apart_m = made_set()
    params = MiningParams(mining, num_negatives=4, pool_size=60, queries_per_refresh=15)

    def draw(seed, epoch, loop, num_mined):
        miner = Miner(tuple_set, params, seed)
        for before in range(num_mined):
            draws = miner.draw(0, before)
            miner.mine(draws, apart_m[np.ix_(draws.queries, draws.database)])
        return [array.tolist() for array in dataclasses.astuple(miner.draw(epoch, loop))]

    expected = draw(3, 1, 2, num_mined=0)
    assert draw(3, 1, 2, num_mined=3) == expected
    for other in ((4, 1, 2), (3, 2, 2), (3, 1, 0)):
        queries, _, candidates = draw(*other, num_mined=0)
        assert queries != expected[0] and candidates != expected[2]


@pytest.mark.parametrize("mining", MINING)
def test_draws_hold_distinct_images_and_what_they_need(mining):
    tuple_set, _ = made_set()
    params = MiningParams(mining, num_negatives=4, pool_size=60, queries_per_refresh=15)
    miner = Miner(tuple_set, params, seed=0)
    draws = miner.draw(0, 0)
    assert len(set(draws.queries.tolist())) == len(draws.queries) == 15 == miner.num_queries(0)
    most_near = max(len(tuple_set.near.of(query)) for query in draws.queries)
    size = 4 + most_near if mining == "random" else 60
    assert draws.candidates.shape == (15, size)
    needed = set()
    for query, row in zip(draws.queries, draws.candidates.tolist(), strict=True):
        assert len(set(row)) == size and set(row) <= set(range(200))
        needed |= set(tuple_set.positives.of(query).tolist())
        needed |= set(row) if mining != "random" else set()
    expected = range(200) if mining in ("full", "openibl") else sorted(needed)
    assert draws.database.tolist() == list(expected)
    num_pools = len({frozenset(row) for row in draws.candidates.tolist()})
    assert num_pools == 1 if mining == "partial" else num_pools > 10


@pytest.mark.parametrize("mining", MINING)
def test_each_image_is_drawn_equally_often(mining):
    near = [2, 3, 7, 19]
    tuple_set = tuple_set_of(20, [[3]], [near])
    miner = Miner(tuple_set, MiningParams(mining, num_negatives=4, pool_size=8), seed=0)
    drawn = np.concatenate([miner.draw(0, loop).candidates[0] for loop in range(2000)])
    counts = np.bincount(drawn, minlength=20)  # each is expected 800 times, with a deviation of 22
    assert counts.min() > 700 and counts.max() < 900


def test_openibl_draws_each_query_once_in_a_pass():
    tuple_set, _ = made_set()
    miner = Miner(tuple_set, MiningParams("openibl", queries_per_refresh=15), seed=0)
    loops = [miner.draw(0, loop).queries.tolist() for loop in range(6)]
    assert [miner.num_queries(loop) for loop in range(6)] == [len(queries) for queries in loops]
    once, again = sum(loops[:3], []), sum(loops[3:], [])
    assert [len(queries) for queries in loops[:3]] == [15, 15, len(once) - 30]
    assert len(set(once)) == len(once) and set(once) == set(again) and once != again
    next_epoch = sum((miner.draw(1, loop).queries.tolist() for loop in range(3)), [])
    assert set(next_epoch) == set(once) and next_epoch != once


def test_an_order_of_openibl_can_be_that_of_another_epoch():
    tuple_set, _ = made_set()
    miner = Miner(tuple_set, MiningParams("openibl", queries_per_refresh=15), seed=0)
    own, other = miner.draw(5, 1), miner.draw(5, 1, order=2)
    assert other.queries.tolist() == miner.draw(2, 1).queries.tolist() != own.queries.tolist()
    assert other.candidates.tolist() != miner.draw(2, 1).candidates.tolist()


@pytest.mark.parametrize("num", [1, 3, 20])
def test_the_nearest_positives_equal_a_sorted_list(num):
    tuple_set, apart_m = made_set()
    miner = Miner(tuple_set, MiningParams("openibl"), seed=0)
    draws, distances = miner.draw(0, 0), apart_m.round()  # many are equal
    distances[:, 5:30] = np.inf
    got = miner.nearest_positives(draws, distances[draws.queries], num)
    assert got.shape == (len(draws.queries), num)
    for query, row in zip(draws.queries, got.tolist(), strict=True):
        own = tuple_set.query_panoramas[query]
        positives = tuple_set.positives.of(query)
        positives = positives[tuple_set.database_panoramas[positives] != own]
        positives = [p for p in positives.tolist() if not 5 <= p < 30]
        positives.sort(key=lambda image: (distances[query, image], image))
        assert row == (positives + [-1] * num)[:num]


def test_openibl_takes_no_positive_of_the_same_panorama():
    arguments = 6, [[0, 1], [1]], [[0, 1], [1]]
    panoramas = {"database_panoramas": np.arange(6), "query_panoramas": np.array([0, 1])}
    params = MiningParams("openibl", num_negatives=2, pool_size=6)
    miner = Miner(tuple_set_of(*arguments, **panoramas), params, seed=0)
    draws = miner.draw(0, 0)
    assert draws.queries.tolist() == [0]  # the other has only that of its own panorama
    assert miner.mine(draws, np.arange(6, dtype=np.float32)[None])[0, :2].tolist() == [0, 1]
    without = Miner(tuple_set_of(*arguments), params, seed=0)  # names have no panoramas
    assert sorted(without.draw(0, 0).queries) == [0, 1]


def test_remembered_negatives_stay_until_nearer_ones_are_drawn():
    tuple_set = tuple_set_of(100, [[0]], [[0]])
    miner = Miner(tuple_set, MiningParams("full", num_negatives=3, pool_size=5), seed=0)
    distances = np.arange(100, dtype=np.float32)[None]
    seen = set()
    for loop in range(60):
        draws = miner.draw(0, loop)
        seen |= set(draws.candidates[0].tolist()) - {0}
        negatives = miner.mine(draws, distances)[0, 2:].tolist()
        assert negatives == sorted(seen)[:3] == miner.remembered[0].tolist()
    assert len(seen) > 80


@pytest.fixture(scope="module")
def million():
    """Return a tuple set of a million positions in a city, and distances, all in metres."""
    rng = np.random.default_rng(0)
    database_m = rng.uniform(0, 3000, (1_000_000, 2))  # 218 images within 25 m
    queries_m = database_m[rng.choice(len(database_m), 20)] + rng.uniform(-6, 6, (20, 2))
    near = find_positives(Positions(database_m, queries_m), TupleSetParams())
    apart_m = np.hypot(*(queries_m[:, None, axis] - database_m[:, axis] for axis in range(2)))
    return TupleSet(range(len(database_m)), range(20), *near), apart_m


@pytest.mark.parametrize("mining", MINING)
def test_near_images_are_no_negatives_among_a_million(million, mining):
    """The images that are nearest by descriptor are those nearest by position."""
    tuple_set, apart_m = million
    miner = Miner(tuple_set, MiningParams(mining, pool_size=20_000), seed=0)
    draws = miner.draw(0, 0)
    distances = apart_m[draws.queries][:, draws.database].astype(np.float32)
    tuples = miner.mine(draws, distances)
    assert sorted(tuples[:, 0]) == list(range(20))
    for query, positive, *negatives in tuples:
        assert apart_m[query, positive] == apart_m[query].min() <= 10
        assert len(set(negatives)) == 10
        assert apart_m[query, negatives].min() > 25
        if mining != "random":  # hard ones
            assert apart_m[query, negatives].max() < 100


def few_far(mining, num_far, num_negatives=5):
    """Return a miner, its draws and distances: image 0 is near its query, others are not."""
    tuple_set = tuple_set_of(1 + num_far, [[0]], [[0]])
    miner = Miner(tuple_set, MiningParams(mining, num_negatives, pool_size=10), seed=0)
    draws = miner.draw(0, 0)
    return miner, draws, draws.database[None].astype(np.float32)


@pytest.mark.parametrize("mining", MINING)
def test_fewer_candidates_than_negatives_are_repeated(mining, caplog):
    miner, draws, distances = few_far(mining, num_far=3)
    negatives = miner.mine(draws, distances)[0, 2:].tolist()
    if mining == "random":  # in the order of the draw
        assert set(negatives) == {1, 2, 3} and negatives[3:] == negatives[:2]
    else:
        assert negatives == [1, 2, 3, 1, 2]
    assert "1 of 1 tuples have fewer than 5 different negatives, 0 could not" in caplog.text
    next_draws = miner.draw(0, 1)  # what is remembered twice is one candidate
    assert len(set(miner.mine(next_draws, distances)[0, 2:].tolist())) == 3


@pytest.mark.parametrize("mining", MINING)
def test_a_set_without_any_negative_raises(mining):
    with pytest.raises(
        ValueError, match=f"--mining {mining}: none of the 1 queries has both a pos"
    ):
        few_far(mining, num_far=0)


@pytest.mark.parametrize("mining", ["full", "partial", "openibl"])
@pytest.mark.parametrize("missing", [np.inf, np.nan])
def test_unreadable_images_are_in_no_tuple(mining, missing, caplog):
    tuple_set, apart_m = made_set()
    params = MiningParams(mining, num_negatives=4, pool_size=100)
    miner = Miner(tuple_set, params, seed=0)
    draws = miner.draw(0, 0)
    unreadable = np.random.default_rng(0).choice(200, 80, replace=False)
    distances = apart_m[np.ix_(draws.queries, draws.database)]
    distances[:, np.isin(draws.database, unreadable)] = missing
    distances[2] = missing  # a query
    tuples = miner.mine(draws, distances)
    assert len(tuples) == len(draws.queries)
    assert not np.isin(tuples[:, 1:], unreadable).any()
    made = np.isin(draws.queries, tuples[:, 0])
    bad_query = draws.queries[2]
    assert bad_query not in tuples[:, 0] and 0 < (~made).sum() < 30
    assert f"{(~made).sum()} could not be made and repeat others" in caplog.text
    for query, positive, *negatives in tuples:  # also those that repeat others
        assert positive in tuple_set.positives.of(query)
        assert not set(negatives) & set(tuple_set.near.of(query).tolist())
    if len(miner.remembered):
        assert (miner.remembered[draws.queries[~made]] == -1).all()
        assert (miner.remembered[draws.queries[made]] >= 0).all()


@pytest.mark.parametrize("mining", MINING)
def test_if_nothing_is_readable_mining_raises(mining):
    tuple_set, apart_m = made_set()
    miner = Miner(tuple_set, MiningParams(mining), seed=0)
    draws = miner.draw(0, 0)
    distances = np.full((len(draws.queries), len(draws.database)), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"None of \d+ queries makes a tuple"):
        miner.mine(draws, distances)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mining": "hard"}, "--mining must be one of full, partial, random, openibl, it is hard"),
        ({"num_negatives": 0}, "--negs_num_per_query must be at least 1, it is 0"),
        ({"queries_per_refresh": 0}, "--cache_refresh_rate must be at least 1, it is 0"),
        ({"pool_size": 9}, "--neg_samples_num 9 draws fewer images than the 10 negatives"),
    ],
)
def test_settings_out_of_range_raise(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        MiningParams(**settings)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cross_distances_equal_loops(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((7, 30)).astype(dtype)
    database = rng.standard_normal((50, 30)).astype(dtype)
    database[[4, 17]] = queries[[2, 5]]
    wanted = squared_distances(queries, database)
    for num_rows in (1, 8, 50, 1000):
        monkeypatch.setattr("training.mining._BYTES_PER_BLOCK", 4 * 30 * num_rows)
        got = cross_distances(queries, database)
        assert got.dtype == np.float32 and got.min() >= 0
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
        assert got[2, 4] < 1e-4 and got[5, 17] < 1e-4


def test_distances_of_unreadable_images_are_not_finite():
    queries, database = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    database[1], queries[1] = np.nan, np.nan
    assert np.isfinite(cross_distances(queries, database)).tolist() == [
        [True, False, True, True],
        [False] * 4,
    ]
