import numpy as np
import pytest

from evaluation.crops import merge_crops

INF = np.inf


def by_hand(predictions, distances, weight):
    """Rank one query's crops with plain lists, as the benchmark's protocol is told in words."""
    squared = [[distance**2 for distance in row] for row in distances]
    if weight:
        for n in (1, 5, 10):
            head = [image for row in predictions for image in row[:n]]
            for crop, row in enumerate(predictions):
                for rank, image in enumerate(row[:n]):
                    if head.count(image) > 1:
                        squared[crop][rank] -= weight * head.count(image) / n
    pairs = [
        (squared[crop][rank], crop, rank, image)
        for crop, row in enumerate(predictions)
        for rank, image in enumerate(row)
    ]
    ranking = []
    for value, _, _, image in sorted(pairs):
        if image not in [known for known, _ in ranking]:
            ranking.append((image, max(value, 0) ** 0.5))
    return ranking[: len(predictions[0])]


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("num_views", "k"), [(5, 20), (5, 3), (2, 30), (1, 4)])
def test_equals_plain_lists(weight, num_views, k):
    rng = np.random.default_rng(k)
    predictions = np.stack([[rng.permutation(40)[:k] for _ in range(num_views)] for _ in range(6)])
    distances = np.sort(rng.uniform(0.4, 1.2, predictions.shape), axis=2)
    merged, merged_distances = merge_crops(predictions, distances, weight)
    assert merged.shape == merged_distances.shape == (6, k)
    for query in range(6):
        expected = by_hand(predictions[query].tolist(), distances[query].tolist(), weight)
        assert merged[query].tolist() == [image for image, _ in expected]
        np.testing.assert_allclose(merged_distances[query], [d for _, d in expected], atol=1e-6)


def test_votes_win_over_a_nearer_loner():
    predictions = np.array([[[7, 1], [2, 1], [3, 1], [4, 1], [5, 1]]])
    distances = np.array([[[0.50, 0.51], [0.6, 0.61], [0.6, 0.61], [0.6, 0.61], [0.6, 0.61]]])
    assert merge_crops(predictions, distances)[0][0].tolist() == [7, 1]
    assert merge_crops(predictions, distances, 0.01)[0][0].tolist() == [1, 7]


def test_missing_predictions_come_last():
    predictions = np.array([[[3, -1], [3, -1]]])
    merged, distances = merge_crops(predictions, np.array([[[0.5, INF], [0.4, INF]]]), 0.01)
    assert merged.tolist() == [[3, -1]] and distances[0, 1] == INF
