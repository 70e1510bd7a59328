"""Points of iterations and epochs: iterations.jsonl, TensorBoard, Weights & Biases."""

import json
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import SMALL, metrics_of, stop_at

from model.checkpoint_files import read_checkpoint
from train import main as train_main
from training.curves import read_iterations


@pytest.fixture
def flags(datasets_folder, tmp_path, monkeypatch):
    """Return flags of a training of 2 epochs of 7 iterations, with a point every 2."""
    monkeypatch.chdir(tmp_path)
    places = [f"--datasets_folder={datasets_folder}", f"--cache_folder={tmp_path / 'cache'}"]
    return [*SMALL, *places, "--epochs_num=2", "--iterations_per_epoch=7", "--log_every=2"]


def scalars(folder):
    """Return {tag: [(step, value), ...]} of the events in a folder, not in those below."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def points_of(folder):
    return read_iterations(folder / "iterations.jsonl")


def without_speed(points):
    measured = {"images_per_second", "data_wait_share"}
    return [{key: point[key] for key in point if key not in measured} for point in points]


def test_points_are_means_since_the_last_one(flags, tmp_path, monkeypatch):
    from training.metrics import Progress

    note, noted = Progress.note, []

    def note_and_remember(self, loss, gradient_norm, num_images):
        noted.append((loss.item(), gradient_norm.item()))
        note(self, loss, gradient_norm, num_images)

    monkeypatch.setattr(Progress, "note", note_and_remember)
    train_main([*flags, "--lr=0.001", "--lr_gamma=0.5", f"--save_dir={tmp_path / 'run'}"])
    points = points_of(tmp_path / "run")
    assert [(point["epoch"], point["iteration"]) for point in points] == [
        *((0, 2), (0, 4), (0, 6), (1, 2), (1, 4), (1, 6))
    ]
    for point in points:
        end = 7 * point["epoch"] + point["iteration"]
        for name, column in (("loss", 0), ("gradient_norm", 1)):
            expected = (noted[end - 2][column] + noted[end - 1][column]) / 2
            assert point[name] == pytest.approx(expected, rel=1e-4)
        assert point["lr"] == pytest.approx(0.001 * 0.5 ** point["epoch"])
        assert point["images_per_second"] > 0 and 0 <= point["data_wait_share"] <= 1

    events = scalars(tmp_path / "run" / "iterations")
    steps = [2, 4, 6, 9, 11, 13]
    losses = [point["loss"] for point in points]
    assert dict(events["train/loss"]) == pytest.approx(dict(zip(steps, losses, strict=True)))
    assert {"train/lr", "train/gradient_norm", "speed/images_per_second"} < set(events)

    lines, epochs = metrics_of(tmp_path / "run"), scalars(tmp_path / "run")
    for tag in ("val/R@1", "train/loss"):
        expected = {n: lines[n][tag.partition("/")[2]] for n in (0, 1)}
        assert dict(epochs[tag]) == pytest.approx(expected)
    assert {"memory/peak_ram_mb", "speed/seconds"} < set(epochs)


def test_a_resumed_run_has_each_point_once(flags, tmp_path, monkeypatch):
    train_main([*flags, f"--save_dir={tmp_path / 'whole'}"])
    run = tmp_path / "run"
    line = [*flags, "--checkpoint_every=3", f"--save_dir={run}"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, __import__("training.state").state.Training, "step", 12)
        train_main(line)  # after point (1, 4); the checkpoint is of (1, 3)
    assert points_of(run)[-1]["iteration"] == 4
    with open(run / "iterations.jsonl", "a") as file:
        file.write('{"epoch": 1, "itera')
    train_main([*line, "--resume_train=auto"])
    assert [(point["epoch"], point["iteration"]) for point in points_of(run)] == [
        *((0, 2), (0, 4), (0, 6), (1, 2), (1, 4), (1, 6))
    ]
    # The point after the checkpoint covers one iteration only, as the sums begin anew.
    same = [0, 1, 2, 3, 5]
    expected = without_speed(points_of(tmp_path / "whole"))
    found = without_speed(points_of(run))
    for number in same:
        assert found[number] == pytest.approx(expected[number])


def test_without_points_there_is_no_file(flags, tmp_path):
    train_main([*flags, "--log_every=0", "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"])
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert not {"iterations", "iterations.jsonl", "val_preds", "wandb_id.txt"} & names


def test_validation_queries_are_drawn_in_each_epoch(flags, tmp_path):
    train_main([*flags, "--num_val_preds_to_save=2", f"--save_dir={tmp_path / 'run'}"])
    files = sorted((tmp_path / "run" / "val_preds").iterdir())
    assert [file.name for file in files] == ["epoch_000.jpg", "epoch_001.jpg"]
    sizes = {Image.open(file).size for file in files}
    assert len(sizes) == 1 and min(sizes.pop()) > 500  # the same queries, three images a row


class Wandb:
    """Stands for the package of Weights & Biases: one run, whose calls fail as they are told to."""

    id = "abc"
    __spec__ = object()

    def __init__(self, **failures):
        """Take {name of a call: error that it raises each time}."""
        self.failures, self.begun, self.logged, self.axes, self.ended = failures, [], [], {}, []

    def _fail(self, name):
        if name in self.failures:
            raise self.failures[name]

    def init(self, **how):
        self.begun.append(how)
        self._fail("init")
        return self

    def define_metric(self, name, step_metric=None, hidden=False):
        self._fail("define_metric")
        self.axes[name] = step_metric

    def log(self, values):  # no step: those of a run of W&B may never go back
        self.logged.append(values)
        self._fail("log")

    def finish(self, exit_code):
        self.ended.append(exit_code)
        self._fail("finish")

    def axis_of(self, name):
        """Return the axis of a number, found as the package does: by its name up to the star."""
        (axis,) = {
            axis
            for pattern, axis in self.axes.items()
            if pattern.endswith("*") and name.startswith(pattern[:-1])
        }
        return axis


@pytest.fixture
def wandb(monkeypatch):
    """Return a function that puts a stand-in in the place of the package."""

    def put(**failures):
        monkeypatch.setitem(sys.modules, "wandb", Wandb(**failures))
        return sys.modules["wandb"]

    return put


def test_weights_and_biases_gets_the_points(flags, tmp_path, wandb):
    fake, folder = wandb(), tmp_path / "run"
    line = [*flags, "--wandb=streets", f"--save_dir={folder}"]
    train_main([*line, "--epochs_num=1"])
    assert fake.begun[0]["project"] == "streets" and fake.begun[0]["id"] is None
    assert fake.begun[0]["config"]["batch_size"] == 4
    json.dumps(fake.begun[0]["config"])
    train_main([*line, "--resume_train=auto"])
    assert fake.begun[1]["id"] == "abc" and fake.begun[1]["resume"] == "allow"
    assert fake.ended == [0, 0]
    iterations = [values for values in fake.logged if "iteration" in values]
    epochs = [values for values in fake.logged if "epoch" in values]
    assert len(iterations) + len(epochs) == len(fake.logged)
    assert [values["iteration"] for values in iterations] == [2, 4, 6, 9, 11, 13]
    assert [values["epoch"] for values in epochs] == [0, 1]
    for values, point in zip(iterations, points_of(folder), strict=True):
        assert values["train/loss"] == point["loss"]
    for values, numbers in zip(epochs, metrics_of(folder), strict=True):
        assert values["train_epoch/loss"] == numbers["loss"]
        assert values["val/R@1"] == numbers["R@1"]
    for values in fake.logged:  # each number is drawn against what its point brings along
        (axis,) = {"iteration", "epoch"} & set(values)
        assert {fake.axis_of(name) for name in values if name != axis} == {axis}


def test_a_stopped_run_is_no_success(flags, tmp_path, wandb, monkeypatch):
    fake = wandb()
    line = [*flags, "--wandb", "--checkpoint_every=3", f"--save_dir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, __import__("training.state").state.Training, "step", 5)
        train_main(line)
    assert fake.ended == [1]
    train_main([*line, "--resume_train=auto"])
    assert fake.begun[1]["id"] == "abc" and fake.ended == [1, 0]
    steps = [values["iteration"] for values in fake.logged if "iteration" in values]
    assert steps == [2, 4, 4, 6, 9, 11, 13]  # it was killed after 4, and resumed at 3


@pytest.mark.parametrize(
    ("call", "error", "said", "num_logged"),
    [
        ("init", ConnectionError("refused\nby the server"), "refused by the server", 0),
        ("init", SystemExit(1), "Nothing is sent to Weights & Biases: SystemExit: 1", 0),
        ("define_metric", AttributeError("old"), "axes of Weights & Biases are not set", 8),
        ("log", ConnectionError("no network"), "point is not sent to Weights & Biases", 8),
        ("log", RuntimeError(), "point is not sent to Weights & Biases: RuntimeError.", 8),
        ("finish", TimeoutError("busy"), "run of Weights & Biases is not ended", 8),
    ],
)
def test_a_failure_of_weights_and_biases_is_warned_of_once(
    flags, tmp_path, wandb, capfd, call, error, said, num_logged
):
    fake = wandb(**{call: error})
    train_main([*flags, "--wandb", f"--save_dir={tmp_path / 'run'}"])
    shown = capfd.readouterr().out
    assert shown.count(said) == 1 and shown.count("The training goes on") == 1
    assert len(fake.logged) == num_logged
    assert read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["epoch_num"] == 2
    assert len(points_of(tmp_path / "run")) == 6


def test_a_missing_package_is_a_sentence(flags, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    train_main([*flags, "--wandb", f"--save_dir={tmp_path / 'run'}"])
    assert capfd.readouterr().out.count("pip install wandb") == 1
    assert len(points_of(tmp_path / "run")) == 6
