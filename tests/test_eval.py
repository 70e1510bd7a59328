import csv
import json
import os
import sys

import numpy as np
import pytest
import torch
from conftest import WITH_TINY, run
from PIL import Image
from torchvision.transforms.v2 import functional

from commons import IMAGENET_MEAN, IMAGENET_STD
from eval import main as eval_main
from model.network import build_network

TEST_SET = "--dataset=mini_city_test_v1"


@pytest.fixture
def flags(eval_flags):
    return eval_flags


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def by_hand(model_file, folder):
    """Compute descriptors and positions one image at a time, with the plainest code."""
    network = build_network("Tiny", 24, backbone_weights="none").eval()
    network.load_state_dict(torch.load(model_file, weights_only=True))
    descriptors, positions = [], []
    for path in sorted(folder.iterdir()):
        image = torch.from_numpy(np.array(Image.open(path)) / 255).float().permute(2, 0, 1)
        image = functional.normalize(image, list(IMAGENET_MEAN), list(IMAGENET_STD))
        with torch.no_grad():
            descriptors.append(network(image[None])[0].numpy())
        positions.append([float(field) for field in path.name.split("@")[1:3]])
    return np.array(descriptors), np.array(positions)


def test_recalls_are_those_counted_by_hand(flags, model_file, datasets_folder, tmp_path):
    """Slow: the command line itself."""
    result = run(*WITH_TINY, "eval.py", *flags, TEST_SET, "--positive_dist_threshold=12.5")
    assert result.returncode == 0, result.stderr
    test_folder = datasets_folder / "mini_city/processed/test"
    database, database_m = by_hand(model_file, test_folder / "database")
    queries, queries_m = by_hand(model_file, test_folder / "queries_v1")
    distances = np.linalg.norm(queries[:, None] - database[None], axis=2)
    metres = np.linalg.norm(queries_m[:, None] - database_m[None], axis=2)
    nearest = np.argsort(distances, axis=1)
    correct = np.take_along_axis(metres <= 12.5, nearest, axis=1)
    expected = {f"R@{n}": 100 * correct[:, :n].any(axis=1).mean() for n in (1, 5, 10, 20)}

    results = results_of(tmp_path / "run")
    assert results["recalls"] == pytest.approx(expected)
    assert ", ".join(f"{name}: {recall:.1f}" for name, recall in expected.items()) in result.stdout
    without = int((~(metres <= 12.5).any(axis=1)).sum())
    assert results["num_queries_without_positives"] == without
    assert f"{without} without a positive" in result.stdout
    with open(tmp_path / "run" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 * len(queries)
    for row in rows:
        query, rank = int(row["query_num"]), int(row["rank"]) - 1
        assert float(row["descriptor_distance"]) == pytest.approx(
            distances[query, nearest[query, rank]], abs=1e-4
        )
        assert (row["correct"] == "1") == (float(row["distance_m"]) <= 12.5)


def test_results_carry_the_whole_protocol(flags, model_file, tmp_path):
    eval_main(
        [*flags, TEST_SET, "--resize_test_imgs", "--image_size=48", "--recall_values", "1", "3"]
    )
    results = results_of(tmp_path / "run")
    assert set(results["recalls"]) == {"R@1", "R@3"}
    expected = {
        "dataset": "mini_city_test_v1",
        "num_queries": 10,
        "num_database": 144,
        "threshold_m": 25.0,
        "denominator": "all queries",
        "resize": "48",
        "descriptor_dim": 24,
        "search": "exact L2",
        "orientation": "upright by EXIF",
        "backbone": "Tiny",
        "aggregation": "gem",
        "model_file": str(model_file),
        "seed": 0,
    }
    assert {key: results[key] for key in expected} == expected
    assert results["image_sizes"]["database"] == {"48x48": 144}
    assert sum(results["image_sizes"]["queries"].values()) == 10
    assert len(results["image_sizes"]["queries"]) > 1, "mixed sizes"
    assert len(results["model_sha256"]) == 64 and results["code_version"]
    assert results["cost"]["seconds"] > 0
    if sys.platform != "win32":
        assert results["cost"]["peak_ram_mb"] > 50
    assert json.loads((tmp_path / "run" / "args.json").read_text())["image_size"] == 48
    [start] = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["device"] == "cpu" and start["code_version"] == results["code_version"]


def test_folders_give_what_names_give(flags, datasets_folder, tmp_path):
    eval_main([*flags, "--dataset=mini_city_test_v2"])
    test_folder = datasets_folder / "mini_city/processed/test"
    own = [f"--test_set_folder={test_folder}", "--queries_folder=queries_v2"]
    eval_main([*flags, *own, f"--save_dir={tmp_path / 'own'}", "--infer_batch_size=3"])
    by_name, by_folder = results_of(tmp_path / "run"), results_of(tmp_path / "own")
    assert by_name["recalls"] == by_folder["recalls"]
    assert by_folder["dataset"].endswith("test/queries_v2")


def test_pictures_show_each_query_or_only_the_wrong_ones(flags, tmp_path):
    eval_main([*flags, TEST_SET, "--num_preds_to_save=3"])
    assert len(os.listdir(tmp_path / "run" / "preds")) == 10
    wrong = [
        "--save_only_wrong_preds",
        "--num_preds_to_save=25",
        f"--save_dir={tmp_path / 'wrong'}",
    ]
    eval_main([*flags, TEST_SET, *wrong])
    recall_at_1 = results_of(tmp_path / "wrong")["recalls"]["R@1"]
    assert len(os.listdir(tmp_path / "wrong" / "preds")) == 10 - round(recall_at_1 / 10)
    with open(tmp_path / "wrong" / "predictions.csv") as file:
        assert len(list(csv.DictReader(file))) == 25 * 10


@pytest.mark.parametrize(
    ("extra", "code", "text"),
    [
        (
            ["--dataset=mini_city_test_v1", "--resume=gone.pth"],
            1,
            "There is no checkpoint gone.pth",
        ),
        (
            ["--dataset=mini_city_test_v1", "--resume=mixvpr:ResNet50:4096"],
            1,
            "There is no checkpoint mixvpr:ResNet50:4096: published networks go by name to --model",
        ),
        (["--dataset=mini_city_test_v1", "--resume=text.pth"], 1, "text.pth is not a checkpoint"),
        (["--dataset=sf_xl_test_v1"], 1, "https://forms.gle/"),
        (["--test_set_folder=gone"], 1, "gone has no folder database"),
        (["--dataset=mini_city_test_v1", "--resize_test_imgs=big"], 2, "A resize rule is"),
        (["--dataset=paris"], 2, "Unknown test set 'paris': choose from sf_xl_val"),
        ([], 2, "either --dataset NAME or --test_set_folder FOLDER"),
        (["--dataset", "all", "--datasets_folder=gone"], 1, "can be evaluated below gone"),
        (["--dataset=mini_city_val", "--fc_output_dim=99"], 1, "model.pth has 24; leave the flag"),
        (["--dataset=mini_city_val", "--majority_weight=0.1"], 2, "belongs to --test_method"),
        (["--dataset=mini_city_val", "--per_city", "--search=HNSW32"], 2, "leave --search out"),
        (["--dataset=mini_city_val", "--search=IVF4,PQ7"], 1, "should be a multiple"),
        (["--dataset=mini_city_val", "--search=IVF9999,Flat"], 1, "at least one descriptor"),
        (
            ["--dataset=mini_city_val", "--save_only_wrong_preds"],
            2,
            "say how many by --num_preds_to_save",
        ),
        (["--dataset=mini_city_val", "--save_descriptors=text.pth"], 1, "text.pth is a file"),
        (["--dataset=mini_city_val", "--model=m:f"], 2, "which model to evaluate, and only one"),
        (
            ["--dataset=mini_city_val", "--no_labels", "--positives=p.csv"],
            2,
            "without other labels",
        ),
        (["--dataset", "mini_city_val", "sf_xl_val", "--positives=p.csv"], 2, "one at a time"),
        (["--dataset=mini_city_val", "--aggregation_args=l2=none"], 1, "not built by this flag"),
        (["--dataset=mini_city_val", "--positives=p.csv"], 1, "no file of positives p.csv"),
        (["--dataset=mini_city_val", "--search=tree"], 2, "Unknown search 'tree'"),
        (["--dataset=mini_city_val", "--use_amp16"], 2, "needs a CUDA device, this one is cpu"),
        (["--dataset=mini_city_val", "--descriptors_dtype=float8"], 2, "invalid choice"),
        (
            ["--dataset=mini_city_val", "--load_descriptors=gone"],
            1,
            "no folder of descriptors gone",
        ),
        (
            ["--dataset", "mini_city_val", "mini_city_test_v1", "--save_place_index=saved"],
            1,
            "--save_place_index saves one database",
        ),
    ],
)
def test_user_errors_are_sentences(flags, tmp_path, refused, extra, code, text):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    assert text in refused(eval_main, [*flags, *extra], code)
    assert os.listdir(tmp_path) == ["text.pth"]


def test_a_wrong_option_of_an_untrained_network(tmp_path, refused):
    flags = ["--dataset=mini_city_val", "--untrained", "--aggregation_args=p=4"]
    assert "'p' is no option of gem; its options" in refused(eval_main, flags, code=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_query_is_named_and_not_skipped(
    flags, make_eval_folder, tmp_path, refused, num_workers
):
    folder = make_eval_folder([(0, 0), (50, 0)], [(1, 1), (2, 2), (51, 0)])
    broken = sorted((folder / "queries").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:100])
    own = [f"--test_set_folder={folder}", f"--num_workers={num_workers}"]
    message = refused(eval_main, [*flags, *own], code=1)
    assert message.strip().endswith("bytes not processed)") or "cannot be read" in message
    assert f"Error: The image {broken} cannot be read" in message
    assert not (tmp_path / "run" / "results.json").exists()


def test_every_query_without_a_positive_is_a_miss(flags, make_eval_folder, tmp_path):
    folder = make_eval_folder(
        [(0, 0)], [(0, 1), (500, 0), (900, 0), (0, 2)], sizes=[(32, 24), (24, 32)]
    )
    eval_main([*flags, f"--test_set_folder={folder}"])
    results = results_of(tmp_path / "run")
    assert results["recalls"] == {"R@1": 50.0, "R@5": 50.0, "R@10": 50.0, "R@20": 50.0}
    assert results["num_queries_without_positives"] == 2
