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
from packages import explain_import_error
from training.state import Training

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # not needed to train

ITERATIONS = "iterations.jsonl"
_WANDB_ID = "wandb_id.txt"  # of the run that a resumed training continues
_NO_EVENTS = "A point is not written to the events for TensorBoard"
_ITERATION_GROUPS = ("train", "speed")  # of numbers, in Weights & Biases
_EPOCH_GROUPS = {"train": "train_epoch", "speed": "speed_epoch", "val": "val", "memory": "memory"}


@dataclass(frozen=True)
class CurvesParams:
    """What is written of a training, and how often."""

    log_every: int = 100  # iterations from one point to the next; 0: only epochs
    wandb: str | None = None  # project of Weights & Biases
    flags: Mapping[str, Any] = field(default_factory=dict)  # of the run, for that project


EPOCHS_ONLY = CurvesParams(log_every=0)


class Curves:
    """Writes points of iterations and epochs; only the main process has one.

    No failure here ends a training: checkpoints and metrics.jsonl have what is needed to resume.
    Each kind of failure is warned of once.
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
        self._warned: set[tuple[str, type]] = set()  # what failed, and how
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
        self._wandb: Any = None  # a run of Weights & Biases
        if params.wandb:
            self._begin(folder, params)

    def write_iteration(self, training: Training) -> None:
        """Write a point: the numbers of this process since the last one."""
        progress = training.progress
        stats = progress.stats_since_last()
        values = {
            "train/loss": stats.loss,
            "train/lr": training.learning_rate(progress.iteration - 1),
            "train/gradient_norm": stats.gradient_norm,
            "speed/images_per_second": stats.images_per_second,
            "speed/data_wait_share": stats.data_wait_share,
        }
        line = {name.partition("/")[2]: value for name, value in values.items()}
        line = {"epoch": progress.epoch, "iteration": progress.iteration} | line
        step = progress.epoch * self._per_epoch + progress.iteration
        self._try(f"A point is not written to {ITERATIONS}", lambda: self._append(line))
        self._try(_NO_EVENTS, lambda: _add(self._iteration_events(), values, step))
        self._send(values | {"iteration": step})

    def write_epoch(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics.jsonl, by groups of numbers."""
        names = {name: _group(name) for name in line if name != "epoch"}
        values = {f"{group}/{name}": line[name] for name, group in names.items()}
        self._try(_NO_EVENTS, lambda: _add(self._epochs, values, line["epoch"]))
        values = {f"{_EPOCH_GROUPS[group]}/{name}": line[name] for name, group in names.items()}
        self._send(values | {"epoch": line["epoch"]})

    def close(self, exit_code: int) -> None:
        """End the run of Weights & Biases: what is written waits until it is sent.

        Args:
            exit_code: 0 if the training has ended; else it was stopped, and may be resumed.
        """
        run, self._wandb = self._wandb, None
        if run is not None:
            what = "The run of Weights & Biases is not ended"
            self._try(what, lambda: run.finish(exit_code=exit_code))

    def _begin(self, folder: Path, params: CurvesParams) -> None:
        """Begin a run of Weights & Biases, or continue the one of this folder.

        Its steps count what is sent; the axes are the numbers that each point brings along. So
        points of epochs and iterations may come in any order, and a resumed run that repeats
        iterations since its checkpoint sends them again, at the same place of the axis.
        """
        file = folder / _WANDB_ID

        def begin() -> None:
            known = file.read_text(errors="replace").strip() if file.exists() else None
            self._wandb = importlib.import_module("wandb").init(
                project=params.wandb,
                name=folder.name,
                dir=str(folder),
                config=dict(params.flags),
                allow_val_change=True,  # of flags that differ in a resumed run
                id=known,
                resume="allow",
            )

        def set_axes() -> None:
            axes = dict.fromkeys(_ITERATION_GROUPS, "iteration")
            axes |= dict.fromkeys(_EPOCH_GROUPS.values(), "epoch")
            for axis in ("iteration", "epoch"):
                self._wandb.define_metric(axis, hidden=True)
            for group, axis in axes.items():
                self._wandb.define_metric(f"{group}/*", step_metric=axis)

        self._try("Nothing is sent to Weights & Biases", begin)
        if self._wandb is not None:
            self._try("The axes of Weights & Biases are not set", set_axes)
            what = f"A resumed training will begin another run there: {_WANDB_ID} is not written"
            self._try(what, lambda: file.write_text(str(self._wandb.id)))

    def _send(self, values: Mapping[str, Any]) -> None:
        if self._wandb is not None:
            what = "A point is not sent to Weights & Biases"
            self._try(what, lambda: self._wandb.log(dict(values)))

    def _try(self, what: str, act: Callable[[], object]) -> None:
        """Do something; if it fails, warn of that, unless it did so before.

        SystemExit is no wish of the user here: packages raise it where they give up.
        """
        try:
            act()
        except (Exception, SystemExit) as error:
            kind = what, type(error)
            if kind not in self._warned:
                self._warned.add(kind)
                logging.warning(
                    f"{what}: {_reason(error)}. The training goes on; the same is not said again"
                )

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
        logging.warning(f"No events for TensorBoard are written: {_reason(error)}")
        return None


def _add(events: "SummaryWriter | None", values: Mapping[str, Any], step: int) -> None:
    if events is None:
        return
    for name, value in values.items():
        events.add_scalar(name, value, step)
    events.flush()


def _reason(error: BaseException) -> str:
    explained = explain_import_error(error) if isinstance(error, ImportError) else ""
    text = explained or f"{type(error).__name__}: {error}"
    return " ".join(text.split()).rstrip(":.")
