"""EigenPlaces trained: golden iterations of the original code, and runs of train.py."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, LINE names it
import torch
from forked_commands import run_job, wait_for_all
from golden_cases import assert_close, golden
from panorama_folders import flags_of, write_panoramas
from training_runs import (
    assert_same_state,
    metrics_of,
    position_of,
    state_of,
    stop_at,
    tensors_of,
)

from cosface_loss import MarginCosineProduct
from model.checkpoint_files import read_checkpoint
from parser import parse_train_arguments
from train import main as train_main
from training.eigenplaces import EigenPlaces, ViewNet
from training.objective import Batch
from training.optimizers import adam
from training.setup import read_settings
from training.state import Optimization, Training


class LinearNet(torch.nn.Module):
    """The network of the golden iterations, in float64."""

    def __init__(self):
        super().__init__()
        self.linear, self.out_dim = torch.nn.Linear(7, 6), 6

    def forward(self, x):
        return torch.nn.functional.normalize(self.linear(x))


def test_iterations_are_those_of_the_original():
    """Three steps of the network and of both heads: losses, gradient, and what was learned."""
    case = golden("eigenplaces_iterations_a")
    weights = {name: torch.from_numpy(w).double() for name, w in case.weights().items()}
    classes = {0: range(4), 1: range(5)}  # the case's heads are of groups of different sizes
    network = LinearNet().double()
    network.linear.load_state_dict({k: weights[f"linear.{k}"] for k in ("weight", "bias")})
    index = SimpleNamespace(classes=classes.get, digest="", folder="")
    objective = EigenPlaces(index, flags_of("--groups_num=1"), are_whole=True)
    training = Training(network, objective, Optimization(), torch.device("cpu"), (64, 64))
    for number, view in enumerate(("lateral", "frontal")):
        head = MarginCosineProduct(6, 4 + number, s=100.0, m=0.4).double()
        head.load_state_dict({"weight": weights[f"classifier_{view}"]})
        objective.heads[number] = head
        objective.head_optimizers[number] = adam(head, 0.01, torch.device("cpu"))
    losses, gradients = [], []
    training.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(network.linear.weight.grad.clone())
    )
    for x, y in zip(case["in.x"], case["in.y"], strict=True):
        batch = Batch(torch.from_numpy(x).double().flatten(0, 1), torch.from_numpy(y).flatten(), [])
        with training.turn() as optimizers:
            assert len(optimizers) == 3
            loss = objective.loss(training.model, batch)
            losses.append(loss.item())
            training.step(loss, optimizers)
    np.testing.assert_allclose(losses, case["loss.sequence"].sum(1), rtol=1e-9)
    assert_close(gradients[0], case["mid.grad_linear_after_both_iter0"], 1e-9)
    assert_close(network.linear.weight.detach(), case["out.linear.weight"], 1e-9)
    assert_close(network.linear.bias.detach(), case["out.linear.bias"], 1e-9)
    for number, view in enumerate(("lateral", "frontal")):
        got = objective.heads[number].weight.detach()
        assert_close(got, case[f"out.classifier_{view}"], 1e-9)


class SeenBatches(torch.nn.Module):
    """A network that notes what BatchNorm would see."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return self.norm(images).mean((2, 3))


def test_each_view_has_statistics_of_its_own():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 4, 4) + torch.arange(8)[:, None, None, None] // 4
    network = SeenBatches()
    views = ViewNet(network)
    torch.testing.assert_close(views(images).mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    got = network.norm.running_mean.clone()
    assert network.sizes == [4, 4] and [*views.parameters()] == [*network.parameters()]
    means = [view.mean((0, 2, 3)) for view in images.split(4)]
    torch.testing.assert_close(got, 0.1 * (0.9 * means[0] + means[1]))


LINE = [
    *("--method=eigenplaces", "--backbone=Tiny", "--backbone_weights=none", "--fc_output_dim=16"),
    *("--image_size=32", "--resize_test_imgs=32", "--batch_size=4", "--dataset=mini_city"),
    *("--epochs_num=3", "--iterations_per_epoch=3", "--lr=0.001", "--groups_num=2", "--s=30"),
    *("--num_workers=0", "--device=cpu", "--no-use_amp16"),
]


@pytest.fixture(scope="module")
def line(datasets_folder, tmp_path_factory):
    """Return flags of a training on panoramas of two groups of two classes."""
    root = tmp_path_factory.mktemp("eigenplaces")
    places = ((7, 7), (22, 7), (7, 37), (22, 37))
    folder = write_panoramas(root / "panoramas", places=places)
    places = (f"--train_set_folder={folder}", f"--cache_folder={root / 'cache'}", "--N=2")
    return [*LINE, f"--datasets_folder={datasets_folder}", *places]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """Return the folder of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("eigenplaces") / "whole"
    train_main([*line, f"--save_dir={folder}"])
    return folder


def test_a_training_on_panoramas_has_two_heads_a_group(whole):
    assert [line["group"] for line in metrics_of(whole)] == [0, 1, 0]
    assert "the images are panoramas" in (whole / "info.log").read_text()
    state = read_checkpoint(whole / "last_checkpoint.pth")["objective_state_dict"]
    heads = state["classifiers_state_dict"]
    assert [tuple(head["weight"].shape) for head in heads] == [(2, 16)] * 4
    moments = [one["state"][0]["step"].item() for one in state["optimizers_state_dict"]]
    assert moments == [6, 6, 3, 3], "both heads of a group whose turn it is, in each iteration"


def test_a_training_interrupted_continues_with_the_same_bits(line, whole, tmp_path, monkeypatch):
    run = [*line, f"--save_dir={tmp_path}", "--resume_train=auto", "--checkpoint_every=1"]
    for number, position in ((2, (0, 1)), (3, (1, 0)), (5, (2, 1))):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(patch, EigenPlaces, "loss", number)
            train_main(run)
        assert position_of(tmp_path) == position
    train_main(run)
    assert_same_state(tmp_path, whole)


def test_two_processes_train_as_one(line, tmp_path):
    calm = [*line, "--backbone=TinyPlain", "--lr=1e-5", "--classifiers_lr=1e-3", "--epochs_num=2"]
    train_main([*calm, f"--save_dir={tmp_path / 'one'}"])
    wait_for_all(run_job(2, "train", [*calm, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    for got, wanted in zip(*map(metrics_of, (tmp_path / "two", tmp_path / "one")), strict=True):
        for number in ("loss", "gradient_norm"):
            assert got.pop(number) == pytest.approx(wanted.pop(number), rel=1e-4)
        assert got == wanted
    states = [tensors_of(state_of(tmp_path / name)) for name in ("two", "one")]
    for key in (key for key in states[0] if "classifiers_state_dict" in key):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=1e-3)


def test_the_mini_city_trains_on_its_crops(datasets_folder, tmp_path, caplog):
    places = (f"--datasets_folder={datasets_folder}", f"--cache_folder={tmp_path / 'cache'}")
    line = [*LINE, *places, "--epochs_num=1", "--min_images_per_class=2"]
    with caplog.at_level("INFO"):
        train_main([*line, "--dry_run"])
    assert "By the first image, the images are crops, 12.0 of a panorama" in caplog.text
    train_main(
        [*line, "--num_workers=2", f"--save_dir={tmp_path / 'run'}", "--whitening=pca"]
        + ["--whiten_dim=4", "--whiten_images=20"]
    )
    assert len(metrics_of(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "whitened_model.pth").is_file()


@pytest.mark.parametrize(
    ("extra", "code", "expected"),
    [
        (["--alpha=30"], 2, "--method eigenplaces has no --alpha"),
        (["--L=2"], 2, "--method eigenplaces has no --L"),
        (["--min_images_per_class=1"], 2, "--min_images_per_class must be at least 2"),
        (["--groups_num=9"], 1, "--groups_num is 9, but only 2 groups have classes"),
        (["--focal_dist=0"], 2, "--focal_dist"),
        (["--whitening=pca", "--whiten_dim=4"], 1, "--whitening pca: "),
        (["--aggregation=netvlad"], 1, "while whitenings and clusters are fitted to crops"),
        (["--image_size=32x48"], 1, "classes are trained on squares"),
    ],
)
def test_wrong_flags_are_refused(line, refused, extra, code, expected):
    assert expected in refused(train_main, [*line, "--save_dir=run", *extra], code)


def test_flags_of_eigenplaces_are_refused_for_cosplace(refused):
    said = refused(train_main, ["--focal_dist=5"], 2)
    assert "--method cosplace has no --focal_dist: it is a flag of --method eigenplaces" in said


def test_mixed_precision_of_the_row_is_left_out_where_it_does_not_pay(
    line, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr("training.setup.cpu_computes_in", lambda name: False)
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: False)
    flags = vars(parse_train_arguments(["--method=eigenplaces", "--device=cpu"]))
    assert flags["use_amp16"] is True
    with caplog.at_level("INFO"):
        assert read_settings(flags).optimization.use_amp16 is False
    assert "Without --use_amp16, a default of --method eigenplaces" in caplog.text
    default = [flag for flag in line if flag != "--no-use_amp16"]
    train_main([*default, "--epochs_num=0", f"--save_dir={tmp_path}"])
    assert json.loads((tmp_path / "args.json").read_text())["use_amp16"] is False
    flags = vars(parse_train_arguments(["--use_amp16", "--device=cpu"]))
    with pytest.raises(ValueError, match="does not compute in fp16"):
        read_settings(flags)
