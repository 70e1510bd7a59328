import numpy as np
import pytest

from evaluation.search import find_neighbors


@pytest.mark.parametrize(
    ("num_database", "num_queries", "k"), [(500, 40, 20), (7, 3, 1), (5, 2, 20)]
)
def test_equals_brute_force(num_database, num_queries, k):
    rng = np.random.default_rng(0)
    database = rng.normal(size=(num_database, 32)).astype(np.float32)
    queries = rng.normal(size=(num_queries, 32)).astype(np.float32)
    predictions, distances = find_neighbors(database, queries, k)
    exact = np.linalg.norm(database[None].astype(float) - queries[:, None], axis=2)
    assert predictions.shape == distances.shape == (num_queries, min(k, num_database))
    np.testing.assert_array_equal(predictions, np.argsort(exact, axis=1)[:, :k])
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :k], atol=1e-4)


def test_a_descriptor_finds_itself():
    descriptors = np.eye(50, dtype=np.float32)
    predictions, distances = find_neighbors(descriptors, descriptors, 1)
    assert predictions[:, 0].tolist() == list(range(50))
    assert distances.max() == 0
