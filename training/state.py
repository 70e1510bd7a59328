"""All that changes while training."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

import commons
from cosface_loss import MarginCosineProduct
from model import GeoLocalizationNet
from model.precision import AMP_DTYPES, check_amp_dtype
from training.collectives import join_rows, map_matrices, own_rows, sum_over_processes
from training.group_loss import GroupLoss, ShardedGroupLoss
from training.progress import Progress
from training.synced_batch_norm import with_synced_batch_norm


@dataclass(frozen=True)
class Optimization:
    """How a network and its heads are trained."""

    lr: float = 1e-5  # of the network
    classifiers_lr: float = 0.01  # of the heads
    use_amp16: bool = False  # mixed precision
    amp_dtype: str = "fp16"  # its 16-bit type, a key of AMP_DTYPES
    max_grad_norm: float | None = None  # of the network and a head together; longer are shortened
    freeze_bn: bool = False  # frozen layers keep their BatchNorm statistics; not as in the paper
    shard_classifier: bool = False  # each process holds its share of the classes of a head
    compile: bool = False  # the network, by torch.compile

    def check(self, device: torch.device) -> None:
        """Raise a ValueError if mixed precision does not pay on a device."""
        if self.use_amp16:
            check_amp_dtype(self.amp_dtype, device)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The 16-bit type of mixed precision; None for 32 bits."""
        return AMP_DTYPES[self.amp_dtype] if self.use_amp16 else None


class Training:
    """All that changes while training: what a checkpoint holds.

    Under torchrun, each process has one, for its share of each batch: gradients are averaged and
    BatchNorm sees the whole batch, so that the number of processes changes nothing but what layers
    draw at random, if a network has such.
    """

    def __init__(
        self,
        network: GeoLocalizationNet,
        class_counts: Sequence[int],
        optimization: Optimization,
        device: torch.device,
    ) -> None:
        """Put the network on the device and make a CosFace head for each group.

        Args:
            network: What is trained.
            class_counts: Number of classes of each group.
            optimization: How it is trained.
            device: Where to train.

        Raises:
            ValueError: If there are more processes than classes to share.
        """
        if optimization.shard_classifier and min(class_counts) < commons.num_ranks():
            raise ValueError(
                f"--shard_classifier: a group has {min(class_counts)} classes, fewer than the "
                f"{commons.num_ranks()} processes that would share them"
            )
        self.device = device
        self.optimization = optimization
        self.network = network.to(device, memory_format=torch.channels_last)
        self.model = self._parallel_network()  # what is called: the same tensors
        self.class_counts = class_counts
        scaler = ShardedGradScaler if self.is_sharded else torch.amp.GradScaler
        self.scaler = scaler(device.type, enabled=optimization.autocast_dtype is torch.float16)
        self.optimizer = self._adam(network, optimization.lr)
        self.heads = [self._make_head(count) for count in class_counts]
        self.head_optimizers = [
            self._adam(head, optimization.classifiers_lr) for head in self.heads
        ]
        self.epoch_num = 0  # epochs that are done
        self.begin_epoch()
        self.best_val_recall1, self.best_epoch = -1.0, -1
        self._separate_generators()

    def begin_epoch(self) -> None:
        """Forget the iterations that are done of the current epoch."""
        skips_steps = self.scaler.is_enabled()
        self.progress = Progress(self.epoch_num, self.device, skips_steps)

    def _parallel_network(self) -> nn.Module:
        model: nn.Module = self.network
        if commons.num_ranks() > 1:
            model = with_synced_batch_norm(model, self.device)
            model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return torch.compile(model) if self.optimization.compile else model

    def _make_head(self, num_classes: int) -> MarginCosineProduct:
        head = MarginCosineProduct(self.network.out_dim, num_classes)
        if self.is_sharded:
            head.weight = nn.Parameter(head.weight.detach()[own_rows(num_classes)].clone())
        return head

    def _adam(self, module: nn.Module, learning_rate: float) -> Adam:
        parameters = [p for p in module.parameters() if p.requires_grad]
        is_fused = self.device.type in ("cpu", "cuda")  # one pass over the weights
        if self.is_sharded and self.optimization.autocast_dtype is torch.float16:
            is_fused = False  # the scaler does not ask other processes whether theirs overflowed
        return Adam(parameters, learning_rate, fused=is_fused)

    def _separate_generators(self) -> None:
        """Let layers that draw at random do so on their own in each process."""
        if commons.rank() > 0:
            iterations = (self.epoch_num << 24) + self.progress.iteration
            torch.manual_seed(torch.initial_seed() + (iterations << 12) + commons.rank())

    @property
    def is_sharded(self) -> bool:
        """Whether each process has its share of the classes."""
        return self.optimization.shard_classifier and commons.num_ranks() > 1

    @property
    def current_group(self) -> int:
        """The group whose turn it is."""
        return self.epoch_num % len(self.heads)

    @contextlib.contextmanager
    def current_head(self) -> Iterator[tuple[nn.Module, Adam]]:
        """Lend the loss of the current group and its optimizer; on the device only meanwhile."""
        head = self.heads[self.current_group]
        optimizer = self.head_optimizers[self.current_group]
        try:
            _move(head, optimizer, self.device)
            yield self._loss(head), optimizer
        finally:
            optimizer.zero_grad()
            _move(head, optimizer, torch.device("cpu"))

    def _loss(self, head: MarginCosineProduct) -> nn.Module:
        if self.is_sharded:
            return ShardedGroupLoss(head, self.class_counts[self.current_group])
        if commons.num_ranks() > 1:
            return DistributedDataParallel(GroupLoss(head), gradient_as_bucket_view=True)
        return GroupLoss(head)

    def step(self, loss: torch.Tensor, head_optimizer: Adam) -> torch.Tensor:
        """Move network and head against the gradient of a loss.

        A scaler leaves out the network, or the head, if its gradient is not finite.

        Args:
            loss: A scalar.
            head_optimizer: Of the current head.

        Returns:
            The length of the gradient of network and head, before it was limited. A scalar.
        """
        optimizers = (self.optimizer, head_optimizer)
        self.scaler.scale(loss).backward()
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        norm = self._limit_gradients(*map(_gradients_of, optimizers))
        for optimizer in optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        return norm

    def _limit_gradients(
        self, of_network: Sequence[torch.Tensor], of_head: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Shorten a gradient that is too long; return its length."""
        head_norm = _norm(of_head)
        if self.is_sharded:  # each process has some rows of the head
            head_norm = sum_over_processes(head_norm.square()).sqrt()
        norms = torch.stack((_norm(of_network), head_norm))
        if self.optimization.max_grad_norm is not None:
            # Of two, a scaler leaves out the one that is not finite: the other is as it should be.
            length = torch.linalg.vector_norm(norms.where(norms.isfinite(), 0))
            factor = (self.optimization.max_grad_norm / (length + 1e-6)).clamp(max=1)
            for gradient in (*of_network, *of_head):
                gradient.mul_(factor)
        return torch.linalg.vector_norm(norms)

    def to_train_mode(self) -> None:
        """Let BatchNorm take statistics of the batches; that of frozen layers only if asked for."""
        self.model.train()
        for layer in self.model.modules() if self.optimization.freeze_bn else ():
            if isinstance(layer, _BatchNorm) and not layer.weight.requires_grad:
                layer.eval()

    def end_epoch(self, val_recall1: float) -> bool:
        """Count an epoch; return whether its network is the best so far."""
        is_best = val_recall1 > self.best_val_recall1
        if is_best:
            self.best_val_recall1, self.best_epoch = val_recall1, self.epoch_num
        self.epoch_num += 1
        self.begin_epoch()
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, under the official code's names where it has one.

        All processes must call it if heads are split over them; the main one gets them whole.
        """
        return {
            "epoch_num": self.epoch_num,
            "progress": self.progress.state_dict(),
            "model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "classifiers_state_dict": self._whole(self.heads),
            "optimizers_state_dict": self._whole(self.head_optimizers),
            "best_val_recall1": self.best_val_recall1,
            "best_epoch": self.best_epoch,
            "scaler_state_dict": self.scaler.state_dict(),
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }

    def _whole(self, parts: Sequence[MarginCosineProduct | Adam]) -> list[dict[str, Any]]:
        states = [part.state_dict() for part in parts]
        if not self.is_sharded:
            return states
        return [
            map_matrices(state, partial(join_rows, num_rows=count))
            for state, count in zip(states, self.class_counts, strict=True)
        ]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the learning rates given now."""
        self.epoch_num = state["epoch_num"]
        self.begin_epoch()
        self.progress.load_state_dict(state["progress"])
        self.best_val_recall1, self.best_epoch = state["best_val_recall1"], state["best_epoch"]
        self.network.load_state_dict(state["model_state_dict"])
        _load_adam(self.optimizer, state["optimizer_state_dict"], self.optimization.lr)
        heads = self._own_parts(state["classifiers_state_dict"])
        moments = self._own_parts(state["optimizers_state_dict"])
        for number, (head, adam) in enumerate(zip(self.heads, self.head_optimizers, strict=True)):
            head.load_state_dict(heads[number])
            _load_adam(adam, moments[number], self.optimization.classifiers_lr)
        if state["scaler_state_dict"]:  # empty if the run did not scale
            self.scaler.load_state_dict(state["scaler_state_dict"])
        torch.set_rng_state(state["rng_state"])
        if state["cuda_rng_state"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng_state"], self.device)
        self._separate_generators()

    def _own_parts(self, states: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        if not self.is_sharded:
            return states
        return [
            map_matrices(state, lambda whole: whole[own_rows(len(whole))].clone())
            for state in states
        ]


def _gradients_of(optimizer: Adam) -> list[torch.Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.grad for p in parameters if p.grad is not None]


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


def _load_adam(optimizer: Adam, state: dict[str, Any], learning_rate: float) -> None:
    """Go on with the moments of a state, but as the optimizer was made now."""
    own = {"lr": learning_rate, "fused": optimizer.defaults["fused"]}
    groups = [group | own for group in state["param_groups"]]
    optimizer.load_state_dict(state | {"param_groups": groups})


def _move(head: MarginCosineProduct, optimizer: Adam, device: torch.device) -> None:
    if head.weight.device.type != device.type:
        head.to(device)
        optimizer.load_state_dict(optimizer.state_dict())  # moments go where the weights are
