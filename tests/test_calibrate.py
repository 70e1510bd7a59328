import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_image
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import eval as evaluation_command
import localize
from evaluation.calibration import Calibration, load_calibration, save_calibration
from evaluation.confidence import measure_confidence
from tools import calibrate
from tools.calibrate import (
    choose_threshold,
    cross_validate,
    fit,
    main,
    measure_quality,
)


def make_queries(num_queries, seed=0):
    """Return features and what is correct, with a probability that falls with the distance."""
    rng = np.random.default_rng(seed)
    features = rng.uniform([0.2, 0.5, 0.1], [1.2, 1.0, 1.0], (num_queries, 3))
    probability = 1 / (1 + np.exp(8 * (features[:, 0] - 0.7) - 3 * (features[:, 2] - 0.5)))
    return features, rng.random(num_queries) < probability, probability


def test_a_logistic_calibration_is_that_of_scikit_learn_and_near_the_truth():
    features, correct, probability = make_queries(400)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, correct)
    confidence = fit(features, correct, "logistic").confidence(features)
    assert confidence == pytest.approx(pipeline.predict_proba(features)[:, 1], abs=1e-6)
    held_out, _, expected = make_queries(1000, seed=1)
    errors = abs(fit(features, correct, "logistic").confidence(held_out) - expected)
    assert errors.mean() < 0.05
    assert cross_validate(features, correct, "logistic") != pytest.approx(confidence, abs=1e-6)


def test_an_isotonic_calibration_rises_and_is_near_the_truth():
    features, correct, _ = make_queries(2000)
    calibration = fit(features, correct, "isotonic")
    held_out, _, expected = make_queries(1000, seed=1)
    confidence = calibration.confidence(held_out)
    assert abs(confidence - expected).mean() < 0.06
    scores = replace(calibration, steps=()).confidence(held_out)
    assert (np.diff(confidence[scores.argsort()]) >= 0).all()
    scores, probabilities = np.transpose(calibration.steps)
    again = IsotonicRegression(out_of_bounds="clip").fit(scores, probabilities)
    logits = np.log(1 / (1 / replace(calibration, steps=()).confidence(held_out) - 1))
    assert confidence == pytest.approx(again.predict(logits[:, None]), abs=1e-5)
    assert np.isnan(calibration.confidence([np.nan, 1, 1]))


def test_quality_by_hand():
    confidence = np.array([0.95, 0.85, 0.85, 0.2, 1.0])
    correct = np.array([True, True, False, False, True])
    assert measure_quality(confidence, correct, 0.85) == {
        "brier": pytest.approx((0.05**2 + 0.15**2 + 0.85**2 + 0.2**2) / 5),
        "expected_calibration_error": pytest.approx((0.05 + 0.7 + 0.2) / 5),
        "coverage": 0.8,
        "precision": 0.75,
    }


def test_the_threshold_is_the_least_with_the_precision():
    confidence, correct = np.arange(100) / 100, np.ones(100, bool)
    correct[:50] = correct[80] = False
    loop = [c for c in confidence[:-9] if correct[confidence >= c].mean() >= 0.95]
    assert choose_threshold(confidence, correct, 0.95) == min(loop)
    assert choose_threshold(confidence, correct, 1.0) == 0.81
    assert choose_threshold(confidence, ~correct, 0.95) is None


@pytest.fixture(scope="module")
def city(datasets_folder, model_file, tmp_path_factory):
    """Return a folder with evaluations of two query folders and a place index."""
    folder = tmp_path_factory.mktemp("city")
    common = [f"--resume={model_file}", "--device=cpu", "--num_workers=0", "--no_report"]
    place = f"--datasets_folder={datasets_folder}"
    sets = ["mini_city_test_v1", "mini_city_test_v2"]
    evaluation_command.main(
        [
            *(*common, place, "--datasets", *sets, f"--save_dir={folder / 'run'}"),
            f"--save_place_index={folder / 'index'}",
        ]
    )
    return folder


@pytest.fixture
def run(city, tmp_path, monkeypatch):
    """Return a copy of the evaluation in which every second of its 10 queries is correct."""
    monkeypatch.setattr(calibrate, "MIN_OF_EACH", 5)
    shutil.copytree(city / "run" / "mini_city_test_v1", tmp_path / "evaluated")
    with np.load(tmp_path / "evaluated" / "predictions.npz") as file:
        arrays = dict(file)
    assert len(arrays["correct"]) == 10
    arrays["correct"][:, 0] = np.arange(len(arrays["correct"])) % 2
    np.savez(tmp_path / "evaluated" / "predictions.npz", **arrays)
    return tmp_path / "evaluated"


def test_features_are_those_of_the_predictions(city):
    folder = city / "run" / "mini_city_test_v1"
    with np.load(folder / "predictions.npz") as file:
        features = file["confidence_features"]
    with open(folder / "predictions.csv") as file:
        rows = [row for row in csv.DictReader(file) if int(row["rank"]) <= 10]
    assert len(rows) == 10 * len(features)
    for query, measured in enumerate(features):
        own = rows[10 * query : 10 * query + 10]
        distances = [float(row["descriptor_distance"]) for row in own]
        places = [row["prediction"].rpartition("/")[2].split("@")[1:3] for row in own]
        places = np.array(places, float)
        apart = np.hypot(*(places - places[0]).T)
        elsewhere = [d for d, metres in zip(distances, apart, strict=True) if metres > 25]
        expected = (
            distances[0],
            distances[0] / min(elsewhere, default=distances[-1]),
            measure_confidence(places, np.array(distances), 25),
        )
        assert measured == pytest.approx(expected, abs=1e-4)


def test_calibrated_confidences_are_reported_by_localize(city, run, model_file, tmp_path):
    main([str(run), f"--test={city / 'run' / 'mini_city_test_v2'}", "--precision=0.3"])
    content = json.loads((run / "calibration.json").read_text())
    result = json.loads((run / "results.json").read_text())
    assert content["model_sha256"] == result["model_sha256"] and content["descriptor_dim"] == 24
    assert content["num_queries"] == result["num_queries"]
    assert content["num_correct"] == result["num_queries"] // 2
    quality = content["quality"]["calibrated"]
    assert 0 < quality["brier"] < content["quality"]["heuristic"]["brier"]
    assert quality["precision"] >= 0.3 and list(content["tests"])[0].endswith("v2")
    photos = result["queries_folder"]
    flags = [f"--resume={model_file}", f"--place_index={city / 'index'}", "--device=cpu"]
    flags += ["--num_workers=0", "--top_k=2", f"--calibration={run / 'calibration.json'}"]
    localize.main([photos, *flags, "--min_confidence=0.5", f"--save_dir={tmp_path / 'run'}"])
    with open(tmp_path / "run" / "places.csv") as file:
        rows = list(csv.DictReader(file))[::2]
    with np.load(run / "predictions.npz") as file:
        features = file["confidence_features"]
    standardised = (features - content["mean"]) / np.array(content["scale"])
    expected = 1 / (1 + np.exp(-(standardised @ content["weights"] + content["intercept"])))
    assert [float(row["confidence"]) for row in rows] == pytest.approx(expected, abs=2e-3)
    assert {row["confidence_kind"] for row in rows} == {"calibrated"}
    below = [float(row["confidence"]) < 0.5 for row in rows]
    assert [row["in_database"] == "0" for row in rows] == below and 0 < sum(below) < len(rows)
    log = (tmp_path / "run" / "info.log").read_text()
    assert log.count(": not in the database (calibrated confidence 0.") == sum(below)
    assert f"{sum(below)} of {len(rows)} photos are taken to be not in the database" in log
    features = json.loads((tmp_path / "run" / "places.geojson").read_text())["features"]
    assert [not one["properties"]["in_database"] for one in features] == below


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_identity": "ab" * 32, "model": "other.pth"}, "with the model other.pth, not with"),
        ({"resize": "480x640"}, "with resize 480x640, not with none"),
        ({"format": "recalls"}, "is no calibration: python -m tools.calibrate RUN"),
        ({"format_version": 0}, "another version"),
        ({"scale": [1.0, 0.0, 1.0]}, "is damaged: calibrate again"),
        ({"weights": [1.0]}, "is damaged: calibrate again"),
        ({"steps": [[1, 0.5], [0, 0.6]]}, "is damaged: calibrate again"),
        ({"intercept": None}, "is damaged: calibrate again"),
        ({"mean": 1e999}, "is damaged: calibrate again"),
    ],
)
def test_what_is_not_of_this_model_is_refused(tmp_path, changes, text):
    origin = {"model_identity": "cd", "resize": "none", "rerank": None}
    calibration = Calibration((0, 0, 0), (1, 1, 1), (-1, -1, 1), 0.5, facts=origin)
    save_calibration(calibration, tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json", origin).weights == (-1, -1, 1)
    content = json.loads((tmp_path / "c.json").read_text()) | changes
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=text):
        load_calibration(tmp_path / "c.json", origin)


def test_user_errors_are_sentences(city, run, model_file, refused, tmp_path):
    photo = write_image(tmp_path / "photo.png")
    line = [str(photo), f"--resume={model_file}", f"--place_index={city / 'index'}", "--device=cpu"]
    told = refused(localize.main, [*line, "--calibration=gone.json"], code=1)
    assert "There is no calibration gone.json" in told
    (tmp_path / "deep.json").write_text("[" * 100_000)
    told = refused(localize.main, [*line, "--calibration=deep.json"], code=1)
    assert "deep.json is damaged: it is nested too deeply" in told
    assert "is of several sets: give the folder of one" in refused(
        main, [str(city / "run")], code=1
    )
    assert "There is no" in refused(main, ["nowhere"], code=1)
    assert re.search("must be in 0 to 1", refused(main, [str(run), "--precision=2"], code=2))
    result = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(result | {"num_queries": 3}))
    assert "are of different runs" in refused(main, [str(run)], code=1)
    np.savez(run / "predictions.npz", predictions=np.zeros((3, 1)))
    assert "lacks labels: evaluate again" in refused(main, [str(run)], code=1)
    (run / "predictions.npz").write_bytes(b"PK")
    assert "has no whole evaluation" in refused(main, [str(run)], code=1)
