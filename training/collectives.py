"""Tensors that several processes have parts of."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import commons


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes; its gradients are summed as well."""
    return tensor if commons.num_ranks() == 1 else _SumOverProcesses.apply(tensor)


def mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    return sum_over_processes(tensor.detach()) / commons.num_ranks()


def gather_batches(tensor: torch.Tensor) -> torch.Tensor:
    """Return the batches [B, ...] of all processes as one, [num_ranks * B, ...]."""
    places = tensor.new_zeros((commons.num_ranks(), *tensor.shape))
    places[commons.rank()] = tensor
    return sum_over_processes(places).flatten(0, 1)


def own_rows(num_rows: int) -> slice:
    """Return the rows that this process holds of a tensor that is split over all of them."""
    return _rows_of(commons.rank(), num_rows)


def _rows_of(rank: int, num_rows: int) -> slice:
    count = commons.num_ranks()
    return slice(rank * num_rows // count, (rank + 1) * num_rows // count)


def join_rows(rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Put together a tensor that is split over processes; all of them must call this.

    Returns:
        All rows in the main process, in the others those that they gave.
    """
    if commons.num_ranks() == 1:
        return rows
    most = -(-num_rows // commons.num_ranks())  # parts must be of one size to be gathered
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: len(rows)] = rows
    if commons.rank() > 0:
        dist.gather(padded)
        return rows
    parts = [torch.empty_like(padded) for _ in range(commons.num_ranks())]
    dist.gather(padded, parts)
    slices = [_rows_of(rank, num_rows) for rank in range(commons.num_ranks())]
    return torch.cat(
        [part[: own.stop - own.start] for part, own in zip(parts, slices, strict=True)]
    )


def map_matrices(state: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a state dict with its matrices changed; all else, nested as it is, stays."""
    if isinstance(state, dict):
        return {key: map_matrices(value, change) for key, value in state.items()}
    is_matrix = torch.is_tensor(state) and state.dim() == 2
    return change(state) if is_matrix else state
