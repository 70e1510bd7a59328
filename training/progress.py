"""How far an epoch is, and what it tells so far."""

from typing import Any

import torch

import commons
from training.collectives import mean_over_processes
from training.metrics import Clock, EpochStats

CHECK_EVERY = 20  # iterations: reading a number waits for the device


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
            "lower --lr or --classifiers_lr, or limit gradients by --max_grad_norm"
        )
        self.epoch, self.iteration = epoch, iteration


class Progress:
    """Of the current epoch: how many iterations are done, and their losses.

    Losses stay on the device until somebody asks for them, so that the host can run ahead.
    """

    def __init__(self, epoch: int, device: torch.device, skips_steps: bool) -> None:
        """Begin an epoch.

        Args:
            epoch: Its number.
            device: Where losses are.
            skips_steps: Whether a scaler leaves out steps whose gradients are not finite, and
                lowers its scale.
        """
        self.epoch, self.iteration = epoch, 0
        self.clock = Clock()
        self._skips_steps = skips_steps
        self._loss_sum = torch.zeros((), device=device)  # of the finite ones
        self._num_losses = torch.zeros((), dtype=torch.int64, device=device)
        self._norm_sum = torch.zeros((), device=device)  # of the finite ones
        self._num_norms = torch.zeros((), dtype=torch.int64, device=device)
        self._num_bad = torch.zeros((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._num_bad_before = 0  # at the last check
        self._num_bad_loaded = 0  # those were dealt with when they came

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
        self.clock.num_images += num_images * commons.num_ranks()

    def check(self, now: bool = False) -> None:
        """Look at the losses, from time to time; on a CPU always, as nothing has to be waited for.

        Args:
            now: Do not leave it for later.

        Raises:
            NotFiniteError: If one was not finite, unless a scaler could leave its step out.
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

    def stats(self, group: int) -> EpochStats:
        """Return what the epoch tells so far; all processes must ask."""
        loss = _mean_of_all(self._loss_sum, self._num_losses)
        norm = _mean_of_all(self._norm_sum, self._num_norms)
        speed, wait_share, seconds = self.clock.totals()
        per_iteration_s = seconds / max(1, self.iteration)
        return EpochStats(
            group, loss, norm, speed, wait_share, seconds, per_iteration_s, self.num_skipped
        )

    def describe(self) -> dict[str, str]:
        """Return what a progress bar shows; this process only."""
        mean = self._loss_sum.item() / max(1, int(self._num_losses))
        speed, wait_share, _ = self.clock.totals()
        return {"loss": f"{mean:.3f}", "img_s": f"{speed:.1f}", "data_wait": f"{wait_share:.0%}"}

    @property
    def num_skipped(self) -> int:
        """Number of steps that a scaler left out."""
        return int(self._num_bad)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; all processes must call it."""
        return {
            "iteration": self.iteration,
            "loss_sum": mean_over_processes(self._loss_sum).cpu(),
            "num_losses": self._num_losses.cpu(),
            "norm_sum": self._norm_sum.cpu(),
            "num_norms": self._num_norms.cpu(),
            "num_bad": self._num_bad.cpu(),
            "num_bad_before": self._num_bad_before,
            "clock": self.clock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.iteration = state["iteration"]
        self._loss_sum.copy_(state["loss_sum"])
        self._num_losses.copy_(state["num_losses"])
        self._norm_sum.copy_(state["norm_sum"])
        self._num_norms.copy_(state["num_norms"])
        self._num_bad.copy_(state["num_bad"])
        self._num_bad_loaded = int(state["num_bad"])
        self._num_bad_before = state["num_bad_before"]
        self.clock.load_state_dict(state["clock"])


def _mean_of_all(total: torch.Tensor, count: torch.Tensor) -> float:
    """Return the mean of some numbers over all processes; 0 if there are none."""
    count_of_each = mean_over_processes(count.float()).item()
    return mean_over_processes(total).item() / max(1.0, count_of_each)
