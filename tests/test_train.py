import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY, name, run, write_image
from PIL import Image

import commons
from eval import main as eval_main
from model import build_network
from model.checkpoints import load_network
from model.files import read_checkpoint
from train import main as train_main

SMALL = [
    *("--dataset=mini_city", "--backbone=ResNet18", "--backbone_weights=none"),
    *("--fc_output_dim=16", "--image_size=32", "--resize_test_imgs=32", "--batch_size=4"),
    *("--min_images_per_class=3", "--groups_num=2", "--epochs_num=4", "--iterations_per_epoch=3"),
    *("--lr=0.001", "--num_workers=0", "--device=cpu"),
]


@pytest.fixture
def flags(datasets_folder, tmp_path):
    """Return the flags of a small training that writes below tmp_path."""
    places = {"datasets_folder": datasets_folder, "cache_folder": tmp_path / "cache"}
    return [*SMALL, *(f"--{key}={value}" for key, value in places.items())]


def tensors_of(content, prefix=""):
    """Flatten a checkpoint to {path: tensor or plain value}."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    else:
        return {prefix: content}
    return {k: v for key, value in items for k, v in tensors_of(value, f"{prefix}/{key}").items()}


def assert_same_state(folder, other):
    """Compare networks, heads, optimizers and generators to the last bit."""
    state, expected = (
        tensors_of(read_checkpoint(path / "last_checkpoint.pth") | {"args": None})
        for path in (folder, other)
    )
    assert state.keys() == expected.keys() and len(state) > 100
    for key, value in state.items():
        other_value = expected[key]
        same = torch.equal(value, other_value) if torch.is_tensor(value) else value == other_value
        assert same, key
    best, expected_best = (read_checkpoint(path / "best_model.pth") for path in (folder, other))
    assert all(torch.equal(best[key], expected_best[key]) for key in expected_best)


def metrics_of(folder):
    """Read metrics.jsonl, without the times that differ from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait_share", "seconds")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def test_trains_validates_and_tests_as_a_user_runs_it(flags, tmp_path):
    result = run("train.py", *flags, "--save_dir", tmp_path / "run", "--num_preds_to_save", 2)
    assert result.returncode == 0, result.stderr
    assert "Epoch 3: group 1" in result.stdout and "Test of the best network" in result.stdout
    folder = tmp_path / "run"
    assert json.loads((folder / "args.json").read_text())["fc_output_dim"] == 16
    metrics = metrics_of(folder)
    assert [(line["epoch"], line["group"]) for line in metrics] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert all(line["loss"] > 0 and 0 <= line["R@1"] <= line["R@20"] <= 100 for line in metrics)
    assert any(file.startswith("events.out.tfevents") for file in os.listdir(folder))
    results = json.loads((folder / "results.json").read_text())
    assert results["dataset"] == "mini_city_test_v1" and results["threshold_m"] == 25
    assert results["descriptor_dim"] == 16 and results["resize"] == "32" and results["seed"] == 0
    assert (
        results["model_file"] == str(folder / "best_model.pth")
        and len(results["model_sha256"]) == 64
    )
    assert len(os.listdir(folder / "preds")) == results["num_queries"] > 0
    assert Image.open(folder / "preds" / "00000.jpg").height > 256
    assert load_network(folder / "best_model.pth").out_dim == 16
    assert not [file for file in os.listdir(folder) if file.startswith(".")], "no temporary files"
    info = (folder / "info.log").read_text()
    assert "2 groups" not in info and "Epoch 0: group 0" in info


def test_killed_and_continued_training_equals_an_uninterrupted_one(flags, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [*flags, "--num_workers=1"]
    assert run("train.py", *flags, "--save_dir", whole).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags, "--save_dir", str(killed)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        time.sleep(0.01)
        lines = killed / "metrics.jsonl"
        if lines.exists() and lines.read_text().count("\n") >= 2:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    result = run("train.py", "--resume_train", killed / "last_checkpoint.pth")
    assert result.returncode == 0, result.stderr
    assert_same_state(killed, whole)
    assert metrics_of(killed) == metrics_of(whole)
    recalls, expected = (
        json.loads((folder / "results.json").read_text())["recalls"] for folder in (killed, whole)
    )
    assert recalls == expected


def test_longer_training_continues_a_finished_one(flags, tmp_path):
    train_main([*flags, "--epochs_num=3", f"--save_dir={tmp_path / 'whole'}"])
    train_main([*flags, "--epochs_num=2", f"--save_dir={tmp_path / 'parts'}"])
    train_main([f"--resume_train={tmp_path / 'parts' / 'last_checkpoint.pth'}", "--epochs_num=3"])
    assert_same_state(tmp_path / "parts", tmp_path / "whole")


def test_augmentation_device_and_workers_change_nothing(flags, tmp_path):
    flags = [*flags, "--epochs_num=1"]
    train_main([*flags, "--num_workers=1", f"--save_dir={tmp_path / 'workers'}"])
    train_main([*flags, "--augmentation_device=cuda", f"--save_dir={tmp_path / 'device'}"])
    assert_same_state(tmp_path / "workers", tmp_path / "device")


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_mixed_precision_takes_the_same_path(flags, tmp_path, amp_dtype):
    flags = [*flags, "--epochs_num=1", "--lr=1e-7", "--classifiers_lr=1e-5"]
    amp = ["--use_amp16", f"--amp_dtype={amp_dtype}"]
    train_main([*flags, *amp, f"--save_dir={tmp_path / 'run'}"])
    (line,) = metrics_of(tmp_path / "run")
    train_main([*flags, f"--save_dir={tmp_path / 'full'}"])
    (full,) = metrics_of(tmp_path / "full")
    assert line["loss"] == pytest.approx(full["loss"], rel=0.05) and line["loss"] != full["loss"]
    scaler = read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["scaler_state_dict"]
    assert bool(scaler) is (amp_dtype == "fp16")


def test_training_lowers_the_loss_and_leaves_frozen_layers_alone(flags, tmp_path):
    longer = ["--groups_num=1", "--iterations_per_epoch=25", "--epochs_num=3"]
    train_main([*flags, *longer, f"--save_dir={tmp_path / 'run'}"])
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[2] < 0.8 * losses[0], losses
    commons.seed_everything(0)
    start = build_network("ResNet18", 16, backbone_weights="none").state_dict()
    end = read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["model_state_dict"]
    changed = {key for key in start if not torch.equal(start[key], end[key])}
    assert "backbone.7.1.conv2.weight" in changed and "aggregation.1.p" in changed
    assert "backbone.1.running_mean" in changed, "statistics of frozen layers move, as in the paper"
    frozen = (
        "backbone.0.",
        "backbone.1.w",
        "backbone.1.b",
        "backbone.4.0.conv",
        "backbone.5.0.conv",
    )
    assert not [key for key in changed if key.startswith(frozen)]


def test_evaluation_without_a_model_is_the_network_that_training_starts_from(
    flags, datasets_folder, monkeypatch
):
    captured = []

    def capture(model_or_training, *_args, **_kwargs):
        network = getattr(model_or_training, "network", model_or_training)
        captured.append(network.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr("train.fit", capture)
    monkeypatch.setattr("eval.evaluate", capture)
    monkeypatch.chdir(datasets_folder.parent)
    with pytest.raises(KeyboardInterrupt):
        train_main([*flags, "--seed=5"])
    with pytest.raises(KeyboardInterrupt):
        eval_main(
            "--dataset mini_city_test_v1 --backbone ResNet18 --backbone_weights none "
            f"--fc_output_dim 16 --seed 5 --datasets_folder {datasets_folder}".split()
        )
    assert all(torch.equal(captured[0][key], captured[1][key]) for key in captured[0])


@pytest.mark.parametrize(
    "change",
    [
        "--M=15",
        "--alpha=60",
        "--N=4",
        "--L=1",
        "--groups_num=1",
        "--fc_output_dim=8",
        "--min_images_per_class=4",
        "--backbone=ResNet50",
        "--pooling=avg",
        "--train_all_layers",
        "--save_dir=elsewhere",
    ],
)
def test_continuing_with_other_classes_or_network_is_refused(continued, change):
    before = (continued / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=f"cannot be continued: {change.split('=')[0]} is "):
        train_main([f"--resume_train={continued / 'last_checkpoint.pth'}", change])
    assert (continued / "metrics.jsonl").read_text() == before


@pytest.fixture(scope="module")
def continued(datasets_folder, tmp_path_factory):
    """Return the folder of a finished training of one epoch."""
    folder = tmp_path_factory.mktemp("continued")
    places = [f"--datasets_folder={datasets_folder}", f"--cache_folder={folder / 'cache'}"]
    train_main([*SMALL, *places, "--epochs_num=1", f"--save_dir={folder / 'run'}"])
    return folder / "run"


def test_continuing_on_other_images_is_refused(continued, tmp_path):
    for number in range(8):
        write_image(tmp_path / "train" / name(1, 1, 1 + 30 * (number % 2), pano_id=f"{number}"))
    with pytest.raises(ValueError, match="names of the training images have changed"):
        train_main(
            [
                f"--resume_train={continued / 'last_checkpoint.pth'}",
                f"--train_set_folder={tmp_path / 'train'}",
                "--groups_num=2",
                "--N=5",
                "--L=2",
            ]
        )


def test_without_sf_xl_it_ends_at_once_and_says_what_to_do(tmp_path):
    command = [REPOSITORY / "train.py", "--groups_num", 8, "--M", 10]
    result = run(*command, "--datasets_folder", tmp_path / "data", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    for text in (
        f"{tmp_path}/data/sf_xl/processed/train",
        "processed/test/database/",
        "https://forms.gle/",
        "python -m datasets.mini_city",
    ):
        assert text in result.stderr
    assert os.listdir(tmp_path) == []


def test_too_few_groups_are_listed(flags, tmp_path, refused):
    message = refused(train_main, [*flags, "--groups_num=49"], code=1)
    assert "--groups_num is 49, but only" in message
    assert "images/class" in message and "Set --groups_num to" in message
    assert os.listdir(tmp_path) == ["cache"]


def test_dry_run_prints_the_groups_and_stops(flags, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        train_main([*flags, "--dry_run"])
    assert "groups with M=10, alpha=30, N=5, L=2" in caplog.text and "images/class" in caplog.text
    assert os.listdir(tmp_path) == ["cache"]


def test_names_without_heading_are_counted(flags, tmp_path, refused):
    for number in range(5):
        heading_deg = None if number else 20
        write_image(tmp_path / "mine" / name(1, 1, heading_deg, pano_id=f"{number}"))
    message = refused(train_main, [*flags, "--train_set_folder=mine"], code=1)
    assert "heading (field 9" in message and "in 4 of 5 images, for example @0000001.00" in message
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    ("extra", "code", "text"),
    [
        ("--alpha=400", 2, "--alpha must be at most 360"),
        ("--hue=0.7", 2, "--hue must be in 0 to 0.5"),
        ("--resize_test_imgs=large", 2, "A resize rule is"),
        pytest.param(
            "--device=cuda",
            2,
            "--device cuda: no such device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ("--resume_model=gone.pth", 1, "There is no checkpoint gone.pth"),
        ("--resume_train=gone.pth", 1, "There is no checkpoint gone.pth"),
        ("--val_set_folder=gone", 1, "gone/database does not exist"),
        ("--backbone_weights=gone.pth", 1, "--backbone_weights: There is no checkpoint gone.pth"),
        ("--save_dir=used", 1, "used already holds a run"),
    ],
)
def test_user_errors_are_sentences(flags, tmp_path, refused, extra, code, text):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "args.json").write_text("{}")
    assert text in refused(train_main, [*flags, extra], code)
    assert set(os.listdir(tmp_path)) <= {"used", "cache"}
    assert os.listdir(tmp_path / "used") == ["args.json"]


def test_best_model_is_no_checkpoint_to_continue_from(continued):
    with pytest.raises(ValueError, match="--resume_train takes the last_checkpoint.pth"):
        train_main([f"--resume_train={continued / 'best_model.pth'}"])


def test_training_may_start_from_the_weights_of_a_network(continued, flags, tmp_path):
    start = ["--resume_model", str(continued / "best_model.pth"), "--epochs_num=1"]
    train_main([*flags, *start, "--fc_output_dim=999", f"--save_dir={tmp_path / 'run'}"])
    assert load_network(tmp_path / "run" / "best_model.pth").out_dim == 16
    assert json.loads((tmp_path / "run" / "args.json").read_text())["fc_output_dim"] == 16


def test_continuing_may_change_learning_rates_and_precision(flags, tmp_path):
    train_main([*flags, "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"])
    last = tmp_path / "run" / "last_checkpoint.pth"
    more = ["--epochs_num=2", "--lr=1e-6", "--classifiers_lr=0.5", "--use_amp16"]
    train_main([f"--resume_train={last}", *more])
    state = read_checkpoint(last)
    assert state["optimizer_state_dict"]["param_groups"][0]["lr"] == 1e-6
    assert [adam["param_groups"][0]["lr"] for adam in state["optimizers_state_dict"]] == [0.5] * 2
    assert state["args"]["lr"] == 1e-6 and state["scaler_state_dict"]["scale"] > 0


def test_continuing_without_the_best_network_is_refused_at_once(continued, tmp_path):
    (tmp_path / "last_checkpoint.pth").write_bytes((continued / "last_checkpoint.pth").read_bytes())
    with pytest.raises(FileNotFoundError, match="no .*best_model.pth: it belongs to"):
        train_main([f"--resume_train={tmp_path / 'last_checkpoint.pth'}"])
