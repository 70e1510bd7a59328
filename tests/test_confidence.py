import csv
import itertools
import json

import numpy as np
import pytest

import eval as evaluation_command
from evaluation.confidence import measure_confidence, measure_risk, measure_spread, risk_curve


def test_risk_of_a_case_by_hand():
    distances, correct = np.array([0.4, 0.1, 0.2, 0.3]), np.array([True, True, False, True])
    assert risk_curve(distances, correct).tolist() == pytest.approx([0, 50, 100 / 3, 25])
    assert measure_risk(distances, correct) == {
        "area": pytest.approx((0 + 50 + 100 / 3 + 25) / 4),
        "risk_at_coverage": {"25": 0, "50": 50, "75": pytest.approx(100 / 3), "100": 25},
        "R@100P": 25,
    }


@pytest.mark.parametrize("seed", range(5))
def test_risk_is_the_mean_over_all_orders_of_equal_distances(seed):
    rng = np.random.default_rng(seed)
    distances, correct = rng.integers(0, 3, 6) / 2, rng.random(6) < 0.5
    curves, best = [], 0
    for order in itertools.permutations(range(6)):
        order = sorted(order, key=lambda query: distances[query])  # stable
        wrong = [not correct[query] for query in order]
        curves.append([100 * sum(wrong[: k + 1]) / (k + 1) for k in range(6)])
    for threshold in {0, *distances + 0.1}:
        accepted = distances < threshold
        if correct[accepted].all():
            best = max(best, 100 * accepted.sum() / 6)
    assert risk_curve(distances, correct) == pytest.approx(np.mean(curves, axis=0))
    assert measure_risk(distances, correct)["R@100P"] == pytest.approx(best)


@pytest.mark.parametrize(("is_correct", "area", "share"), [(True, 0, 100), (False, 100, 0)])
def test_all_correct_or_all_wrong(is_correct, area, share):
    measured = measure_risk(np.array([0.5, 0.6]), np.array([is_correct] * 2))
    assert (measured["area"], measured["R@100P"]) == (area, share)


def test_an_evaluation_says_risk_and_coverage(eval_flags, tmp_path):
    evaluation_command.main([*eval_flags, "--dataset=mini_city_test_v2"])
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    with open(tmp_path / "run" / "predictions.csv") as file:
        first = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    first.sort(key=lambda row: float(row["descriptor_distance"]))
    correct, risks, share = [row["correct"] == "1" for row in first], [], 0
    for k in range(1, len(first) + 1):
        risks.append(100 * correct[:k].count(False) / k)
        share = max(share, 100 * k / len(first) if all(correct[:k]) else 0)
    assert result["risk_coverage"]["area"] == pytest.approx(sum(risks) / len(risks))
    assert result["risk_coverage"]["R@100P"] == pytest.approx(share)
    assert result["risk_coverage"]["risk_at_coverage"]["100"] == pytest.approx(risks[-1])
    assert risks[-1] == pytest.approx(100 - result["recalls"]["R@1"])
    said = f"; R@100P: {share:.1f}, area of risk-coverage: {sum(risks) / len(risks):.1f} | "
    assert said in (tmp_path / "run" / "info.log").read_text()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Wrong predictions among the accepted ones" in report
    assert f"R@100P: {share:.1f}% are accepted before" in report


def test_spread_is_the_median_distance_to_the_medoid():
    positions_m = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0], [-600.0, -600.0]])
    assert measure_spread(positions_m) == 20  # to (0, 0): 10, 20, 849
    assert measure_spread(positions_m[:2]) == 10
    assert measure_spread(positions_m[:1]) is None


@pytest.mark.parametrize(
    ("east_m", "distances", "expected"),
    [
        ([0, 25, 25.1], [0.5, 0.5, 0.5], 2 / 3),
        ([0, 100, 5], [0.5, 1.0, 1.0], (1 + 0.25) / (1 + 0.25 + 0.25)),
        ([0, 100, 200], [0.0, 0.5, 0.6], 1),
        ([0, 100, 0], [0.0, 0.0, 0.6], 0.5),
        ([0], [0.5], None),
        ([], [], None),
    ],
)
def test_confidence_is_the_share_of_votes_near_the_first(east_m, distances, expected):
    positions_m = np.stack((np.array(east_m, float), np.zeros(len(east_m))), axis=1)
    confidence = measure_confidence(positions_m, np.array(distances, np.float32), 25.0)
    assert confidence == (expected if expected is None else pytest.approx(expected))
