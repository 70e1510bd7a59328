"""The seam: the loop, checkpoints and resume know nothing of what a method trains on."""

import os
import signal
from functools import partial

import pytest
import torch
import triplets
from forked_commands import run_forked, wait_until
from training_runs import (
    SMALL,
    assert_same_state,
    metrics_of,
    position_of,
    stand_still_after,
    state_of,
)

from methods import METHODS
from model.checkpoint_files import read_checkpoint
from parser import parse_train_arguments
from train import main as train_main
from training.setup import OBJECTIVES, objective_of

SHORT = ["--method=triplets", "--iterations_per_epoch=4", "--checkpoint_every=1", "--lr=0.001"]


@pytest.fixture
def second_method(monkeypatch):
    for table in (OBJECTIVES, METHODS):
        monkeypatch.setitem(table, "triplets", None)  # so that it is removed in the end
    triplets.install()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_objective_and_rows_of_flags(method):
    flags = vars(parse_train_arguments([f"--method={method}", "--resume_model=netvlad.pth"]))
    assert set(objective_of(method).fixed_flags) <= flags.keys()
    assert METHODS[method].keys() - {"objective"} <= flags.keys()
    assert flags["method"] == method


@pytest.mark.long
def test_another_objective_is_killed_and_resumed_bit_equal(datasets_folder, tmp_path):
    places = [f"--datasets_folder={datasets_folder}", f"--cache_folder={tmp_path / 'cache'}"]
    line = [*SMALL, *places, *SHORT, "--epochs_num=3", "--resume_train=auto"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = run_forked("train", [*line, f"--save_dir={whole}"], tmp_path / "w", triplets.install)
    assert command.wait() == 0, command.stderr
    line += [f"--save_dir={killed}"]
    for position in ((0, 2), (1, 1), (2, 3)):
        command = run_forked("train", line, tmp_path / "k", partial(install_and_stop_at, *position))
        wait_until(lambda: has_reached(killed, position), command)  # noqa: B023
        command.kill()
        assert command.wait() == -signal.SIGKILL
    command = run_forked("train", line, tmp_path / "k", triplets.install)
    assert command.wait() == 0, command.stderr
    assert_same_state(killed, whole)
    assert metrics_of(killed) == metrics_of(whole)


def install_and_stop_at(epoch, iteration):
    triplets.install()
    stand_still_after(epoch, iteration + 1)


def has_reached(folder, position):
    return os.path.exists(folder / "last_checkpoint.pth") and position_of(folder) >= position


def test_another_objective_trains_and_resumes_within_an_epoch(
    second_method, flags, tmp_path, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    line = [*flags, *SHORT, "--epochs_num=2"]
    train_main([*line, f"--save_dir={whole}"])
    lines = metrics_of(whole)
    assert [line["mined"] for line in lines] == [4, 4] and "group" not in lines[0]
    assert all(0 < line["loss"] < 1 for line in lines)

    loss, count = triplets.Triplets.loss, iter(range(100))

    def stop(self, model, batch):  # 8 calls mine an epoch
        if next(count) == 8 + 4 + 8 + 2:
            raise KeyboardInterrupt
        return loss(self, model, batch)

    monkeypatch.setattr(triplets.Triplets, "loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train_main([*line, f"--save_dir={parts}"])
    assert position_of(parts) == (1, 2)
    monkeypatch.setattr(triplets.Triplets, "loss", loss)
    train_main([*line, f"--save_dir={parts}", "--resume_train=auto"])
    assert_same_state(parts, whole)
    assert torch.equal(
        state_of(parts)["objective_state_dict"]["seeds"],
        read_checkpoint(whole / "last_checkpoint.pth")["objective_state_dict"]["seeds"],
    )


def test_a_run_is_resumed_as_the_method_that_it_is(second_method, flags, tmp_path):
    line = [*flags, *SHORT, "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"]
    train_main(line)
    again = [f"--resume_train={tmp_path / 'run' / 'last_checkpoint.pth'}"]
    with pytest.raises(ValueError, match="--method is cosplace, in the checkpoint triplets"):
        train_main([*again, "--method=cosplace"])
    with pytest.raises(ValueError, match="--batch_size is 8, in the checkpoint 4"):
        train_main([*again, "--batch_size=8"])
    train_main([*again, "--epochs_num=2"])
    assert len(metrics_of(tmp_path / "run")) == 2
