"""Training state: network, optimizer, scaler, objective, and how far the run is."""

import contextlib
import copy
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import commons
from model.network import GeoLocalizationNet
from training.metrics import Progress
from training.objective import ImageSize, Objective
from training.optimizers import OptimizerParams, load_optimizer, make_optimizer, set_learning_rates

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CPU_UNITS = {  # words in /proc/cpuinfo, of x86 and ARM processors
    "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
}


@dataclass(frozen=True)
class Optimization:
    """How a step is computed, whatever the objective, and when to stop."""

    optimizer: OptimizerParams = OptimizerParams()  # of the network
    use_amp16: bool = False  # mixed precision
    amp_dtype: str = "fp16"  # its 16-bit type, a key of AMP_DTYPES
    max_grad_norm: float | None = None  # of all that is trained, together; longer are shortened
    freeze_bn: str | None = None  # layers that keep their BatchNorm statistics: "frozen" ones, or
    # "all"; None: none, as in the paper
    compile: bool = False  # the network, by torch.compile
    patience: int = 0  # stop after so many epochs in a row without a better network; 0: never

    def check(self, device: torch.device) -> None:
        """Raise a ValueError if mixed precision does not pay on a device.

        A processor that has to emulate 16 bits takes many times as long as in 32 bits (40 times
        were measured for bf16).
        """
        name = self.amp_dtype
        if self.use_amp16 and device.type == "cpu" and not cpu_computes_in(name):
            raise ValueError(
                f"--amp_dtype {name}: this processor does not compute in {name}, mixed precision "
                "would take many times as long as 32 bits: leave --use_amp16 out, or "
                "give --no-use_amp16"
            )

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The 16-bit type of mixed precision; None for 32 bits."""
        return AMP_DTYPES[self.amp_dtype] if self.use_amp16 else None


def cpu_computes_in(name: str) -> bool:
    """Return whether the processor has units for a 16-bit type; True where that is unknown."""
    if platform.system() != "Linux":
        return True
    words = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    return bool(_CPU_UNITS[name] & words)


class Training:
    """All that changes while training: the content of a checkpoint.

    Under torchrun, each process has one, for its share of each batch: gradients are averaged, and
    on GPUs BatchNorm sees the whole batch.
    """

    def __init__(
        self,
        network: GeoLocalizationNet,
        objective: Objective,
        optimization: Optimization,
        device: torch.device,
        image_size: ImageSize,
    ) -> None:
        """Put the network on the device and attach the objective to it.

        Args:
            network: The network to train.
            objective: What it trains on and minimises.
            optimization: How a step is computed.
            device: Where to train.
            image_size: Of training images: height and width, in pixels.
        """
        self.device = device
        self.optimization = optimization
        self.network = network.to(device, memory_format=torch.channels_last)
        self.model = self._parallel(objective.module(network))  # called: the same tensors
        is_scaled = optimization.autocast_dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_scaled)
        self.objective = objective
        self.optimizer = make_optimizer(network, optimization.optimizer, device)
        objective.attach(network, self.optimizer, image_size, device)
        self.epoch_num = 0  # epochs that are done
        self.begin_epoch()
        self.best_val_recall, self.best_epoch = -1.0, -1
        self._separate_generators()

    def begin_epoch(self) -> None:
        """Start counting the iterations of the current epoch, with its learning rates."""
        self.progress = Progress(self.epoch_num, self.device, self.scaler.is_enabled())
        set_learning_rates(self.optimizer, self.learning_rate(0))

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration of the current epoch, counted from 0."""
        per_epoch = self.objective.num_iterations(self.epoch_num)
        return self.optimization.optimizer.lr_at(self.epoch_num, iteration, per_epoch)

    def _parallel(self, model: nn.Module) -> nn.Module:
        if commons.num_ranks() > 1:
            if self.device.type == "cuda":
                model = _with_synced_batch_norm(model)
            model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return torch.compile(model) if self.optimization.compile else model

    def _separate_generators(self) -> None:
        """Let layers that draw at random do so on their own in each process."""
        if commons.rank() > 0:
            iterations = (self.epoch_num << 24) + self.progress.iteration
            torch.manual_seed(torch.initial_seed() + (iterations << 12) + commons.rank())

    @contextlib.contextmanager
    def turn(self) -> Iterator[list[Optimizer]]:
        """Yield the optimizers of the current epoch: the network's, then the objective's."""
        with self.objective.turn(self.epoch_num) as optimizers:
            yield [self.optimizer, *optimizers]

    def step(self, loss: torch.Tensor, optimizers: Sequence[Optimizer]) -> torch.Tensor:
        """Move all that is trained against the gradient of a loss.

        A scaler skips those optimizers whose gradients are not finite.

        Args:
            loss: A scalar.
            optimizers: Those of the current `turn`.

        Returns:
            The length of the whole gradient, before it was limited. A scalar.
        """
        self.scaler.scale(loss).backward()
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        norm = self._limit_gradients([_gradients_of(optimizer) for optimizer in optimizers])
        set_learning_rates(self.optimizer, self.learning_rate(self.progress.iteration))
        for optimizer in optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        return norm

    def _limit_gradients(self, parts: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        """Shorten a gradient that is too long; return its length.

        Args:
            parts: The gradients of each optimizer.
        """
        norms = torch.stack([_norm(gradients) for gradients in parts])
        if self.optimization.max_grad_norm is not None:
            # A scaler skips parts that are not finite: the others must come out as they should.
            length = torch.linalg.vector_norm(norms.where(norms.isfinite(), 0))
            factor = (self.optimization.max_grad_norm / (length + 1e-6)).clamp(max=1)
            for gradient in chain(*parts):
                gradient.mul_(factor)
        return torch.linalg.vector_norm(norms)

    def to_train_mode(self) -> None:
        """Let BatchNorm take statistics of the batches, but where it is to keep its own."""
        self.model.train()
        for layer in self.model.modules() if self.optimization.freeze_bn else ():
            is_all = self.optimization.freeze_bn == "all"
            if isinstance(layer, _BatchNorm) and (is_all or not layer.weight.requires_grad):
                layer.eval()

    @property
    def has_stalled(self) -> bool:
        """Whether no epoch of the last ones, as many as the patience, had a better network."""
        patience = self.optimization.patience
        return 0 < patience <= self.epoch_num - 1 - self.best_epoch

    def end_epoch(self, val_recall: float) -> bool:
        """Count an epoch; return whether its network is the best so far."""
        is_best = val_recall > self.best_val_recall
        if is_best:
            self.best_val_recall, self.best_epoch = val_recall, self.epoch_num
        self.epoch_num += 1
        self.begin_epoch()
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, under the official code's names where it has one.

        All processes must call it.
        """
        is_cuda = self.device.type == "cuda"
        return {
            "epoch_num": self.epoch_num,
            "progress": self.progress.state_dict(),
            "model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "objective_state_dict": self.objective.state_dict(),
            "best_val_recall": self.best_val_recall,
            "best_epoch": self.best_epoch,
            "scaler_state_dict": self.scaler.state_dict(),
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": torch.cuda.get_rng_state(self.device) if is_cuda else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state, with the learning rates given now."""
        self.epoch_num = state["epoch_num"]
        self.begin_epoch()
        self.progress.load_state_dict(state["progress"])
        self.best_val_recall, self.best_epoch = state["best_val_recall"], state["best_epoch"]
        self.network.load_state_dict(state["model_state_dict"])
        load_optimizer(self.optimizer, state["optimizer_state_dict"])
        self.objective.load_state_dict(state["objective_state_dict"])
        if state["scaler_state_dict"]:  # empty if the run did not scale
            self.scaler.load_state_dict(state["scaler_state_dict"])
        torch.set_rng_state(state["rng_state"])
        if state["cuda_rng_state"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng_state"], self.device)
        self._separate_generators()


def _with_synced_batch_norm(network: nn.Module) -> nn.Module:
    """Return a network that shares all tensors with another one and normalises over processes."""
    from timm.layers import convert_sync_batchnorm  # torch's, and that of timm's own layers

    tensors = chain(network.parameters(), network.buffers())
    return convert_sync_batchnorm(
        copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    )


def _gradients_of(optimizer: Optimizer) -> list[torch.Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.grad for p in parameters if p.grad is not None]


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))
