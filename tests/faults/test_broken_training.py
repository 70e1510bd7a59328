"""Trainings with bad numbers, bad images, damaged checkpoints, disks that are full or gone."""

import contextlib
import json
import math
import resource
import shutil
import signal
from functools import partial

import pytest
import torch
from forked_commands import run_forked, wait_until
from training_runs import SMALL, assert_same_state, metrics_of, position_of, tensors_of

from datasets.class_index import load_index
from datasets.groups import GroupSampler, TrainDataset
from datasets.partition import PartitionParams
from model.checkpoint_files import read_checkpoint
from train import main as train_main
from training.classification import Classification

SHORT = ["--backbone=MobileNetV2", "--epochs_num=2", "--iterations_per_epoch=4"]


@pytest.fixture
def tiny(flags, tmp_path):
    """Return the flags of a training of 2 x 4 iterations in tmp_path / "run"."""
    return [*flags, *SHORT, f"--save_dir={tmp_path / 'run'}"]


@pytest.fixture
def own_images(datasets_folder, tmp_path):
    """Return flags for a copy of the training images, and the images."""
    folder = tmp_path / "train"
    shutil.copytree(datasets_folder / "mini_city" / "processed" / "train", folder)
    return [f"--train_set_folder={folder}"], sorted(folder.rglob("*.jpg"))


def break_iterations(monkeypatch, numbers, value):
    """Let the losses of some iterations, counted through the run, be a value times themselves."""
    loss_of, count = Classification.loss, iter(range(10**6))

    def broken(self, model, batch):
        loss = loss_of(self, model, batch)
        return loss * value if next(count) in numbers else loss

    monkeypatch.setattr(Classification, "loss", broken)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_its_images_are_listed(
    tiny, tmp_path, monkeypatch, refused, datasets_folder, value
):
    break_iterations(monkeypatch, {6}, value)
    said = refused(train_main, [*tiny, "--checkpoint_every=1"], code=1)
    assert "not finite in epoch 1, iteration 2: lower --lr" in said
    run = tmp_path / "run"
    assert f"--resume_train {run / 'last_checkpoint.pth'}" in said
    assert position_of(run) == (1, 2)
    tensors = tensors_of(read_checkpoint(run / "last_checkpoint.pth"))
    assert all(t.isfinite().all() for t in tensors.values() if torch.is_tensor(t))

    train_folder = datasets_folder / "mini_city" / "processed" / "train"
    params = PartitionParams(min_images_per_class=3)
    index = load_index(train_folder, params, tmp_path / "cache")
    sampler = GroupSampler(index, 2, 4, 4, seed=0)
    sampler.epoch = 1
    draws = list(sampler)[2]
    expected = [TrainDataset(index, None).path(draw) for draw in draws]
    (file,) = run.glob("bad_batch*")
    assert file.read_text().splitlines() == expected and str(file) in said


def test_gradients_that_are_not_finite_end_the_run(tiny, monkeypatch, refused):
    loss_of = Classification.loss

    def steep(self, model, batch):  # a finite loss with an infinite gradient
        weights = model.aggregation[3].weight.sum()
        return loss_of(self, model, batch) + (weights - weights.detach()).abs().sqrt()

    monkeypatch.setattr(Classification, "loss", steep)
    assert "not finite in epoch 0, iteration 0: lower --lr" in refused(train_main, tiny, code=1)


def test_a_scaler_skips_a_bad_step_and_the_run_continues(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: True)
    # Processors round fp16 in different ways, and overflow at different steps: compute in 32 bits.
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    scaler = partial(torch.amp.GradScaler, init_scale=16.0)
    monkeypatch.setattr("torch.amp.GradScaler", scaler)
    break_iterations(monkeypatch, {1, 6}, math.inf)
    train_main([*tiny, "--use_amp16"])
    lines = metrics_of(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [1, 1]
    assert all(math.isfinite(line["loss"]) for line in lines)
    state = read_checkpoint(tmp_path / "run" / "last_checkpoint.pth")
    assert state["scaler_state_dict"]["scale"] == 4
    assert state["optimizer_state_dict"]["state"][0]["step"] == 6


def test_unreadable_images_are_replaced_counted_and_listed(tiny, tmp_path, own_images, caplog):
    folder, images = own_images
    broken = images[::3]
    for image in broken:
        image.write_bytes(image.read_bytes()[:300])
    train_main([*tiny, *folder, "--max_bad_images=1"])
    run = tmp_path / "run"
    listed = (run / "unreadable_images.txt").read_text().splitlines()
    assert 0 < len(listed) == len(set(listed))
    assert all(any(str(image) in line for image in broken) for line in listed)
    counts = [line["unreadable_images"] for line in metrics_of(run)]
    assert 0 < counts[0] <= counts[1] and counts[1] >= len(listed)
    assert read_checkpoint(run / "last_checkpoint.pth")["num_unreadable"] == counts[1]
    assert (run / "results.json").exists()


def test_too_many_unreadable_images_end_the_run(tiny, own_images, refused, tmp_path):
    folder, images = own_images
    for image in images[::2]:
        image.write_bytes(b"")
    said = refused(train_main, [*tiny, *folder, "--num_workers=1"], code=1)
    assert "images could not be read" in said and "--max_bad_images (now 0.01)" in said
    assert str(tmp_path / "run" / "unreadable_images.txt") in said


def test_a_list_of_images_that_are_not_there_ends_the_run(tiny, own_images, refused, tmp_path):
    folder, images = own_images
    names = [str(image.relative_to(tmp_path / "train")) for image in images]
    (tmp_path / "train_images_paths.txt").write_text("\n".join(names) + "\n")
    for image in images[1:]:
        image.unlink()
    said = refused(train_main, [*tiny, *folder, "--max_bad_images=1"], code=1)
    assert "20 images in a row" in said


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [flip_a_bit, cut])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_taken(
    tiny, tmp_path, refused, damage
):
    run = tmp_path / "run"
    train_main([*tiny, "--checkpoint_every=3"])
    shutil.copytree(run, tmp_path / "whole")
    damage(run / "last_checkpoint.pth")
    said = refused(train_main, ["--resume_train", str(run / "last_checkpoint.pth")], code=1)
    assert "last_checkpoint.pth" in said
    assert f"intact: resume with --resume_train {run / 'previous_checkpoint.pth'}" in said
    shutil.copytree(run, tmp_path / "again")

    train_main(["--resume_train", str(run / "previous_checkpoint.pth")])
    assert_same_state(run, tmp_path / "whole")
    assert metrics_of(run) == metrics_of(tmp_path / "whole")
    run = tmp_path / "again"
    train_main([*tiny, f"--save_dir={run}", "--resume_train=auto"])
    assert_same_state(run, tmp_path / "whole")
    assert metrics_of(run) == metrics_of(tmp_path / "whole")


def test_two_damaged_checkpoints_are_refused_and_left_alone(tiny, tmp_path, refused):
    run = tmp_path / "run"
    train_main([*tiny, "--checkpoint_every=3"])
    for name in ("last", "previous"):
        flip_a_bit(run / f"{name}_checkpoint.pth")
    before = {file.name: file.read_bytes() for file in run.glob("*.pth")}
    assert "checkpoint.pth" in refused(train_main, [*tiny, "--resume_train=auto"], code=1)
    assert {file.name: file.read_bytes() for file in run.glob("*.pth")} == before


def limit_files(num_bytes):
    """Let no file grow beyond a size, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tiny, tmp_path):
    run = tmp_path / "run"
    train_main([*tiny, "--epochs_num=1"])
    size = (run / "last_checkpoint.pth").stat().st_size
    before = (run / "last_checkpoint.pth").read_bytes()
    limited = partial(limit_files, size // 2)
    line = [*tiny, "--resume_train=auto"]
    command = run_forked("train", line, tmp_path / "said", limited)
    assert command.wait() == 1
    assert "Traceback" not in command.stderr and "last_checkpoint.pth" in command.stderr
    assert (run / "last_checkpoint.pth").read_bytes() == before
    assert not list(run.glob(".last*"))
    train_main(line)
    train_main([*tiny, f"--save_dir={tmp_path / 'whole'}"])
    assert_same_state(run, tmp_path / "whole")
    assert metrics_of(run) == metrics_of(tmp_path / "whole")


@pytest.mark.parametrize("is_continued", [False, True])
def test_a_folder_that_vanishes_ends_the_run(tiny, tmp_path, is_continued):
    line = [*tiny, "--iterations_per_epoch=5000", "--checkpoint_every=1", "--resume_train=auto"]
    if is_continued:
        first = run_forked("train", line, tmp_path / "said")
        wait_until((tmp_path / "run" / "last_checkpoint.pth").exists, first)
        first.kill()
        (tmp_path / "run" / "environment.json").unlink()
    command = run_forked("train", line, tmp_path / "said")
    files = [tmp_path / "run" / name for name in ("last_checkpoint.pth", "environment.json")]
    wait_until(lambda: all(file.exists() for file in files), command)
    wait_until(lambda: "Epoch 0" in command.stderr, command)  # TensorBoard may make it again before
    (tmp_path / "run").rename(tmp_path / "gone")
    assert command.wait() == 1
    assert "Traceback" not in command.stderr
    assert f"Error: The folder {tmp_path / 'run'} vanished during the run" in command.stderr


@pytest.mark.parametrize("reached", ["args.json", "last_checkpoint.pth"])
def test_two_trainings_in_one_folder_are_refused(tiny, tmp_path, reached):
    line = [*tiny, "--iterations_per_epoch=5000", "--checkpoint_every=1", "--resume_train=auto"]
    first = run_forked("train", line, tmp_path / "first")
    wait_until((tmp_path / "run" / reached).exists, first)
    second = run_forked("train", line, tmp_path / "second")
    assert second.wait() == 1 and str(first.pid) in second.stderr
    assert first.is_running
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert position_of(tmp_path / "run")[1] > 0


def test_auto_begins_a_run_and_goes_on_with_it(tiny, tmp_path, refused):
    assert "say which folder" in refused(train_main, [*SMALL, "--resume_train=auto"], code=2)
    line = [*tiny, "--resume_train=auto"]
    train_main([*line, "--epochs_num=1"])
    train_main(line)
    train_main([*tiny, f"--save_dir={tmp_path / 'whole'}"])
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    train_main(line)  # nothing is left to do but the test
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(starts) == 3
