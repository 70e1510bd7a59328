"""Small trainings, and what they left behind."""

import json
import time
from types import SimpleNamespace

import pytest
import tiny_backbone  # noqa: F401, SMALL names it
import torch

from model.checkpoint_files import read_checkpoint
from model.network import build_network
from parser import parse_train_arguments
from training.classification import Classification, ClassificationSettings
from training.metrics import Progress
from training.optimizers import OptimizerParams
from training.state import Optimization, Training

MEASURED = {  # numbers of an epoch that differ from run to run
    *("images_per_second", "data_wait_share", "seconds", "seconds_per_iteration"),
    *("peak_ram_mb", "peak_vram_mb", "mining_seconds"),
}

SMALL = [
    *("--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--fc_output_dim=16", "--image_size=32", "--resize_test_imgs=32", "--batch_size=4"),
    *("--min_images_per_class=3", "--groups_num=2", "--epochs_num=4", "--iterations_per_epoch=3"),
    *("--lr=0.001", "--num_workers=0", "--device=cpu"),
]


def small_training(lr=1e-5, device="cpu", **optimization):
    """Make a network and a head for a group of 5 classes, to be trained on given batches."""
    torch.manual_seed(0)
    network = build_network("Tiny", 8, backbone_weights="none")
    index = SimpleNamespace(classes=lambda group: range(5), digest="", folder="")
    flags = parse_train_arguments(["--groups_num=1", "--num_workers=0"])
    objective = Classification(index, ClassificationSettings.from_flags(vars(flags)))
    optimization = Optimization(OptimizerParams(lr=lr), **optimization)
    return Training(network, objective, optimization, torch.device(device), (64, 64))


def stand_still_after(epoch, iteration, until=None):
    """Let a training wait after an iteration, for ever or for a file: no test is too late for it.

    The iteration is counted from 1; what is kept of it comes after the wait.
    """
    note = Progress.note

    def note_and_wait(self, *arguments):
        note(self, *arguments)
        while (self.epoch, self.iteration) >= (epoch, iteration):
            if until is not None and until.exists():
                return
            time.sleep(0.005)

    Progress.note = note_and_wait


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
    """Compare networks, heads, optimizers, generators and metrics to the last bit."""
    state, expected = (tensors_of(state_of(path)) for path in (folder, other))
    assert state.keys() == expected.keys() and len(state) > 40
    for key, value in state.items():
        other_value = expected[key]
        same = torch.equal(value, other_value) if torch.is_tensor(value) else value == other_value
        assert same, key
    best, expected_best = (read_checkpoint(path / "best_model.pth") for path in (folder, other))
    assert all(torch.equal(best[key], expected_best[key]) for key in expected_best)


def state_of(folder):
    """Read the last checkpoint, without flags and times."""
    checkpoint = read_checkpoint(folder / "last_checkpoint.pth")
    del checkpoint["args"], checkpoint["progress"]["seconds"]
    checkpoint["objective_state_dict"].pop("mining_seconds", None)
    return checkpoint | {"metrics": without_measurements(checkpoint["metrics"])}


def metrics_of(folder):
    """Read metrics.jsonl, without measurements."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return without_measurements(json.loads(line) for line in lines)


def without_measurements(lines):
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def position_of(folder):
    """Return epoch and iteration of the last checkpoint."""
    checkpoint = read_checkpoint(folder / "last_checkpoint.pth")
    return checkpoint["epoch_num"], checkpoint["progress"]["iteration"]


def stop_at(monkeypatch, owner, name, number):
    """Interrupt a training in a call of a function, counted from 1."""
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def call(*arguments, **named):
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


def assert_same_numbers(folder, other):
    """Compare the trainings on tuples of several processes and of one, but for rounding."""
    for line, expected in zip(metrics_of(folder), metrics_of(other), strict=True):
        for number in ("loss", "gradient_norm", "positive_distance", "negative_distance"):
            assert line[number] == pytest.approx(expected[number], rel=1e-4), number
        for number in ("violating_share", "R@1"):
            assert line[number] == expected[number], number
