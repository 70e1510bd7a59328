"""What each process of a job computes, to be compared with one process; run by torchrun."""

import sys
from pathlib import Path

import torch
from torch import nn

import commons
from cosface_loss import MarginCosineProduct
from model import build_network
from training.collectives import join_rows, mean_over_processes, own_rows
from training.group_loss import GroupLoss, ShardedGroupLoss
from training.state import Optimization, Training
from training.synced_batch_norm import with_synced_batch_norm

BATCH, IN, CLASSES = 6, 5, 7  # of all processes together


def make_network() -> nn.Module:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, IN),
    )
    network[1].weight.data.uniform_(0.5, 2)
    return network.to(memory_format=torch.channels_last)


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(BATCH, 3, 6, 6, generator=generator) * 2 + 1
    return images, torch.randint(CLASSES, (BATCH,), generator=generator)


def make_head() -> MarginCosineProduct:
    torch.manual_seed(3)
    return MarginCosineProduct(IN, CLASSES)


def replicate(images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of network and head if each process has a whole head."""
    network, head = make_network(), make_head()
    model = nn.parallel.DistributedDataParallel(
        with_synced_batch_norm(network, torch.device("cpu")).train()
    )
    group_loss = nn.parallel.DistributedDataParallel(GroupLoss(head))
    group_loss(model(images), labels).backward()
    return [parameter.grad for parameter in (*network.parameters(), *head.parameters())]


def overflow_in_one_process() -> list[float]:
    """Step a split head whose scaled gradient is infinite in the last process only.

    Returns:
        The next scale of each process, and how much its part of the head has changed.
    """
    optimization = Optimization(use_amp16=True, shard_classifier=True)
    training = Training(
        build_network("ResNet18", 8, backbone_weights="none"),
        [CLASSES],
        optimization,
        torch.device("cpu"),
    )
    with training.current_head() as (group_loss, optimizer):
        weight = group_loss.head.weight
        before = weight.detach().clone()
        training.scaler.scale(weight.sum()).backward()
        if commons.rank() == commons.num_ranks() - 1:
            weight.grad[0, 0] = torch.inf
        training.scaler.step(optimizer)
        training.scaler.update()
    change = (weight.detach() - before).abs().max().item()
    own = torch.tensor([[training.scaler.get_scale(), change]])
    return join_rows(own, commons.num_ranks()).tolist()


def main() -> None:
    """Do a step with batch norm over processes and a head that is split; save what came out."""
    images, labels = (tensor[own_rows(BATCH)] for tensor in make_batch())
    network, head = make_network(), make_head()
    head.weight = nn.Parameter(head.weight.detach()[own_rows(CLASSES)].clone())
    model = nn.parallel.DistributedDataParallel(
        with_synced_batch_norm(network, torch.device("cpu")).train()
    )
    group_loss = ShardedGroupLoss(head, CLASSES)
    descriptors = model(images)
    loss = group_loss(descriptors, labels)
    loss.backward()
    all_images, all_labels = make_batch()
    whole = make_network().train()(all_images).detach()
    replicated = replicate(images, labels)
    result = {
        "loss": loss.detach(),
        "mean_of_ranks": mean_over_processes(torch.tensor(float(commons.rank()))),
        "descriptors": join_rows(descriptors.detach(), BATCH),
        "logits": join_rows(group_loss.logits(whole, all_labels).detach().T, CLASSES).T,
        "replicated": replicated,
        "overflow": overflow_in_one_process(),
        "head_gradient": join_rows(head.weight.grad, CLASSES),
        "gradients": [parameter.grad for parameter in network.parameters()],
        "statistics": network[1].state_dict(),
        "in_eval_mode": network.eval()(all_images).detach(),
    }
    if commons.rank() == 0:
        torch.save(result, Path(sys.argv[1]))


if __name__ == "__main__":
    commons.run_command(main)
