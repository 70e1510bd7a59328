"""What each process of a job computes, to be compared with one process."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

import commons
from cosface_loss import MarginCosineProduct
from training.metrics import sum_over_processes

BATCH, IN, CLASSES = 6, 5, 7  # of all processes together


def make_network() -> nn.Module:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, IN),
    )
    return network.to(memory_format=torch.channels_last)


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(BATCH, 3, 6, 6, generator=generator) * 2 + 1
    return images, torch.randint(CLASSES, (BATCH,), generator=generator)


def make_head() -> MarginCosineProduct:
    torch.manual_seed(3)
    return MarginCosineProduct(IN, CLASSES)


def main(argv: Sequence[str]) -> None:
    """Do a step with the network and the head in each process; save the gradients to a file."""
    rank, num_ranks = commons.rank(), commons.num_ranks()
    images, labels = (tensor[rank::num_ranks] for tensor in make_batch())
    network, head = make_network(), make_head()
    model, parallel_head = (nn.parallel.DistributedDataParallel(part) for part in (network, head))
    F.cross_entropy(parallel_head(model(images), labels), labels).backward()
    parameters = (*network.parameters(), *head.parameters())
    result = {
        "sum_of_ranks": sum_over_processes(torch.tensor(float(rank))),
        "gradients": [parameter.grad for parameter in parameters],
    }
    if rank == 0:
        torch.save(result, argv[0])
