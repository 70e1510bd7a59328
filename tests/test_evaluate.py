import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import name, write_image
from golden_cases import golden
from layouts import write_set

from datasets.eval_set import Labels, load_own_set, load_test_set
from datasets.images import load_image
from evaluation import Protocol, evaluate
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Inference
from evaluation.evaluate import compute_recalls, evaluate_all, merge_crops
from evaluation.search import find_neighbors

CPU = Inference(torch.device("cpu"))


class CountingModel:
    """Returns the mean colours of two halves as descriptors, and counts the images."""

    def __init__(self):
        self.num_images = 0

    def __call__(self, images):
        self.num_images += len(images)
        height = images.shape[2]
        parts = (images[:, :, : height // 2], images[:, :, height // 2 :])
        return torch.cat([part.mean((2, 3)) for part in parts], dim=1)


def by_hand(paths):
    images = [load_image(path).float() / 255 for path in paths]
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return CountingModel()(torch.stack([(image - mean) / std for image in images])).numpy()


def write_city(folder, database, queries):
    for part, positions in {"database": database, **queries}.items():
        for number, position in enumerate(positions):
            write_image(folder / part / name(*position, pano_id=f"{part}{number:03d}"))
    return folder


@pytest.fixture
def city(tmp_path):
    rng = np.random.default_rng(0)
    queries = {part: rng.uniform(0, 120, (7, 2)) for part in ("queries_v1", "queries_night")}
    return write_city(tmp_path / "city", rng.uniform(0, 120, (30, 2)), queries)


def load(folder, part, **labels):
    return load_own_set(folder, part, Labels(**labels))


def test_sets_with_one_database_share_one_pass(city, tmp_path):
    other = write_city(tmp_path / "other", [(0, 0)] * 5, {"queries": [(1, 1)] * 2})
    sets = [load(city, "queries_v1"), load(other, "queries"), load(city, "queries_night")]
    model = CountingModel()
    evaluations = list(evaluate_all(model, sets, Protocol((1, 5)), CPU))
    assert model.num_images == 30 + 7 + 7 + 5 + 2
    assert [one.eval_set.name.split("/")[1:] for one in evaluations] == [
        ["city", "queries_v1"],
        ["city", "queries_night"],
        ["other", "queries"],
    ]
    for evaluation in evaluations:
        alone = evaluate(CountingModel(), evaluation.eval_set, Protocol((1, 5)), CPU)
        assert alone.result == evaluation.result
        np.testing.assert_array_equal(alone.predictions, evaluation.predictions)


def test_predictions_metres_and_hits_equal_brute_force(city):
    eval_set = load(city, "queries_v1")
    evaluation = evaluate(CountingModel(), eval_set, Protocol((1, 4)), CPU, min_predictions=12)
    database, queries = by_hand(eval_set.database), by_hand(eval_set.queries)
    distances = np.linalg.norm(queries[:, None] - database[None], axis=2)
    nearest = np.argsort(distances, axis=1)[:, :12]
    np.testing.assert_array_equal(evaluation.predictions, nearest)
    np.testing.assert_allclose(
        evaluation.distances, np.take_along_axis(distances, nearest, axis=1), atol=1e-5
    )
    offsets = eval_set.positions.queries_m[:, None] - eval_set.positions.database_m[None]
    metres = np.take_along_axis(np.hypot(*np.moveaxis(offsets, 2, 0)), nearest, axis=1)
    np.testing.assert_allclose(evaluation.distances_m, metres)
    np.testing.assert_array_equal(evaluation.correct, metres <= 25)
    assert evaluation.result["recalls"] == {
        f"R@{n}": pytest.approx(100 * (metres[:, :n] <= 25).any(axis=1).mean()) for n in (1, 4)
    }


def test_k_larger_than_the_database_lists_all_of_it(city):
    evaluation = evaluate(CountingModel(), load(city, "queries_v1"), Protocol((1, 500)), CPU)
    assert evaluation.predictions.shape == (7, 30)
    assert all(sorted(row) == list(range(30)) for row in evaluation.predictions.tolist())


def test_a_search_per_city_finds_nothing_of_another_city(tmp_path):
    write_set(tmp_path, "msls_test", np.random.default_rng(0))
    eval_set = load_test_set("msls_test", tmp_path)
    evaluation = evaluate(CountingModel(), eval_set, Protocol((1, 5)), CPU, min_predictions=20)
    database, queries = by_hand(eval_set.database), by_hand(eval_set.queries)
    in_cph = np.array(["_cph@" in path for path in eval_set.database])
    for query, path in enumerate(eval_set.queries):
        own = np.flatnonzero(in_cph == ("_cph@" in path))
        order = own[np.argsort(np.linalg.norm(database[own] - queries[query], axis=1))]
        assert evaluation.predictions[query].tolist() == [*order, *[-1] * 8]
    assert np.isnan(evaluation.distances_m[:, -1]).all()
    assert "each query in its own city" in evaluation.result["search"]


@pytest.mark.parametrize("method", ["nearest_crop", "maj_voting", "five_crops", "central_crop"])
def test_test_methods_crop_queries_and_not_the_database(city, method):
    eval_set = load(city, "queries_v1")
    model = CountingModel()
    protocol = Protocol((1, 5), "24x20", method, majority_weight=0.05)
    evaluation = evaluate(model, eval_set, protocol, CPU)
    num_views = 1 if method == "central_crop" else 5
    assert model.num_images == 30 + 7 * num_views
    assert evaluation.predictions.shape == (7, 5)
    assert all(len(set(row)) == 5 for row in evaluation.predictions.tolist())
    assert evaluation.result["test_method"] == method
    assert evaluation.result["image_sizes"]["database"] == {"24x20": 30}
    side = {"24x20": 7} if method == "central_crop" else {"20x20": 7}
    assert evaluation.result["image_sizes"]["queries"] == side


def test_methods_resize_to_the_size_of_the_benchmark_unless_told(city):
    result = evaluate(
        CountingModel(), load(city, "queries_v1"), Protocol(test_method="single_query"), CPU
    ).result
    assert result["resize"] == "480x640"
    assert result["image_sizes"] == {"database": {"480x640": 30}, "queries": {"480x640": 7}}


def test_unreadable_images_count_as_misses_and_are_never_predicted(city):
    eval_set = load(city, "queries_v1")
    intact = evaluate(CountingModel(), eval_set, Protocol((1, 30)), CPU)
    lost_image, lost_query = int(intact.predictions[0, 0]), 3
    for path in (eval_set.database[lost_image], eval_set.queries[lost_query]):
        with open(path, "wb") as file:
            file.write(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        evaluate(CountingModel(), eval_set, Protocol((1, 30)), CPU)
    skipping = Inference(torch.device("cpu"), skip_unreadable=True)
    evaluation = evaluate(CountingModel(), eval_set, Protocol((1, 30)), skipping)
    assert evaluation.result["num_unreadable"] == {"database": 1, "queries": 1}
    assert evaluation.result["num_queries"] == 7
    for query in range(7):
        left = [image for image in intact.predictions[query].tolist() if image != lost_image]
        expected = [-1] * 29 if query == lost_query else left
        assert evaluation.predictions[query].tolist() == expected
    assert not evaluation.correct[lost_query].any()
    found = [bool(evaluation.correct[query].any()) for query in range(7)]
    assert evaluation.result["recalls"]["R@30"] == pytest.approx(100 * sum(found) / 7)


def test_saved_descriptors_with_gaps_are_not_loaded_silently(city, tmp_path):
    eval_set = load(city, "queries_v1")
    with open(eval_set.queries[3], "wb") as file:
        file.write(b"broken")
    skipping = Inference(torch.device("cpu"), skip_unreadable=True)
    folder = tmp_path / "descriptors"
    model = CountingModel()
    list(evaluate_all(model, [eval_set], Protocol(), skipping, 1, DescriptorFiles("m", folder)))
    files = DescriptorFiles("m", load_folder=folder)
    with pytest.raises(ValueError, match="1 of 7 images .* could not be read .* --skip_unreadable"):
        list(evaluate_all(model, [eval_set], Protocol(), CPU, 1, files))
    [evaluation] = evaluate_all(model, [eval_set], Protocol(), skipping, 1, files)
    assert evaluation.result["num_unreadable"]["queries"] == 1
    assert model.num_images == 30 + 6, "extracted once"


def test_without_labels_nothing_is_counted(city):
    result = evaluate(CountingModel(), load(city, "queries_v1", none=True), Protocol(), CPU).result
    assert result["recalls"] == {} and result["positives"] is None
    assert result["num_queries_without_positives"] is None and result["threshold_m"] is None


def test_results_say_what_the_recalls_depend_on(city):
    result = evaluate(CountingModel(), load(city, "queries_v1", threshold_m=40.0), Protocol(), CPU)
    expected = {
        "protocol": "all queries",
        "positives": "UTM distance of at most 40 m",
        "threshold_m": 40.0,
        "denominator": "all queries",
        "resize": "none",
        "test_method": "as the database",
        "num_unreadable": {"database": 0, "queries": 0},
        "descriptor_dim": 6,
        "search_agreement": None,
    }
    assert {key: result.result[key] for key in expected} == expected
    assert Counter(result.result["image_sizes"]["queries"]) == {"24x32": 7}


def test_byte_identical_images_are_both_predicted(tmp_path):
    """A defined result for duplicate files: the lower number first."""
    for number, position in enumerate([(0, 0), (10, 0), (90, 0)]):
        write_image(tmp_path / "database" / name(*position, pano_id=str(number)), colour=(9, 9, 9))
    write_image(tmp_path / "queries" / name(1, 1), colour=(9, 9, 9))
    evaluation = evaluate(CountingModel(), load(tmp_path, "queries"), Protocol((1, 2, 3)), CPU)
    assert evaluation.predictions.tolist() == [[0, 1, 2]]
    assert evaluation.distances.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"recall_values": ()}, "--recall_values must be at least 1"),
        ({"recall_values": (0, 1)}, "--recall_values must be at least 1"),
        ({"resize": "big"}, "A resize rule is"),
        ({"search": "tree"}, "Unknown search 'tree'"),
        ({"resize": "480", "test_method": "five_crops"}, "needs --resize_test_imgs HxW"),
    ],
)
def test_impossible_protocols_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        Protocol(**fields)


def rank_by_hand(predictions, distances, weight):
    """Rank one query's crops with plain lists, as the benchmark's paper describes it."""
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
        expected = rank_by_hand(predictions[query].tolist(), distances[query].tolist(), weight)
        assert merged[query].tolist() == [image for image, _ in expected]
        np.testing.assert_allclose(merged_distances[query], [d for _, d in expected], atol=1e-6)


def test_votes_win_over_a_nearer_loner():
    predictions = np.array([[[7, 1], [2, 1], [3, 1], [4, 1], [5, 1]]])
    distances = np.array([[[0.50, 0.51], [0.6, 0.61], [0.6, 0.61], [0.6, 0.61], [0.6, 0.61]]])
    assert merge_crops(predictions, distances)[0][0].tolist() == [7, 1]
    assert merge_crops(predictions, distances, 0.01)[0][0].tolist() == [1, 7]


def test_missing_predictions_come_last():
    predictions = np.array([[[3, -1], [3, -1]]])
    merged, distances = merge_crops(predictions, np.array([[[0.5, np.inf], [0.4, np.inf]]]), 0.01)
    assert merged.tolist() == [[3, -1]] and distances[0, 1] == np.inf


def test_recalls_of_a_hand_made_example():
    """Four queries: correct at rank 1, at rank 3, never, and without any positive."""
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


@pytest.mark.parametrize(
    "method", ["hard_resize", "single_query", "five_crops", "nearest_crop", "maj_voting"]
)
def test_recalls_are_those_of_the_benchmark(method):
    """On the same descriptors; over all queries, also those without positives."""
    case = golden("evaluation_a")
    crops = case["in.crops5"].astype(np.float32)
    queries = {
        "hard_resize": case["in.queries"],
        "single_query": case["in.queries"],
        "five_crops": crops.mean(axis=1),
    }.get(method, crops.reshape(-1, crops.shape[2]))
    database = case["in.database"].astype(np.float32)
    predictions, distances = find_neighbors(database, queries.astype(np.float32), 20)
    if method in ("nearest_crop", "maj_voting"):
        weight = case.meta["cfg"]["majority_weight"] if method == "maj_voting" else 0.0
        shape = (*crops.shape[:2], 20)
        predictions, _ = merge_crops(predictions.reshape(shape), distances.reshape(shape), weight)
    recalls = compute_recalls(predictions, case.ragged("in.positives"), (1, 5, 10, 20))
    np.testing.assert_allclose(recalls, case[f"out.recalls_{method}"])


def test_recalls_of_queries_with_positives_are_those_of_openibl():
    case = golden("evaluation_a")
    kept = case["in.openibl_queries_kept"]
    positives = [case.ragged("in.positives")[query] for query in kept]
    database, queries = (case[f"in.{part}"].astype(np.float32) for part in ("database", "queries"))
    predictions, _ = find_neighbors(database, queries[kept], 20)
    recalls = compute_recalls(predictions, positives, (1, 5, 10))
    np.testing.assert_allclose(recalls / 100, case["out.openibl_recalls_nms0"])
