"""Curves of a training: `iterations.jsonl`, events for TensorBoard, a run of Weights & Biases."""

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import commons
from model.checkpoint_files import require_packages
from packages import explain_import_error
from training.state import Training

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # not needed to train

ITERATIONS = "iterations.jsonl"
_WANDB_ID = "wandb_id.txt"  # of the run that a resumed training continues


@dataclass(frozen=True)
class CurvesParams:
    """What is written of a training, and how often."""

    log_every: int = 100  # iterations from one point to the next; 0: only epochs
    wandb: str | None = None  # project of Weights & Biases
    flags: Mapping[str, Any] = field(default_factory=dict)  # of the run, for that project

    def __post_init__(self) -> None:
        """Raise a ValueError if its package is missing."""
        if self.wandb:
            require_packages("--wandb", "wandb")


EPOCHS_ONLY = CurvesParams(log_every=0)


class Curves:
    """Writes points of iterations and epochs; only the main process has one.

    No failure here ends a training: checkpoints and metrics.jsonl have what is needed to resume.
    """

    def __init__(
        self, folder: Path, params: CurvesParams, position: tuple[int, int], per_epoch: int
    ) -> None:
        """Continue the curves of a run; later points, of a run that was killed, are removed.

        Args:
            folder: Of the run.
            params: What is written.
            position: Where the training is: epoch and iterations of it that are done.
            per_epoch: Iterations of an epoch.
        """
        self._per_epoch = per_epoch
        epoch, iteration = position
        self._file = folder / ITERATIONS
        kept = [line for line in read_iterations(self._file) if _position(line) <= position]
        if kept or self._file.exists():
            with commons.atomic_write(self._file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        # Two runs of TensorBoard: the steps of the one are epochs, those of the other iterations.
        self._epochs = _open_events(folder, purge_step=epoch)
        self._folder, self._first = folder / "iterations", epoch * per_epoch + iteration + 1
        self._iterations: SummaryWriter | None = None  # as soon as there is a point
        self._wandb = _open_wandb(folder, params) if params.wandb else None

    def write_iteration(self, training: Training) -> None:
        """Write a point: the numbers of this process since the last one."""
        progress = training.progress
        stats = progress.stats_since_last()
        optimizer = training.optimization.optimizer
        values = {
            "train/loss": stats.loss,
            "train/lr": optimizer.lr_at(progress.epoch),
            "train/gradient_norm": stats.gradient_norm,
            "speed/images_per_second": stats.images_per_second,
            "speed/data_wait_share": stats.data_wait_share,
        }
        line = {name.partition("/")[2]: value for name, value in values.items()}
        line = {"epoch": progress.epoch, "iteration": progress.iteration} | line
        step = progress.epoch * self._per_epoch + progress.iteration
        _try(lambda: self._append(line))
        _try(lambda: _add(self._iteration_events(), values, step))
        if self._wandb is not None:
            _try(lambda: self._wandb.log(values | {"iteration": step}))

    def write_epoch(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics.jsonl, by groups of numbers."""
        values = {f"{_group(name)}/{name}": line[name] for name in line if name != "epoch"}
        _try(lambda: _add(self._epochs, values, line["epoch"]))
        if self._wandb is not None:
            _try(lambda: self._wandb.log(values | {"epoch": line["epoch"]}))

    def _iteration_events(self) -> "SummaryWriter | None":
        if self._iterations is None:
            self._folder.mkdir(exist_ok=True)
            self._iterations = _open_events(self._folder, purge_step=self._first)
        return self._iterations

    def _append(self, line: Mapping[str, Any]) -> None:
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_iterations(file: Path) -> list[dict[str, Any]]:
    """Return the points of an `iterations.jsonl`; none if there is no file."""
    lines = []
    for text in file.read_text(errors="replace").splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
            _position(line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            break  # the run was killed while it wrote
        lines.append(line)
    return lines


def _position(line: Mapping[str, Any]) -> tuple[int, int]:
    return int(line["epoch"]), int(line["iteration"])


def _group(name: str) -> str:
    """Return the group of a number of metrics.jsonl: val, memory, speed or train."""
    if name.startswith("R@"):
        return "val"
    if name.startswith("peak_"):
        return "memory"
    is_speed = "second" in name or name == "data_wait_share"
    return "speed" if is_speed else "train"


def _open_events(folder: Path, purge_step: int) -> "SummaryWriter | None":
    """Return a writer of TensorBoard's events; warn and return None if there can be none.

    Args:
        folder: Of the run.
        purge_step: Epoch from which on TensorBoard forgets earlier events.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        name = str(folder)
        if not name.isascii() and name != os.fsencode(name).decode(errors="replace"):
            name = f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # it takes UTF-8 alone
        if not folder.is_dir():  # it would be made again, and the loss of a run never be noticed
            raise FileNotFoundError(f"the folder {folder} vanished")
        return SummaryWriter(name, purge_step=purge_step)
    except (ImportError, OSError) as error:  # metrics.jsonl and the checkpoint have the numbers
        is_missing = isinstance(error, ImportError)
        reason = (explain_import_error(error) if is_missing else "") or error
        logging.warning(f"No events for TensorBoard are written: {reason}")
        return None


def _add(events: "SummaryWriter | None", values: Mapping[str, Any], step: int) -> None:
    if events is None:
        return
    for name, value in values.items():
        events.add_scalar(name, value, step)
    events.flush()


def _open_wandb(folder: Path, params: CurvesParams) -> Any:
    """Begin a run of Weights & Biases, or continue the one of this folder."""
    wandb = importlib.import_module("wandb")
    file = folder / _WANDB_ID
    run = wandb.init(
        project=params.wandb,
        name=folder.name,
        dir=str(folder),
        config=dict(params.flags),
        id=file.read_text().strip() if file.exists() else None,
        resume="allow",
    )
    for group in ("train", "speed", "val", "memory"):
        run.define_metric(f"{group}/*")
    file.write_text(str(run.id))
    return run


def _try(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception as error:
        logging.warning(f"A point of the training's curves is not written: {error}")
