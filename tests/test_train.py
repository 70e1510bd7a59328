import json
import os
import shutil

import pytest
import torch
from conftest import name, run, write_image
from PIL import Image
from training_runs import assert_same_state, metrics_of

import commons
from eval import main as eval_main
from model.checkpoint_files import read_checkpoint
from model.checkpoints import load_network
from model.network import build_network
from parser import parse_train_arguments
from train import main as train_main
from training.classification import ClassificationSettings


def test_trains_validates_and_tests_as_a_user_runs_it(flags, tmp_path):
    """Slow: the command line itself, with a published backbone."""
    flags = [flag.replace("Tiny", "ResNet18") for flag in flags]
    result = run("train.py", *flags, "--save_dir", tmp_path / "run", "--num_preds_to_save", 2)
    assert result.returncode == 0, result.stderr
    assert "Epoch 3/3  group 1" in result.stdout and "Test of the best network" in result.stdout
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
    hidden = {file for file in os.listdir(folder) if file.startswith(".")}
    assert hidden <= {".lock"}, "filelock keeps or removes it, by version"
    info = (folder / "info.log").read_text()
    epochs = [line for line in info.splitlines() if "  loss " in line]
    assert len(epochs) == 4 and max(map(len, epochs)) <= len("2026-11-29 12:00:00 ") + 120
    assert all(
        f"R@1 {line['R@1']:.1f}  R@5 {line['R@5']:.1f}  " in shown
        for line, shown in zip(metrics, epochs, strict=True)
    )
    assert (
        "Method      cosplace: ResNet18, gem, 16-D\n" in info and f"Run         {folder}\n" in info
    )
    assert "Start       --backbone_weights none\n" in info
    assert info.count("UTM distance") == 1, "the protocol of the test only: results.json has it"
    assert "2 groups" not in info and "Epoch 0/3  group 0" in info


def test_options_of_the_aggregation_stay_with_the_network(flags, tmp_path, refused):
    """From flags to the files of a run, an evaluation of it and its resumption."""
    args = ["--fc_output_dim=0", "--aggregation_args", "l2=before_pool"]
    train_main([*flags, "--epochs_num=1", f"--save_dir={tmp_path / 'run'}", *args])
    best, options = tmp_path / "run" / "best_model.pth", {"l2": "before_pool"}
    for file in ("args.json", "results.json"):
        assert json.loads((best.with_name(file)).read_text())["aggregation_args"] == options
    network = load_network(best).eval()
    assert network.architecture["aggregation_args"] == options
    assert list(network.state_dict())[-1] == "aggregation.1.p"
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).norm(dim=1).sub(1).abs().min() > 0.01

    own = [flag for flag in flags if flag.startswith("--datasets_folder")]
    test = [*own, "--device=cpu", "--num_workers=0", "--dataset=mini_city_val"]
    eval_main([*test, f"--resume={best}", f"--save_dir={tmp_path / 'eval'}"])
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["aggregation_args"] == options
    assert "l2" in (tmp_path / "eval" / "report.html").read_text()
    other = ["--aggregation_args", "l2=none"]
    assert "leave the flag out" in refused(eval_main, [*test, f"--resume={best}", *other], code=1)

    checkpoint = best.with_name("last_checkpoint.pth")
    resume = [f"--resume_train={checkpoint}", "--epochs_num=2"]
    message = refused(train_main, [*flags, "--fc_output_dim=0", *resume, *other], code=1)
    assert (
        "--aggregation_args is {'l2': 'none'}, in the checkpoint {'l2': 'before_pool'}" in message
    )
    train_main([*own, *resume, "--num_workers=0", f"--cache_folder={tmp_path / 'cache'}"])
    assert len(metrics_of(tmp_path / "run")) == 2


def test_augmentation_device_and_workers_change_nothing(flags, tmp_path):
    flags = [*flags, "--epochs_num=1"]
    train_main([*flags, "--num_workers=1", f"--save_dir={tmp_path / 'workers'}"])
    train_main([*flags, "--augmentation_device=cuda", f"--save_dir={tmp_path / 'device'}"])
    assert_same_state(tmp_path / "workers", tmp_path / "device")


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_mixed_precision_takes_the_same_path(flags, tmp_path, amp_dtype, monkeypatch):
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: True)
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
    longer = ["--groups_num=1", "--iterations_per_epoch=50", "--epochs_num=6", "--lr=0.01"]
    plain = [f"--{name}=0" for name in ("brightness", "contrast", "saturation", "hue")]
    longer += [*plain, "--random_resized_crop=0"]
    train_main([*flags, *longer, f"--save_dir={tmp_path / 'run'}"])
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0], losses
    commons.seed_everything(0)
    start = build_network("Tiny", 16, backbone_weights="none").state_dict()
    end = read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["model_state_dict"]
    changed = {key for key in start if not torch.equal(start[key], end[key])}
    statistics = {f"backbone.1.{key}" for key in ("running_mean", "running_var")}
    assert statistics < changed, "statistics of frozen layers move, as in the paper"
    frozen = {"backbone.0.weight", "backbone.1.weight", "backbone.1.bias"}
    assert changed == set(start) - frozen


def test_evaluation_without_a_model_is_the_network_that_training_starts_from(
    flags, datasets_folder, monkeypatch
):
    captured = []

    def capture(model_or_training, *_args, **_kwargs):
        network = getattr(model_or_training, "network", model_or_training)
        captured.append(network.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr("train.fit", capture)
    monkeypatch.setattr("eval.optimize", capture)
    monkeypatch.chdir(datasets_folder.parent)
    with pytest.raises(KeyboardInterrupt):
        train_main([*flags, "--seed=5"])
    with pytest.raises(KeyboardInterrupt):
        eval_main(
            "--dataset mini_city_test_v1 --untrained --backbone Tiny --backbone_weights none "
            f"--fc_output_dim 16 --seed 5 --datasets_folder {datasets_folder}".split()
        )
    assert all(torch.equal(captured[0][key], captured[1][key]) for key in captured[0])


def test_without_sf_xl_it_ends_at_once_and_says_what_to_do(tmp_path, refused):
    flags = ["--groups_num=8", "--M=10", f"--datasets_folder={tmp_path / 'data'}"]
    said = refused(train_main, flags, code=1)
    for text in (
        f"{tmp_path}/data/sf_xl/processed/train",
        "processed/test/database/",
        "https://forms.gle/",
        "python -m mini_city",
    ):
        assert text in said
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
        ("--aggregation_args=p=4", 2, "'p' is no option of gem; its options and their defaults"),
        ("--aggregation_args=l2=3", 2, "l2=3: gem needs a value like both"),
        ("--resize_test_imgs=large", 2, "A resize rule is"),
        pytest.param(
            "--device=cuda",
            2,
            "--device cuda: no such device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ("--resume_model=gone.pth", 1, "There is no checkpoint gone.pth"),
        ("--resume_train=gone.pth", 1, "There is no checkpoint gone.pth"),
        ("--val_set_folder=gone", 1, "gone has no folder database"),
        ("--backbone_weights=gone.pth", 1, "--backbone_weights: There is no checkpoint gone.pth"),
        ("--save_dir=used", 1, "used already holds a run"),
        ("--use_amp16", 2, "this processor does not compute in fp16"),
    ],
)
def test_user_errors_are_sentences(flags, tmp_path, refused, monkeypatch, extra, code, text):
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: False)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "results.json").write_text("{}")
    assert text in refused(train_main, [*flags, extra], code)
    assert set(os.listdir(tmp_path)) <= {"used", "cache"}
    assert set(os.listdir(tmp_path / "used")) <= {".lock", "results.json"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(["--freeze_bn"], {"backbone.4.running_mean"}), (["--freeze_bn", "all"], set())],
    ids=["frozen", "all"],
)
def test_batch_norm_keeps_the_statistics_it_starts_with(flags, tmp_path, asked, expected):
    train_main([*flags, "--epochs_num=1", *asked, f"--save_dir={tmp_path / 'run'}"])
    commons.seed_everything(0)
    start = build_network("Tiny", 16, backbone_weights="none").state_dict()
    end = read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["model_state_dict"]
    moved = {
        key for key in start if "running_mean" in key and not torch.equal(start[key], end[key])
    }
    assert moved == expected, "not that of the first, frozen layer, or none"


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_train_as_others(flags, tmp_path):
    """Slow: the compiler takes seconds."""
    flags = [*flags, "--epochs_num=1", "--lr=1e-5", "--image_size=64"]
    train_main([*flags, f"--save_dir={tmp_path / 'plain'}"])
    train_main([*flags, "--compile", f"--save_dir={tmp_path / 'compiled'}"])
    (plain,), (compiled,) = metrics_of(tmp_path / "plain"), metrics_of(tmp_path / "compiled")
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_cosplace_on_a_netvlad_starts_from_clusters_and_may_be_whitened(flags, tmp_path):
    line = [*flags, "--fc_output_dim=0", "--aggregation=netvlad", "--aggregation_args=clusters=3"]
    line += ["--epochs_num=1", "--whitening=pca", "--whiten_dim=7", "--lr=1e-12"]
    train_main([*line, f"--save_dir={tmp_path}"])
    network = load_network(tmp_path / "whitened_model.pth")
    assert (network.aggregation.out_dim, network.out_dim) == (3 * 16, 7)
    assert [numbers["group"] for numbers in metrics_of(tmp_path)] == [0]
    rows = network.aggregation.conv.weight.flatten(1), network.aggregation.centroids
    weights, centroids = (torch.nn.functional.normalize(one) for one in rows)
    torch.testing.assert_close(weights, centroids, rtol=0, atol=1e-5)  # as they are initialised


def test_images_to_fit_to_are_of_the_groups_that_are_trained(flags):
    settings = ClassificationSettings.from_flags(vars(parse_train_arguments(flags)))
    objective = settings.open()
    index = objective.index
    trained = {
        index.path(image)
        for group in range(2)
        for one in index.classes(group)
        for image in index.images(one)
    }
    assert set(objective.sample_images(10**6)) == trained
    some = [*objective.sample_images(7)]
    assert len(set(some)) == 7 and set(some) < trained
    assert some == [*objective.sample_images(7)]
