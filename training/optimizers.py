"""The optimizer of a network, and its learning rates by part and by epoch."""

import math
from collections.abc import Mapping
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
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # pattern -> factor of `lr`
    no_weight_decay: tuple[str, ...] = ()  # patterns of parameters without decay

    def __post_init__(self) -> None:
        """Raise a ValueError if a number is out of its range."""
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum must be in 0 to 1, 1 excluded, it is {self.momentum}")
        bad = {name: factor for name, factor in self.lr_factors.items() if not _is_rate(factor)}
        if bad:
            raise ValueError(f"--lr_factors must be numbers of at least 0, not {bad}")

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr * self.lr_gamma ** (epoch // self.lr_step)


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
    set_epoch(optimizer, params, epoch=0)
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


def set_epoch(optimizer: Optimizer, params: OptimizerParams, epoch: int) -> None:
    """Give an optimizer of `make_optimizer` the learning rates of an epoch."""
    for group in optimizer.param_groups:
        group["lr"] = params.lr_at(epoch) * group["lr_factor"]


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
