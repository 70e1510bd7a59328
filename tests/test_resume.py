"""Training that is interrupted and continued."""

import json
import re
import shutil
import signal
from functools import partial

import pytest
import torch
from conftest import name, write_image
from forked_commands import run_forked, wait_until
from training_runs import SMALL, assert_same_state, metrics_of, stand_still_after

from model.checkpoint_files import read_checkpoint, save_atomically
from model.checkpoints import load_network
from train import main as train_main
from training.checkpoints import note_changes, read_training_checkpoint


def test_killed_and_continued_training_equals_an_uninterrupted_one(flags, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [*flags, "--num_workers=1", "--iterations_per_epoch=30"]
    train_main([*flags, f"--save_dir={whole}"])
    stop = partial(stand_still_after, 2, 20)
    command = run_forked("train", [*flags, f"--save_dir={killed}"], tmp_path / "said", stop)
    lines = killed / "metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.read_text().count("\n") >= 2, command)
    command.kill()
    assert command.wait() == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    train_main([f"--resume_train={killed / 'last_checkpoint.pth'}"])
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


def test_what_is_changed_on_the_way_is_kept_and_results_of_less_are_not(continued, monkeypatch):
    again = [f"--resume_train={continued / 'last_checkpoint.pth'}", "--num_workers=0"]
    (continued / "results.json").write_text("{}")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.fit", stop)
    for argv, changed in (
        ([], []),
        (["--lr=0.5", "--epochs_num=9", "--device=cpu"], ["lr from 0.001 to 0.5"]),
    ):
        with pytest.raises(KeyboardInterrupt):
            train_main([*again, *argv])
        flags = json.loads((continued / "args.json").read_text())
        assert flags["changed_on_resume"] == changed
        assert not (continued / "results.json").exists()
    log = (continued / "info.log").read_text()
    assert log.count("This training is finished, after 1 epoch of 1.") == 1
    assert "Changed since the checkpoint: epochs_num from 1 to 9; lr from 0.001 to 0.5\n" in log
    assert log.count("Changed since") == 1 and log.count("Resuming at epoch 1, iteration 0") == 1


def test_an_earlier_change_is_not_forgotten():
    checkpoint = {"args": {"lr": 1.0, "seed": 0, "changed_on_resume": ["seed from 1 to 0"]}}
    flags = note_changes({"lr": 2.0, "seed": 0, "new_flag": 1}, checkpoint)
    assert flags["changed_on_resume"] == ["seed from 1 to 0", "lr from 1.0 to 2.0"]
    assert note_changes({"lr": 2.0}, None) == {"lr": 2.0}


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
        "--aggregation=avg",
        "--train_all_layers",
        "--save_dir=elsewhere",
    ],
)
def test_continuing_with_other_classes_or_network_is_refused(continued, change):
    before = (continued / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=f"cannot be resumed: {change.split('=')[0]} is "):
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


def test_best_model_is_no_checkpoint_to_continue_from(continued):
    with pytest.raises(ValueError, match="--resume_train takes the last_checkpoint.pth"):
        train_main([f"--resume_train={continued / 'best_model.pth'}"])


def test_training_may_start_from_the_weights_of_a_network(continued, flags, tmp_path):
    start = ["--resume_model", str(continued / "best_model.pth"), "--epochs_num=1"]
    train_main([*flags, *start, "--fc_output_dim=999", f"--save_dir={tmp_path / 'run'}"])
    assert load_network(tmp_path / "run" / "best_model.pth").out_dim == 16
    assert json.loads((tmp_path / "run" / "args.json").read_text())["fc_output_dim"] == 16


def test_continuing_may_change_learning_rates_and_precision(flags, tmp_path, monkeypatch):
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: True)
    train_main([*flags, "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"])
    last = tmp_path / "run" / "last_checkpoint.pth"
    more = ["--epochs_num=2", "--lr=1e-6", "--classifiers_lr=0.5", "--use_amp16"]
    train_main([f"--resume_train={last}", *more])
    state = read_checkpoint(last)
    assert state["optimizer_state_dict"]["param_groups"][0]["lr"] == 1e-6
    heads = state["objective_state_dict"]["optimizers_state_dict"]
    assert [adam["param_groups"][0]["lr"] for adam in heads] == [0.5] * 2
    assert state["args"]["lr"] == 1e-6 and state["scaler_state_dict"]["scale"] > 0


def test_continuing_without_the_best_network_is_refused_at_once(continued, tmp_path):
    checkpoint = read_checkpoint(continued / "last_checkpoint.pth")
    later = {"epoch_num": 2, "best_epoch": 0}  # its network is no longer the best
    save_atomically(checkpoint | later, tmp_path / "last_checkpoint.pth")
    with pytest.raises(FileNotFoundError, match="no .*best_model.pth: it belongs to"):
        train_main([f"--resume_train={tmp_path / 'last_checkpoint.pth'}"])


def test_within_an_epoch_the_best_network_cannot_be_made_again(continued, tmp_path):
    checkpoint = read_checkpoint(continued / "last_checkpoint.pth")
    checkpoint["progress"]["iteration"] = 1
    save_atomically(checkpoint, tmp_path / "last_checkpoint.pth")
    with pytest.raises(FileNotFoundError, match="no .*best_model.pth: it belongs to"):
        train_main([f"--resume_train={tmp_path / 'last_checkpoint.pth'}"])


def later(run, tmp_path):
    """Copy a run of one epoch, and let its network be the best of one before the last epoch."""
    shutil.copytree(run, tmp_path / "later")
    last = tmp_path / "later" / "last_checkpoint.pth"
    checkpoint = read_checkpoint(last)
    checkpoint["metrics"] *= 2
    save_atomically(checkpoint | {"epoch_num": 2, "best_epoch": 0}, last)
    return last


def test_another_best_network_is_noticed_and_the_runs_own_is_not(continued, tmp_path, refused):
    last = later(continued, tmp_path)
    best = last.with_name("best_model.pth")
    assert read_training_checkpoint(last)["epoch_num"] == 2
    state = read_checkpoint(best)
    state["aggregation.1.p"] += 1e-3
    save_atomically(state, best)
    said = refused(train_main, [f"--resume_train={last}"], code=1)
    assert "best_model.pth is not the best network of the training in " in said
    assert "compared are its tensors" in said
    best.write_bytes(best.read_bytes()[:-9])
    said = refused(train_main, [f"--resume_train={last}"], code=1)
    assert "best_model.pth is not a checkpoint that can be read safely" in said


def test_the_best_network_may_be_the_one_that_is_validated_next(continued, tmp_path):
    """The last checkpoint, which said so, is lost."""
    last = later(continued, tmp_path)
    checkpoint = read_checkpoint(last) | {"best_model_sha256": "of an earlier one"}
    save_atomically(checkpoint, last)
    assert read_training_checkpoint(last)["epoch_num"] == 2
    checkpoint["model_state_dict"]["aggregation.1.p"] += 1e-3
    save_atomically(checkpoint, last)
    with pytest.raises(ValueError, match="is not the best network"):
        read_training_checkpoint(last)
    del checkpoint["best_model_sha256"]  # an older version wrote it
    save_atomically(checkpoint, last)
    assert read_training_checkpoint(last)["epoch_num"] == 2


def test_another_validation_set_is_noticed_once(continued, datasets_folder, tmp_path):
    run = shutil.copytree(continued, tmp_path / "run")
    val = shutil.copytree(datasets_folder / "mini_city/processed/val", tmp_path / "val")
    again = [f"--resume_train={run / 'last_checkpoint.pth'}", f"--val_set_folder={val}"]
    train_main([*again, "--epochs_num=1"])
    log = run / "info.log"
    assert "The validation set has changed" not in log.read_text()
    next((val / "queries").rglob("*.jpg")).unlink()
    train_main([*again, "--epochs_num=2"])
    assert log.read_text().count("The validation set has changed since") == 1
    assert "(compared are the names of its images and their order)" in log.read_text()
    train_main([*again, "--epochs_num=2"])
    assert log.read_text().count("The validation set has changed since") == 1
    flags = json.loads((run / "args.json").read_text())
    assert "the images of the validation set" in flags["changed_on_resume"]


WRONG_HEADS = [{"weight": torch.zeros(1, 1)}] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"args": []},
        {"metrics": 5},
        {"metrics": [{"epoch": 0, "loss": torch.zeros(2)}]},
        {"metrics": [5]},
        {"epoch_num": None},
        {"epoch_num": True},
        {"best_epoch": "0"},
        {"progress": {}},
        {"objective_state_dict": {"classifiers_state_dict": WRONG_HEADS}},
        {"optimizer_state_dict": {"state": {}, "param_groups": [{}]}},
        {"rng_state": torch.zeros(3)},
    ],
)
def test_checkpoints_that_are_none_are_refused(continued, tmp_path, refused, wrong):
    run = tmp_path / "run"
    shutil.copytree(continued, run)
    checkpoint = read_checkpoint(run / "last_checkpoint.pth")
    save_atomically(checkpoint | wrong, run / "last_checkpoint.pth")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    said = refused(train_main, [f"--resume_train={run / 'last_checkpoint.pth'}"], code=1)
    assert re.search("run/last_checkpoint.pth is not a checkpoint (to resume|of this)", said)
    after = {file.name: file.read_bytes() for file in run.iterdir()}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("recall_values", 5),
        ("recall_values", {"1": 2}),
        ("method", ["cosplace"]),
        ("datasets_folder", 5),
        ("cache_folder", [1]),
        ("lr", [0.1]),
        ("changed_on_resume", 5),
    ],
)
def test_flags_of_wrong_kinds_are_refused(continued, tmp_path, refused, flag, value):
    run = tmp_path / "run"
    shutil.copytree(continued, run)
    checkpoint = read_checkpoint(run / "last_checkpoint.pth")
    checkpoint["args"][flag] = value
    save_atomically(checkpoint, run / "last_checkpoint.pth")
    line = [f"--resume_train={run / 'last_checkpoint.pth'}"]
    said = refused(train_main, line, code=1 if flag == "changed_on_resume" else 2)
    assert flag in said


def test_the_best_network_is_made_again_if_it_was_lost(continued, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(continued, run)
    (run / "best_model.pth").unlink()
    (run / "metrics.jsonl").write_text('{"epoch": 0}\n{"epo')
    train_main([f"--resume_train={run / 'last_checkpoint.pth'}"])
    best, expected = (read_checkpoint(path / "best_model.pth") for path in (run, continued))
    assert best.keys() == expected.keys()
    assert all(torch.equal(best[key], expected[key]) for key in best)
    assert metrics_of(run) == metrics_of(continued)
