import csv
import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, write_image
from forked_commands import run_job, wait_for_all
from PIL import Image

import eval as evaluation_command
import localize
from evaluation.rerank import Reranker, SiftMatcher, load_matcher, match_features, rerank

HAS_OPENCV = importlib.util.find_spec("cv2") is not None
EXAMPLE = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs/localize.md").read_text(), re.S)[1]


def by_brightness(query, database):
    """A stand-in: images of nearly the same brightness are equally alike, to the next ten."""
    return -round(abs(float(query.mean()) - float(database.mean())) / 10)


@pytest.fixture
def images(tmp_path):
    grey = [100, 160, 102, 104, 240, 101]
    database = [write_image(tmp_path / f"d{n}.png", colour=[g] * 3) for n, g in enumerate(grey)]
    queries = [
        write_image(tmp_path / f"q{n}.png", colour=[g] * 3) for n, g in enumerate([100, 200])
    ]
    return list(map(str, queries)), list(map(str, database))


def test_the_first_k_are_ordered_by_score_and_ties_stay(images):
    predictions = np.array([[4, 3, 1, 0, 2, 5], [0, 1, 4, -1, -1, -1]])
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.1, 0.2, 0.3, *[np.inf] * 3]])
    reranked, moved, seconds = rerank(
        Reranker("x", by_brightness, 4), *images, predictions, distances
    )
    assert reranked.tolist() == [[3, 0, 1, 4, 2, 5], [1, 4, 0, -1, -1, -1]]
    assert moved[0].tolist() == [0.2, 0.4, 0.3, 0.1, 0.5, 0.6]
    assert moved[1, :3].tolist() == [0.2, 0.3, 0.1] and np.isinf(moved[1, 3:]).all()
    assert seconds > 0
    same, _, _ = rerank(Reranker("x", lambda *_: 1, 6), *images, predictions, distances)
    assert same.tolist() == predictions.tolist()
    assert predictions[0, 0] == 4, "what was given is not changed"
    many, _, _ = rerank(
        Reranker("x", by_brightness, 40),
        images[0][:1],
        images[1] * 7,
        np.arange(42)[None],
        np.ones((1, 42)),
    )
    best = sorted(range(40), key=lambda n: {1: 6, 4: 14}.get(n % 6, 0))  # tens apart; stable
    assert many.tolist() == [[*best, 40, 41]]


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (lambda *_: float("nan"), "--rerank x returns NaN for .*q0.png and .*d1.png"),
        (lambda *_: None, "--rerank x fails on .*q0.png and .*d1.png: TypeError"),
        (lambda *_: {}["key"], "--rerank x fails on .*q0.png and .*d1.png: KeyError: 'key'"),
    ],
)
def test_matchers_that_fail_are_named(images, match, text):
    with pytest.raises(ValueError, match=text):
        rerank(Reranker("x", match, 2), *images, np.array([[1, 0], [0, 1]]), np.ones((2, 2)))


def test_features_match_by_the_ratio_and_once():
    others = np.eye(5, dtype=np.float32)
    ambiguous = np.array([0, 0, 0, 1, 1], np.float32) / np.sqrt(2)
    descriptors = np.stack([others[1], ambiguous, others[0], 0.99 * others[1]])
    left, right = match_features(descriptors, others)
    assert (left.tolist(), right.tolist()) == ([0, 2], [1, 0])
    assert len(match_features(descriptors, others[:1])[0]) == 0
    assert len(match_features(descriptors[:0], others)[0]) == 0


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Write the example of the page into the current folder."""
    (tmp_path / "example_matcher.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    yield "example_matcher:match"
    sys.modules.pop("example_matcher", None)


def test_the_example_of_the_page_is_short_and_finds_the_same_image(example):
    assert len(EXAMPLE.splitlines()) <= 10
    match = load_matcher(example)
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    assert match(image, image) == 0 > -5 > match(image, other)


def rows_of(file):
    with open(file) as text:
        return list(csv.DictReader(text))


def test_an_evaluation_says_recalls_before_and_after(example, eval_flags, tmp_path):
    """The same in several processes, and in the queries' folders of one database."""
    sets = ["--datasets", "mini_city_test_v1", "mini_city_test_v2"]
    line = [*eval_flags, *sets, "--no_report", "--recall_values", "1", "5"]
    evaluation_command.main([*line, f"--save_dir={tmp_path / 'plain'}"])
    line += [f"--rerank={example}", "--rerank_k=4"]
    evaluation_command.main(line)
    job = run_job(2, "eval", [*line, f"--save_dir={tmp_path / 'job'}"], tmp_path / "said")
    wait_for_all(job)
    match = load_matcher(example)
    for name in sets[1:]:
        plain, ours = rows_of(tmp_path / "plain" / name / "predictions.csv"), None
        expected = []
        for first in range(0, len(plain), 5):
            rows = plain[first : first + 5]
            query = np.array(Image.open(rows[0]["query"]))
            scores = [match(query, np.array(Image.open(row["prediction"]))) for row in rows[:4]]
            best = sorted(range(4), key=lambda n: -scores[n])
            expected += [rows[n]["prediction"] for n in best] + [rows[4]["prediction"]]
        for run in ("run", "job"):
            ours = rows_of(tmp_path / run / name / "predictions.csv")
            assert (
                [row["prediction"] for row in ours] == expected != [r["prediction"] for r in plain]
            )
            result = json.loads((tmp_path / run / name / "results.json").read_text())
            before = json.loads((tmp_path / "plain" / name / "results.json").read_text())
            first = [row["correct"] == "1" for row in ours[::5]]
            assert result["recalls"]["R@1"] == pytest.approx(100 * np.mean(first))
            assert result["recalls"]["R@5"] == before["recalls"]["R@5"]
            facts = result["rerank"]
            assert facts["recalls_before"] == before["recalls"]
            assert (facts["matcher"], facts["k"]) == (example, 4) and facts["seconds_per_query"] > 0
    log = (tmp_path / "run" / "info.log").read_text()
    assert f"Re-ranking the top-4 by {example}, which runs the code of that module" in log
    values = [before["recalls"]["R@1"], result["recalls"]["R@1"]]
    assert f"top-4 re-ranked by {example}: R@1 {values[0]:.1f} -> {values[1]:.1f}, R@5" in log
    with np.load(tmp_path / "run" / name / "predictions.npz") as arrays:
        assert arrays["predictions"].shape[1] > 5 and arrays["correct"][:, 0].tolist() == first


def test_localize_re_ranks_and_says_if_images_are_gone(
    example, model_file, datasets_folder, tmp_path, refused
):
    city = datasets_folder / "mini_city/processed/test"
    line = [str(city / "queries_v2"), f"--resume={model_file}", "--device=cpu", "--num_workers=0"]
    index = [f"--database={city / 'database'}", f"--save_place_index={tmp_path / 'index'}"]
    localize.main([*line, *index, f"--save_dir={tmp_path / 'plain'}", "--top_k=6"])
    line += [f"--place_index={tmp_path / 'index'}", f"--rerank={example}", "--rerank_k=6"]
    localize.main([*line, f"--save_dir={tmp_path / 'run'}", "--top_k=3"])
    plain, ours = (rows_of(tmp_path / run / "places.csv") for run in ("plain", "run"))
    match = load_matcher(example)
    for photo in range(len(plain) // 6):
        rows = plain[6 * photo : 6 * photo + 6]
        image = np.array(Image.open(rows[0]["photo"]))
        scores = [match(image, np.array(Image.open(row["database_image"]))) for row in rows]
        best = sorted(range(6), key=lambda n: -scores[n])[:3]
        found = [row["database_image"] for row in ours[3 * photo : 3 * photo + 3]]
        assert found == [rows[n]["database_image"] for n in best]
    assert f"Re-ranked by {example}: 0." in (tmp_path / "run" / "info.log").read_text()
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    facts["database_folder"] = str(tmp_path / "gone")
    (tmp_path / "index" / "index.json").write_text(json.dumps(facts))
    assert "bring them back, or leave --rerank out" in refused(localize.main, line, code=1)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--rerank=loftr"], "give sift, or MODULE:FUNCTION"),
        (["--rerank=gone:match"], "gone:match cannot be imported: ModuleNotFoundError"),
        (["--rerank=json:gone"], "json:gone cannot be imported: AttributeError"),
        (["--rerank=json:decoder"], "is no function of a query and a database image"),
        (["--rerank_k=5"], "--rerank_k says how many predictions --rerank compares"),
    ],
)
def test_what_is_no_matcher_is_refused(eval_flags, refused, extra, text):
    line = [*eval_flags, "--dataset=mini_city_test_v1", *extra]
    assert text in refused(evaluation_command.main, line, code=2)


@pytest.mark.skipif(HAS_OPENCV, reason="OpenCV is installed")
def test_sift_without_opencv_is_a_sentence(eval_flags, refused):
    line = [*eval_flags, "--dataset=mini_city_test_v1", "--rerank=sift"]
    assert "pip install opencv-python-headless" in refused(evaluation_command.main, line, code=2)


@pytest.mark.skipif(not HAS_OPENCV, reason="needs OpenCV: pip install opencv-python-headless")
def test_sift_counts_the_points_of_one_homography():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC))
    turned = np.array(Image.fromarray(image).rotate(10, Image.Resampling.BICUBIC))
    other = np.array(Image.fromarray(small[::-1, ::-1].copy()[:, :, ::-1]).resize((320, 240)))
    match = SiftMatcher()
    assert match(image, turned) > 50 > 20 > match(image, rng.permutation(other))
    assert match(image, turned) == match(image, turned)
    assert match(np.zeros((64, 64, 3), np.uint8), image) == 0
