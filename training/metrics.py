"""Numbers of each epoch, as lines of JSON and as TensorBoard events."""

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch.utils.tensorboard import SummaryWriter

import commons

T = TypeVar("T")


class EpochStats(NamedTuple):
    """What an epoch of training tells."""

    group: int
    loss: float  # mean over the iterations
    gradient_norm: float  # of network and head together, before it is limited; mean
    images_per_second: float
    data_wait_share: float  # part of the time that went into waiting for images, 0 to 1
    seconds: float
    seconds_per_iteration: float
    skipped_steps: int  # whose gradients overflowed, in mixed precision

    def __str__(self) -> str:
        """Return them as a part of a sentence."""
        skipped = f", {self.skipped_steps} steps skipped" if self.skipped_steps else ""
        return (
            f"group {self.group}, loss {self.loss:.4f}, {self.images_per_second:.1f} images/s, "
            f"{self.seconds_per_iteration:.2f} s an iteration with {self.data_wait_share:.0%} data "
            f"wait{skipped}"
        )


def describe_seconds(seconds: float) -> str:
    """Return a duration in the unit that fits: "40 s", "12 min", "3.5 h", "2.1 days"."""
    for unit, length_s, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def hint_at_data_wait(stats: EpochStats, num_workers: int) -> str | None:
    """Return what may help if most of an epoch went into waiting for images, else None."""
    if stats.data_wait_share <= 0.5:
        return None
    num_cores = os.cpu_count() or 1
    more = f"more --num_workers (now {num_workers}, of {num_cores} cores), "
    return (
        f"{stats.data_wait_share:.0%} of the epoch went into waiting for images. What may help: "
        f"{more if num_workers < num_cores else ''}images on a faster disk, smaller images, "
        "or --augmentation_device cuda if there is a GPU"
    )


class Clock:
    """Measures how fast an epoch trains, and how much of its time goes into waiting for images."""

    def __init__(self) -> None:
        """Stand at zero."""
        self.num_images = 0  # trained on so far, in all processes
        self._wait_s, self._before_s = 0.0, 0.0
        self._start_s: float | None = None

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Start; yield batches and count the time that it takes to get them."""
        iterator, self._start_s = iter(batches), time.perf_counter()
        while True:
            before_s = time.perf_counter()
            batch = next(iterator, None)
            self._wait_s += time.perf_counter() - before_s
            if batch is None:
                return
            yield batch

    def totals(self) -> tuple[float, float, float]:
        """Return images per second, the share of time spent waiting, 0 to 1, and all seconds."""
        elapsed_s = self._elapsed_s() or math.inf  # nothing was done yet: no speed
        return self.num_images / elapsed_s, self._wait_s / elapsed_s, self._elapsed_s()

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` goes on from."""
        return {
            "num_images": self.num_images,
            "wait_s": self._wait_s,
            "elapsed_s": self._elapsed_s(),
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on, once started, as if no time had passed since."""
        self.num_images, self._wait_s = state["num_images"], state["wait_s"]
        self._before_s, self._start_s = state["elapsed_s"], None

    def _elapsed_s(self) -> float:
        running_s = 0.0 if self._start_s is None else time.perf_counter() - self._start_s
        return self._before_s + running_s


class Metrics:
    """Writes `metrics.jsonl`, one line per epoch, and event files for TensorBoard.

    Checkpoints have the lines as well: when a run is continued, the file is made anew from them,
    so that whatever happened to the run, each epoch has one line.
    """

    def __init__(self, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
        """Go on after the epochs of these lines."""
        self.lines = list(lines)
        self._file = folder / "metrics.jsonl"
        with commons.atomic_write(self._file) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._events = SummaryWriter(str(folder), purge_step=len(lines))

    def write_last(self) -> None:
        """Append the last one of `lines` to the files."""
        line = self.lines[-1]
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        try:
            for name, value in line.items():
                self._events.add_scalar(name, value, line["epoch"])
            self._events.flush()
        except OSError as error:  # metrics.jsonl and the checkpoint have the numbers
            logging.warning(f"TensorBoard's events are not written: {error}")
