"""Numbers of each epoch, as lines of JSON and as TensorBoard events."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch.utils.tensorboard import SummaryWriter

import commons

T = TypeVar("T")


class EpochStats(NamedTuple):
    """What an epoch of training tells."""

    group: int
    loss: float  # mean over the iterations
    images_per_second: float
    data_wait_share: float  # part of the time that went into waiting for images, 0 to 1
    seconds: float


def check_finite(loss: float, epoch: int, iteration: int) -> None:
    """Raise a ValueError if training has diverged."""
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss is {loss} in epoch {epoch}, iteration {iteration}: "
            "lower --lr or --classifiers_lr"
        )


class Clock:
    """Measures how fast an epoch trains, and how much of its time goes into waiting for images."""

    def __init__(self) -> None:
        """Start."""
        self.num_images = 0  # trained on so far, in all processes
        self._wait_s, self._start_s = 0.0, time.perf_counter()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches and count the time that it takes to get them."""
        iterator = iter(batches)
        while True:
            before_s = time.perf_counter()
            batch = next(iterator, None)
            self._wait_s += time.perf_counter() - before_s
            if batch is None:
                return
            yield batch

    def totals(self) -> tuple[float, float, float]:
        """Return images per second, the share of time spent waiting, 0 to 1, and all seconds."""
        elapsed_s = time.perf_counter() - self._start_s
        return self.num_images / elapsed_s, self._wait_s / elapsed_s, elapsed_s


class Metrics:
    """Writes `metrics.jsonl`, one line per epoch, and event files for TensorBoard."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Continue at an epoch; what an interrupted run wrote about it and later ones goes."""
        self._file = folder / "metrics.jsonl"
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            with commons.written_whole(self._file) as temporary:
                temporary.write_text("".join(lines[:first_epoch]))
        self._events = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Append the numbers of an epoch."""
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch} | values) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()
