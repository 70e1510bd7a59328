import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import metrics_of, position_of, small_training

from runs.signals import StopSignals
from train import main as train_main
from training import checkpoints
from training.checkpoints import Checkpointer
from training.metrics import NotFiniteError, UnreadableImages
from training.state import Training


def test_a_checkpoint_has_no_losses_that_were_not_checked(tmp_path):
    training = small_training()
    signals = StopSignals("Start again", can_resume=True)
    checkpointer = Checkpointer(tmp_path, {}, 0, UnreadableImages(tmp_path, 1, 1), signals)
    checkpointer.start(training, None)
    training.progress.note(torch.tensor(math.nan), torch.tensor(1.0), 4)
    with pytest.raises(NotFiniteError):
        checkpointer.save(training)
    assert not list(tmp_path.glob("*.pth"))
    assert signals.how_to_resume == "Start again"


def test_nothing_is_kept_of_an_epoch_without_its_checkpoint(flags, tmp_path, monkeypatch):
    end_epoch, save = Training.end_epoch, checkpoints.save_keeping_previous

    def be_best(self, val_recall1):
        return end_epoch(self, float(self.epoch_num))

    def fail_in_the_end(state, *paths):
        if state["epoch_num"] == 2:
            raise OSError("the disk is gone")
        save(state, *paths)

    monkeypatch.setattr(Training, "end_epoch", be_best)
    run, line = tmp_path / "run", [*flags, f"--save_dir={tmp_path / 'run'}", "--epochs_num=2"]
    train_main([*line, "--epochs_num=1"])
    best = (run / "best_model.pth").read_bytes()
    monkeypatch.setattr(checkpoints, "save_keeping_previous", fail_in_the_end)
    with pytest.raises(OSError, match="the disk is gone"):
        train_main([*line, "--resume_train=auto"])
    assert (run / "best_model.pth").read_bytes() == best and len(metrics_of(run)) == 1

    monkeypatch.setattr(checkpoints, "save_keeping_previous", save)
    train_main([*line, "--resume_train=auto"])
    assert (run / "best_model.pth").read_bytes() != best and len(metrics_of(run)) == 2


def test_an_interrupted_validation_loses_nothing_of_the_training(flags, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        train_main([*flags, f"--save_dir={tmp_path / 'run'}", "--checkpoint_every=0"])
    assert position_of(tmp_path / "run") == (0, 3)


def test_a_run_that_goes_on_keeps_the_epochs_that_tensorboard_shows(flags, tmp_path):
    line = [*flags, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto"]
    for epochs in (2, 3):
        train_main([*line, f"--epochs_num={epochs}"])
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    expected = {line["epoch"]: line["loss"] for line in metrics_of(tmp_path / "run")}
    assert losses == pytest.approx(expected, rel=1e-6) and len(losses) == 3
