"""Points of iterations and epochs: iterations.jsonl, TensorBoard, Weights & Biases."""

import json
import sys
from types import SimpleNamespace

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


class FakeRun:
    """Stands for a run of Weights & Biases."""

    id = "abc"

    def __init__(self):
        self.logged = []

    def define_metric(self, *names, **how):
        pass

    def log(self, values):
        self.logged.append(values)
        if len(self.logged) == 2:
            raise ConnectionError("no network")


def test_weights_and_biases_gets_the_points_and_never_ends_a_run(
    flags, tmp_path, monkeypatch, capfd
):
    run, begun = FakeRun(), []
    fake = SimpleNamespace(init=lambda **how: begun.append(how) or run, __spec__=object())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    line = [*flags, "--wandb=streets", f"--save_dir={tmp_path / 'run'}"]
    train_main([*line, "--epochs_num=1"])
    assert begun[0]["project"] == "streets" and begun[0]["id"] is None
    assert begun[0]["config"]["batch_size"] == 4
    json.dumps(begun[0]["config"])
    points = points_of(tmp_path / "run")
    assert [values["train/loss"] for values in run.logged] == pytest.approx(
        [*(point["loss"] for point in points), metrics_of(tmp_path / "run")[0]["loss"]]
    )
    assert "not written: no network" in capfd.readouterr().out
    train_main([*line, "--resume_train=auto"])
    assert begun[1]["id"] == "abc" and begun[1]["resume"] == "allow"
    assert read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")["epoch_num"] == 2


def test_a_missing_package_is_a_sentence(flags, refused):
    assert "pip install wandb" in refused(train_main, [*flags, "--wandb"], 2)
