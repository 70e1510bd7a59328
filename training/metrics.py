"""Numbers of a training: of the current epoch, of each epoch, and of images that are unreadable."""

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import commons
from machine import num_usable_cores
from training.objective import Batch

SLOW, MIN_ITERATIONS = 3.0, 10  # times the fastest iteration; of an epoch, to judge its speed
CHECK_EVERY = 20  # iterations: reading a number waits for the device
NUM_LOGGED = 10  # unreadable images in the log; the file has all
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class EpochStats(NamedTuple):
    """Numbers of an epoch of training, for metrics.jsonl."""

    loss: float  # mean over the iterations
    gradient_norm: float  # of all that is trained, before it is limited; mean
    images_per_second: float
    data_wait_share: float  # fraction of the time spent waiting for images, 0 to 1
    seconds: float
    seconds_per_iteration: float
    skipped_steps: int  # whose gradients overflowed, in mixed precision


def describe_seconds(seconds: float) -> str:
    """Return a duration in the unit that fits: "40 s", "12 min", "3.5 h", "2.1 days"."""
    for unit, length_s, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def hint_at_data_wait(stats: EpochStats) -> str | None:
    """Return what may help if most of an epoch was spent waiting for images, else None."""
    if stats.data_wait_share <= 0.5:
        return None
    return (
        f"{stats.data_wait_share:.0%} of the epoch went into waiting for images. What may help: "
        f"more --num_workers (of {num_usable_cores()} cores), images on a faster disk, smaller "
        "images; with a GPU and a method on classes, --augmentation_device cuda"
    )


class NotFiniteError(ValueError):
    """A loss or a gradient is not finite."""

    def __init__(self, epoch: int, iteration: int) -> None:
        """Say where.

        Args:
            epoch: Counted from 0.
            iteration: Of the epoch, counted from 0.
        """
        super().__init__(
            f"The loss or its gradient is not finite in epoch {epoch}, iteration {iteration}: "
            "lower --lr (and other learning rates), or limit gradients by --max_grad_norm"
        )
        self.epoch, self.iteration = epoch, iteration


class Progress:
    """Of the current epoch: how many iterations are done, their losses and their time.

    Losses stay on the device until they are read, so that the host can run ahead.
    """

    def __init__(self, epoch: int, device: torch.device, skips_steps: bool) -> None:
        """Begin an epoch.

        Args:
            epoch: Counted from 0.
            device: Of the losses.
            skips_steps: Whether a scaler skips steps whose gradients are not finite, and lowers
                its scale.
        """
        self.epoch, self.iteration = epoch, 0
        self.num_images = 0  # trained on so far, in all processes
        self._wait_s, self._before_s = 0.0, 0.0  # waiting for images; before the epoch was resumed
        self._fastest_s = math.inf  # iteration, without waiting for images
        self._start_s: float | None = None
        self._skips_steps = skips_steps
        self._loss_sum = torch.zeros((), device=device)  # of the finite ones
        self._num_losses = torch.zeros((), dtype=torch.int64, device=device)
        self._norm_sum = torch.zeros((), device=device)  # of the finite ones
        self._num_norms = torch.zeros((), dtype=torch.int64, device=device)
        self._num_bad = torch.zeros((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._num_bad_before = 0  # at the last check
        self._num_bad_loaded = 0  # checked before the run was resumed
        self._last_point = self._totals()

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Start the clock; yield batches and measure how long they are waited for.

        The clock stands still while the objective mines.
        """
        iterator, self._start_s = iter(batches), time.perf_counter()
        while True:
            before_s = time.perf_counter()
            batch = next(iterator, None)
            self._wait_s += time.perf_counter() - before_s
            if batch is None:
                return
            self._wait_s -= batch.mining_s
            self._start_s += batch.mining_s
            before_s = time.perf_counter()
            yield batch
            self._fastest_s = min(self._fastest_s, time.perf_counter() - before_s)

    def note(self, loss: torch.Tensor, gradient_norm: torch.Tensor, num_images: int) -> None:
        """Count an iteration.

        Args:
            loss: Its loss, a scalar.
            gradient_norm: A scalar.
            num_images: Of this process.
        """
        is_finite = loss.isfinite()
        is_norm_finite = gradient_norm.isfinite()
        is_bad = ~(is_finite & is_norm_finite)
        self._loss_sum += torch.where(is_finite, loss.detach(), 0)
        self._num_losses += is_finite
        self._norm_sum += torch.where(is_norm_finite, gradient_norm, 0)
        self._num_norms += is_norm_finite
        is_first = is_bad & (self._num_bad == self._num_bad_loaded)
        self._first_bad += is_first * (self.iteration + 1)
        self._num_bad += is_bad
        self.iteration += 1
        self.num_images += num_images * commons.num_ranks()

    def check(self, now: bool = False) -> None:
        """Check the losses every CHECK_EVERY iterations; on a CPU always, as nothing waits.

        Args:
            now: Check them whatever the iteration.

        Raises:
            NotFiniteError: If one was not finite, unless a scaler could skip its step.
        """
        is_due = self.iteration % CHECK_EVERY == 0
        if not (now or is_due) and self._loss_sum.device.type != "cpu":
            return
        num_bad = int(self._num_bad)
        if num_bad > self._num_bad_loaded and not self._skips_steps:
            raise NotFiniteError(self.epoch, int(self._first_bad))
        if is_due and num_bad - self._num_bad_before == CHECK_EVERY:  # no scale is low enough
            raise NotFiniteError(self.epoch, self.iteration - CHECK_EVERY)
        if is_due:
            self._num_bad_before = num_bad

    def stats(self) -> EpochStats:
        """Return the numbers of the epoch so far; all processes must call it."""
        loss = _mean_of_all(self._loss_sum, self._num_losses)
        norm = _mean_of_all(self._norm_sum, self._num_norms)
        speed, wait_share, seconds = self._speed()
        per_iteration_s = seconds / max(1, self.iteration)
        num_skipped = int(self._num_bad)
        return EpochStats(loss, norm, speed, wait_share, seconds, per_iteration_s, num_skipped)

    def stats_since_last(self) -> EpochStats:
        """Return the numbers since the last call, in this process; reading them waits for it."""
        totals = self._totals()
        since = [now - before for now, before in zip(totals, self._last_point, strict=True)]
        self._last_point = totals
        loss, num_losses, norm, num_norms, num_bad, images, iterations, wait_s, seconds = since
        return EpochStats(
            loss / max(1, num_losses),
            norm / max(1, num_norms),
            images / (seconds or math.inf),
            wait_s / (seconds or math.inf),
            seconds,
            seconds / max(1, iterations),
            int(num_bad),
        )

    def _totals(self) -> list[float]:
        counts = (self._loss_sum, self._num_losses, self._norm_sum, self._num_norms, self._num_bad)
        known = torch.stack([count.double() for count in counts]).tolist()  # waits only once
        return [*known, self.num_images, self.iteration, self._wait_s, self._elapsed_s()]

    def hint_at_neighbours(self) -> str | None:
        """Return what may help if iterations on a CPU took far longer than the fastest, else None.

        Those of a GPU are not measured: the host runs ahead of it.
        """
        _, wait_share, seconds = self._speed()
        per_iteration_s = seconds * (1 - wait_share) / max(1, self.iteration)
        is_slow = SLOW * self._fastest_s < per_iteration_s
        if self._loss_sum.device.type != "cpu" or self.iteration < MIN_ITERATIONS or not is_slow:
            return None
        load = f", the load is {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        return (
            f"An iteration took {per_iteration_s:.2f} s on average, the fastest one "
            f"{self._fastest_s:.2f} s: other processes may need the same cores "
            f"({commons.plural(torch.get_num_threads(), 'thread')} on "
            f"{commons.plural(num_usable_cores(), 'core')}{load}). What may help: fewer threads, "
            "by the variable OMP_NUM_THREADS, or fewer --num_workers"
        )

    def describe(self) -> dict[str, str]:
        """Return what a progress bar shows; this process only."""
        mean = self._loss_sum.item() / max(1, int(self._num_losses))
        speed, wait_share, _ = self._speed()
        return {"loss": f"{mean:.3f}", "img_s": f"{speed:.1f}", "data_wait": f"{wait_share:.0%}"}

    def _speed(self) -> tuple[float, float, float]:
        """Return images per second, the fraction of time spent waiting, 0 to 1, and all seconds."""
        elapsed_s = self._elapsed_s() or math.inf  # nothing was done yet: no speed
        return self.num_images / elapsed_s, self._wait_s / elapsed_s, self._elapsed_s()

    def _elapsed_s(self) -> float:
        running_s = 0.0 if self._start_s is None else time.perf_counter() - self._start_s
        return self._before_s + running_s

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; all processes must call it."""
        return {
            "iteration": self.iteration,
            "num_images": self.num_images,
            "loss_sum": _mean_over_processes(self._loss_sum).cpu(),
            "num_losses": self._num_losses.cpu(),
            "norm_sum": self._norm_sum.cpu(),
            "num_norms": self._num_norms.cpu(),
            "num_bad": self._num_bad.cpu(),
            "num_bad_before": self._num_bad_before,
            "seconds": {"wait": self._wait_s, "elapsed": self._elapsed_s()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state; the clock continues as if no time had passed since."""
        if any(type(state[name]) is not int for name in ("iteration", "num_images")):
            raise TypeError("iteration or num_images is no whole number")
        self.iteration, self.num_images = state["iteration"], state["num_images"]
        self._loss_sum.copy_(state["loss_sum"])
        self._num_losses.copy_(state["num_losses"])
        self._norm_sum.copy_(state["norm_sum"])
        self._num_norms.copy_(state["num_norms"])
        self._num_bad.copy_(state["num_bad"])
        self._num_bad_loaded = int(state["num_bad"])
        self._num_bad_before = state["num_bad_before"]
        self._wait_s, self._before_s = state["seconds"]["wait"], state["seconds"]["elapsed"]
        self._start_s = None
        self._last_point = self._totals()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes, all of which must call it."""
    if commons.num_ranks() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def _mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    return sum_over_processes(tensor) / commons.num_ranks()


def _mean_of_all(total: torch.Tensor, count: torch.Tensor) -> float:
    """Return the mean of some numbers over all processes; 0 if there are none."""
    count_of_each = _mean_over_processes(count.float()).item()
    return _mean_over_processes(total).item() / max(1.0, count_of_each)


class Metrics:
    """Writes `metrics.jsonl`, one line per epoch.

    Checkpoints have the lines as well: a resumed run rewrites the file from them, so that each
    epoch has one line whatever happened to the run.
    """

    def __init__(self, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
        """Continue after the epochs of these lines."""
        self.lines = list(lines)
        self._file = folder / "metrics.jsonl"
        with commons.atomic_write(self._file) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def write_last(self) -> None:
        """Append the last of `lines` to the file."""
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")


class UnreadableImages:
    """Counts unreadable images, lists them in `unreadable_images.txt`, refuses too many.

    The data set of the objective replaced them by others.
    """

    def __init__(self, folder: Path, max_share: float, images_per_epoch: int) -> None:
        """Continue the list.

        Args:
            folder: Of the run.
            max_share: The largest allowed fraction of the drawn images, 0 to 1.
            images_per_epoch: The fraction is of at least these: few are drawn at the start.
        """
        self.count = 0  # in this process; as often as they were drawn
        self._max_share, self.images_per_epoch = max_share, images_per_epoch
        self._file = folder / "unreadable_images.txt"
        self._listed = set()
        if self._file.exists():
            self._listed.update(self._file.read_text(**_TEXT).split("\n"))

    def note(self, sentences: Sequence[str], num_drawn: int) -> None:
        """Count those of a batch.

        Args:
            sentences: One for each unreadable image.
            num_drawn: Images that all processes have drawn in the whole run.

        Raises:
            ValueError: If there are too many.
        """
        if not sentences:
            return
        self.count += len(sentences)
        for line in (sentence.replace("\n", "\\n") for sentence in sentences):
            if line not in self._listed:
                self._list(line)
        allowed = self._max_share * max(num_drawn, self.images_per_epoch)
        if self.count * commons.num_ranks() > allowed:
            raise ValueError(
                f"{self.count:,} images could not be read, of {num_drawn // commons.num_ranks():,} "
                f"drawn, the last one because: {sentences[-1]} They are listed in "
                f"{self._file}. Repair them, or allow more by --max_bad_images (now "
                f"{self._max_share})"
            )

    def count_of_all(self) -> int:
        """Return the sum over all processes, all of which must call it."""
        return round(sum_over_processes(torch.tensor(float(self.count))).item())

    def _list(self, line: str) -> None:
        self._listed.add(line)
        level = logging.WARNING if len(self._listed) <= NUM_LOGGED else logging.DEBUG
        logging.log(level, f"{line} Another image replaces it")
        with open(self._file, "a", **_TEXT) as file:
            file.write(line + "\n")
