import json

import numpy as np
import pytest

from evaluation.recall import compute_recalls


def test_hand_made_example():
    """Four queries: right at rank 1, at rank 3, never, and without any positive."""
    predictions = np.array([[4, 0, 1], [2, 3, 0], [1, 2, 3], [0, 1, 2]])
    positives = [np.array([4, 7]), np.array([0]), np.array([5]), np.array([], int)]
    recalls = compute_recalls(predictions, positives, (1, 2, 3, 20))
    assert recalls.tolist() == [25.0, 25.0, 50.0, 50.0]
    half = [positives[0]] * 111 + [positives[3]] * 89
    assert compute_recalls(predictions[:1].repeat(200, axis=0), half, (1,)).tolist() == [55.5]


def test_disagreeing_inputs_are_refused():
    with pytest.raises(ValueError, match="2 rows of predictions for 1 queries"):
        compute_recalls(np.zeros((2, 1), int), [np.array([0])], (1,))
    with pytest.raises(ValueError, match="0 rows"):
        compute_recalls(np.zeros((0, 1), int), [], (1,))


def test_recalls_of_published_similarities(shared_data):
    """Four methods on a real corridor: the recalls that their authors' code gives."""
    corridor = shared_data / "corridor"
    expected = json.loads((corridor / "expected_recalls.json").read_text())
    positives = json.loads((corridor / "positives.json").read_text())["positives_per_query"]
    with np.load(corridor / "similarities.npz") as similarities:
        assert len(similarities.files) == len(expected["recalls"]) == 4
        for method, recalls in expected["recalls"].items():
            of_method = similarities[method.replace("-", "_")]  # [num_queries, num_database]
            predictions = np.argsort(-of_method, axis=1, kind="stable")
            actual = compute_recalls(predictions, positives, expected["recall_at"])
            np.testing.assert_allclose(actual, recalls, atol=0.05, err_msg=method)
