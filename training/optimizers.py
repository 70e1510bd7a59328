"""The optimizer of a network, and its learning rates by part and by epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

OPTIMIZERS = ("adam", "adamw", "sgd")  # `adam` adds its weight decay to the gradient


@dataclass(frozen=True)
class OptimizerParams:
    """How a network is moved against its gradient.

    Patterns are those of a shell, of names of parameters: "aggregation.crn.*", "*.bias".
    """

    optimizer: str = "adam"  # one of OPTIMIZERS
    lr: float = 1e-5  # learning rate
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    lr_step: int = 1  # epochs after which, again and again, learning rates are multiplied ...
    lr_gamma: float = 1.0  # ... by this
    lr_milestones: Sequence[int] = ()  # if any: multiplied by it at each of these epochs instead
    lr_warmup: int = 0  # first iterations, over which learning rates rise from 0
    lr_warmup_epochs: int = 0  # the same in epochs
    lr_linear: int = 0  # iterations over which they fall from 1 to `lr_end`, as factors
    lr_end: float = 1.0
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # pattern -> factor of `lr`
    no_weight_decay: tuple[str, ...] = ()  # patterns of parameters without decay

    def __post_init__(self) -> None:
        """Raise a ValueError if a number is out of its range."""
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum must be in 0 to 1, 1 excluded, it is {self.momentum}")
        bad = {name: factor for name, factor in self.lr_factors.items() if not _is_rate(factor)}
        if bad:
            raise ValueError(f"--lr_factors must be numbers of at least 0, not {bad}")
        if self.lr_milestones and self.lr_step != 1:
            raise ValueError("--lr_step and --lr_milestones both say when --lr_gamma applies")
        if self.lr_milestones and self.lr_gamma == 1:
            raise ValueError(
                "--lr_milestones changes nothing while --lr_gamma is 1: give its factor, or leave "
                "--lr_milestones empty"
            )
        if self.lr_warmup and self.lr_warmup_epochs:
            raise ValueError(
                "--lr_warmup and --lr_warmup_epochs both say how long the warm-up is: set one to 0"
            )
        if bool(self.lr_linear) != (self.lr_end != 1):
            raise ValueError(
                "--lr_linear says over how many iterations --lr_end is reached: give both"
            )

    def lr_at(self, epoch: int, iteration: int = 0, per_epoch: int = 1) -> float:
        """Return the learning rate of an iteration, a function of nothing else.

        Warm-up, steps by epochs and the linear fall multiply. That fall counts the end of an epoch
        as an iteration, too, as SALAD's training does.

        Args:
            epoch: Counted from 0.
            iteration: Of the epoch, counted from 0.
            per_epoch: Iterations of an epoch.
        """
        done = epoch * per_epoch + iteration
        warmup = self.lr_warmup or self.lr_warmup_epochs * per_epoch
        factor = min(1.0, (done + 1) / warmup) if warmup else 1.0
        milestones = self.lr_milestones
        num_steps = sum(epoch >= one for one in milestones) if milestones else epoch // self.lr_step
        factor *= self.lr_gamma**num_steps
        if self.lr_linear:
            factor *= 1 + (self.lr_end - 1) * min(1.0, (done + epoch) / self.lr_linear)
        return self.lr * factor


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def make_optimizer(network: nn.Module, params: OptimizerParams, device: torch.device) -> Optimizer:
    """Make the optimizer of the trained parameters of a network.

    Parameters with one factor and one decay share a group; its entry `lr_factor` is the factor.

    Raises:
        ValueError: If a pattern fits no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    unused = [
        pattern
        for pattern in (*params.lr_factors, *params.no_weight_decay)
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unused:
        raise ValueError(
            f"No parameter of the network is called {' or '.join(unused)}: --lr_factors and "
            f"--no_weight_decay take patterns of names such as {names[-1]}"
        )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            fitting = [f for pattern, f in params.lr_factors.items() if fnmatchcase(name, pattern)]
            decays = not any(fnmatchcase(name, pattern) for pattern in params.no_weight_decay)
            key = (fitting[-1] if fitting else 1.0, params.weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    optimizer = _make(params, device)(
        [
            {"params": parameters, "weight_decay": decay, "lr_factor": factor}
            for (factor, decay), parameters in groups.items()
        ]
    )
    set_learning_rates(optimizer, params.lr_at(epoch=0))
    return optimizer


def _make(params: OptimizerParams, device: torch.device):  # noqa: ANN202
    is_fused = device.type in ("cpu", "cuda")  # one pass over the weights
    if params.optimizer == "sgd":
        return lambda groups: SGD(groups, params.lr, params.momentum, fused=is_fused)
    kind = {"adam": Adam, "adamw": AdamW}[params.optimizer]
    return lambda groups: kind(groups, params.lr, fused=is_fused)


def adam(module: nn.Module, learning_rate: float, device: torch.device) -> Optimizer:
    """Make Adam, without weight decay, of the trained parameters of a module."""
    return make_optimizer(module, OptimizerParams(lr=learning_rate), device)


def set_learning_rates(optimizer: Optimizer, learning_rate: float) -> None:
    """Give the parts of an optimizer of `make_optimizer` a learning rate, times their factors."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


_ADAM = {"step", "exp_avg", "exp_avg_sq"}  # its state of a parameter


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load the moments of a state; learning rates and the like stay as the optimizer has them.

    Raises:
        ValueError: If they are not those of its parameters. Fused optimizers would not look.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {}
    for index, values in state["state"].items():
        if index not in range(len(parameters)):
            raise ValueError(f"the optimizer has no parameter {index}")
        if isinstance(optimizer, (Adam, AdamW)) and set(values) != _ADAM:
            raise ValueError(f"the optimizer has {', '.join(map(str, values))} of a parameter")
        parameter = parameters[index]
        moments[index] = {n: _check_moment(n, one, parameter) for n, one in values.items()}
    own_groups = optimizer.state_dict()["param_groups"]
    if [g["params"] for g in own_groups] != [g["params"] for g in state["param_groups"]]:
        raise ValueError("the optimizer has its parameters in other groups")
    groups = [
        own | {"params": saved["params"]}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "state": moments, "param_groups": groups})


def _check_moment(name: str, value: Any, parameter: torch.Tensor) -> Any:
    """Return a moment with the memory layout of its parameter, on which fused kernels rely."""
    if value is None or name == "step" and isinstance(value, (int, float)):
        return value
    shape = [] if name == "step" else list(parameter.shape)
    is_real = torch.is_tensor(value) and value.is_floating_point()
    if not is_real or list(value.shape) != shape:
        found = list(value.shape) if is_real else f"a {getattr(value, 'dtype', type(value))}"
        raise ValueError(f"{name} of the optimizer is {found}, its parameter {shape}")
    if name == "step":
        return value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def move(module: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
    """Bring a module and the moments of its optimizer to a device."""
    if next(module.parameters()).device.type != device.type:
        module.to(device)
        optimizer.load_state_dict(optimizer.state_dict())  # moments go where the weights are
