"""Work that the processes of torchrun share: each describes and searches a shard of the images."""

from typing import TypeVar

import torch.distributed as dist

import commons

T = TypeVar("T")


def own_shard(num_images: int, unit: int) -> range:
    """Return the images that are this process's: all of them, if there is no other process.

    Args:
        num_images: Of all processes.
        unit: Shards begin and end with multiples of it, but for the end of the last one.

    Returns:
        A range; an empty one where there are fewer units than processes.
    """
    num_units, num_ranks = -(-num_images // unit), commons.num_ranks()
    first, last = (
        min(-(-num_units * rank // num_ranks) * unit, num_images)
        for rank in (commons.rank(), commons.rank() + 1)
    )
    return range(first, last)


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; waits for all of them.

    Args:
        value: Of this process; can be pickled.
    """
    if commons.num_ranks() == 1:
        return [value]
    values = [value] * commons.num_ranks()
    dist.all_gather_object(values, value)
    return values
