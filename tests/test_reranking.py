"""Re-ranking against golden numbers of the original code, and against loops."""

import numpy as np
import pytest
from golden_cases import assert_close, golden

from training.mining import cross_distances
from training.reranking import (
    DISTANCE_WEIGHT,
    NUM_NEAREST,
    RerankParams,
    choose_difficult,
    find_difficult,
    jaccard_distances,
)

CASES = ("mining_openibl_a", "mining_openibl_fullpool")


@pytest.mark.parametrize("name", CASES)
def test_distances_equal_those_of_openibl(name):
    case = golden(name)
    wanted = case["mid.jaccard_k20_1_l0.1"]
    descriptors = np.concatenate((case["in.features_query"], case["in.features_gallery"]))
    rows, columns = np.indices(wanted.shape).reshape(2, -1)
    got = jaccard_distances(descriptors, rows, len(wanted) + columns)
    assert_close(got.reshape(wanted.shape), wanted, 1e-5)


def jaccard_by_loops(distances):
    """Return the distances of all images to all others, by sets.

    Args:
        distances: Scaled; the ranks are those of each row.
    """
    num_images = len(distances)
    ranks = np.argsort(distances, axis=1, kind="stable").tolist()

    def reciprocal(image, num):
        return {j for j in ranks[image][: num + 1] if image in ranks[j][: num + 1]}

    weights = np.zeros_like(distances)
    for image in range(num_images):
        own = reciprocal(image, NUM_NEAREST)
        expanded = set(own)
        for j in own:
            others = reciprocal(j, NUM_NEAREST // 2)
            if 3 * len(others & own) > 2 * len(others):
                expanded |= others
        for j in expanded:
            weights[image, j] = np.exp(-distances[image, j])
        weights[image] /= weights[image].sum()
    jaccard = np.empty_like(distances)
    for i in range(num_images):
        for j in range(num_images):
            common = np.minimum(weights[i], weights[j]).sum()
            jaccard[i, j] = 1 - common / np.maximum(weights[i], weights[j]).sum()
    return (1 - DISTANCE_WEIGHT) * jaccard + DISTANCE_WEIGHT * distances


def clustered(num_images, dim=12, seed=0):
    """Return unit descriptors around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_images // 15 + 1, dim))
    descriptors = centres[rng.integers(len(centres), size=num_images)]
    descriptors = descriptors + 0.4 * rng.standard_normal((num_images, dim))
    return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("num_images", [150, 12], ids=["many", "fewer than the neighbours"])
@pytest.mark.parametrize("scaling", ["openibl", "paper"])
def test_distances_equal_loops(scaling, num_images, monkeypatch):
    descriptors = clustered(num_images)
    squared = ((descriptors[:, None] - descriptors) ** 2).sum(-1, dtype=np.float64)
    scaled = {"paper": squared, "openibl": squared**2 / (squared**2).max(1, keepdims=True)}
    wanted = jaccard_by_loops(scaled[scaling])
    rows, columns = np.indices(wanted.shape).reshape(2, -1)
    monkeypatch.setattr("training.reranking._ROWS_AT_ONCE", 37)
    monkeypatch.setattr("training.reranking._PAIRS_AT_ONCE", 100)
    got = jaccard_distances(descriptors, rows, columns, scaling)
    assert_close(got.reshape(wanted.shape), wanted, 1e-5)
    some = np.random.default_rng(0).permutation(len(rows))[:70]
    assert_close(
        jaccard_distances(descriptors, rows[some], columns[some], scaling), got[some], 1e-6
    )


def positives_by_distance(case, distances):
    """Return the positives of a golden case, nearest first, -1 fills up."""
    pool = case.meta["cfg"]["pos_pool"]
    positives = np.full((len(distances), pool), -1)
    for line, row, own in zip(positives, distances, case.ragged("mid.pos10"), strict=True):
        own = own[np.argsort(row[own], kind="stable")][:pool]
        line[: len(own)] = own
    return positives


@pytest.mark.parametrize("name", CASES)
def test_difficult_positives_equal_those_of_openibl(name):
    """Its indices of database images begin behind those of the queries."""
    case = golden(name)
    settings, parts = case.meta["cfg"], (case["in.features_query"], case["in.features_gallery"])
    positives = positives_by_distance(case, cross_distances(*parts))
    positives[positives >= 0] += len(positives)
    params = RerankParams(settings["pos_pool"], settings["pos_num"])
    got = find_difficult(positives, np.concatenate(parts), params)
    assert got.shape == (len(positives), settings["pos_num"])
    for loop in ("diff.loop0", "diff.loop1"):
        for row, wanted in zip(got, case.ragged(f"out.{loop}.tuples"), strict=True):
            assert row[row >= 0].tolist() == wanted[2 + settings["neg_num"] :].tolist()


def test_those_that_gain_most_ranks_come_first():
    positives = np.array([[10, 11, 12, 13, 14], [20, 21, 22, -1, -1]])
    jaccard = np.array([[0.5, 0.2, 0.4, 0.3, 0.1], [0.1, 0.2, 0.3, 0, 0]])
    # By Jaccard: 14 gains 4 ranks, 11 none, 13 gains 1, 12 loses 1, 10 loses 4.
    assert choose_difficult(positives, jaccard, 4).tolist() == [[14, 13, 11, -1], [20, 21, 22, -1]]
    assert choose_difficult(positives, jaccard, 1).tolist() == [[14], [20]]
    assert choose_difficult(positives, jaccard, 6)[:, 5].tolist() == [-1, -1]


def test_every_query_with_positives_has_a_difficult_one():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 7, 300)
    positives = np.where(np.arange(6) < counts[:, None], rng.integers(0, 99, (300, 6)), -1)
    got = choose_difficult(positives, rng.random((300, 6)), 3)
    assert ((got >= 0).sum(1) >= np.minimum(counts, 1)).all()
    assert all(set(row[row >= 0]) <= set(own) for row, own in zip(got, positives, strict=True))


def test_unreadable_images_are_left_out():
    descriptors = clustered(60)
    distances = cross_distances(descriptors[:10], descriptors[10:])
    positives = 10 + np.argsort(distances, axis=1)[:, :8]
    wanted = find_difficult(positives, descriptors, RerankParams())
    moved = np.insert(np.arange(60), [4, 30], -1)  # a query and a database image
    place = np.flatnonzero(moved >= 0)
    with_gaps = np.full((62, 12), np.nan, np.float32)
    with_gaps[place] = descriptors
    got = find_difficult(np.insert(place[positives], 4, -1, axis=0), with_gaps, RerankParams())
    assert (got[4] == -1).all()
    got = np.delete(got, 4, axis=0)
    np.testing.assert_array_equal(np.where(got < 0, -1, moved[got]), wanted)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rerank_distances": "l2"}, "--rerank_distances must be one of openibl, paper, it is l2"),
        ({"pos_pool": 0}, "--pos_pool must be at least 1, it is 0"),
        ({"pos_num": 0}, "--pos_num must be at least 1, it is 0"),
    ],
)
def test_settings_out_of_range_raise(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        RerankParams(**settings)
